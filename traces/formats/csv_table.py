"""CSV logs with a time and a throughput column, with or without a header line."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass

import numpy as np

from traces.errors import TraceError, quoted
from traces.formats.lines import is_number, notes, number, numbered
from traces.formats.samples import ReadOptions, Samples, build_traces
from traces.formats.table import (
    MISSING,
    column_named,
    find_rate_column,
    find_time_column,
    guess_time_unit,
    parse_date,
    rate_unit_of,
    time_unit_of,
    unit_rate_bps,
    unit_time_s,
)
from traces.trace import FloatArray, Trace

Rows = list[tuple[int, list[str]]]


@dataclass(frozen=True)
class _Columns:
    """Which columns are read, and in what units (None: bytes per step; `time_s` None: to be guessed)."""

    time: int
    rate: int
    time_s: float | None
    rate_bps: float | None


def read_csv(text: str, name: str, options: ReadOptions) -> list[Trace]:
    """The runs of a CSV log.

    With a header, the columns are found by their names and so are units; a throughput without a unit is Mbit/s.
    Without one, two columns are a time in seconds and, when whole and large, bytes since the line before (else
    Mbit/s). Options override each of these. Rows whose value is missing are left out.

    Raises:
        TraceError: no such column; a row with too few columns or a value that is no number.
    """
    rows = _rows(text)
    if not rows:
        raise TraceError(name, "is empty")
    header = None if all(is_number(cell) for cell in rows[0][1] if cell) else rows[0]
    body = rows[1:] if header else rows
    columns = _from_header(header, name, options) if header else _without_header(body, name, options)
    samples = _samples(body, columns, name)
    return [_with_notes(trace, notes(text)) for trace in build_traces(samples, options)]


def write_csv(trace: Trace) -> str:
    """A header, one line a step in seconds and bit/s, and the duration in a comment, so that nothing is lost."""
    head = f"# duration_s={trace.duration_s!r}\ntime_s,throughput_bps\n"
    rows = zip(trace.starts_s.tolist(), trace.rates_bps.tolist(), strict=True)
    return head + "".join(f"{start!r},{rate!r}\n" for start, rate in rows)


def _rows(text: str) -> Rows:
    lines = numbered(text)
    first = lines[0][1] if lines else ""
    separator = next((mark for mark in (",", ";", "\t") if mark in first), None)
    if separator is None:
        return [(line, content.split()) for line, content in lines]
    # One line at a time: a quote left open must not swallow the rest of the file.
    cells = (next(csv.reader([content], delimiter=separator), []) for _, content in lines)
    return [(line, [cell.strip() for cell in row]) for (line, _), row in zip(lines, cells, strict=True)]


def _from_header(header: tuple[int, list[str]], name: str, options: ReadOptions) -> _Columns:
    line, titles = header
    time = column_named(titles, options.time_column, name, line) if options.time_column else find_time_column(titles)
    rate = column_named(titles, options.rate_column, name, line) if options.rate_column else find_rate_column(titles)
    if time is None or rate is None or time == rate:
        missing = "time" if time is None else "throughput"
        condition = f"has no column that looks like a {missing}"
        raise TraceError(name, condition, f"name one of: {', '.join(titles)}", line)
    time_unit = options.time_unit or time_unit_of(titles[time])
    rate_unit = options.rate_unit or rate_unit_of(titles[rate]) or "Mbit/s"
    return _Columns(time, rate, unit_time_s(time_unit) if time_unit else None, unit_rate_bps(rate_unit))


def _without_header(rows: Rows, name: str, options: ReadOptions) -> _Columns:
    line, first = rows[0]
    numbers = [str(index) for index in range(1, len(first) + 1)]
    if len(first) != 2 and not (options.time_column and options.rate_column):
        raise TraceError(name, f"has {len(first)} columns and no header", "name the time and the rate column", line)
    time = column_named(numbers, options.time_column or "1", name, line)
    rate = column_named(numbers, options.rate_column or "2", name, line)
    values = [row[rate] for _, row in rows if len(row) > rate]
    counts = [float(value) for value in values if re.fullmatch(r"\d+", value)]
    # Zeros say nothing of the unit, and half of a log may be zeros.
    busy = [count for count in counts if count > 0]
    looks_like_bytes = len(counts) == len(values) and bool(busy) and float(np.median(busy)) >= 1000
    unit = options.rate_unit or ("bytes" if looks_like_bytes else "Mbit/s")
    time_s = unit_time_s(options.time_unit) if options.time_unit else None
    return _Columns(time, rate, time_s, unit_rate_bps(unit))


def _samples(rows: Rows, columns: _Columns, name: str) -> Samples:
    times: list[float] = []
    values: list[float] = []
    lines: list[int] = []
    calendar: bool | None = None
    for line, cells in rows:
        if len(cells) <= max(columns.time, columns.rate):
            raise TraceError(name, f"has only {len(cells)} of its columns", line=line)
        if cells[columns.rate].lower() in MISSING:
            continue
        if calendar is None:
            calendar = not is_number(cells[columns.time])
        times.append(_time(cells[columns.time], calendar, name, line))
        values.append(number(cells[columns.rate], name, line, "rate"))
        lines.append(line)
    seconds = _seconds(np.array(times), columns.time_s, calendar is True)
    per_step = columns.rate_bps is None
    rates = np.array(values) * (8.0 if columns.rate_bps is None else columns.rate_bps)
    return Samples(name, seconds, rates, lines, calendar is True, per_step)


def _time(cell: str, calendar: bool, name: str, line: int) -> float:
    if not calendar:
        return number(cell, name, line, "time")
    moment = parse_date(cell)
    if moment is None:
        raise TraceError(name, f"time {quoted(cell)} is neither a number nor a date", line=line)
    return moment


def _seconds(times: FloatArray, unit_s: float | None, calendar: bool) -> FloatArray:
    if calendar or not len(times):
        return times
    if unit_s is None:
        steps = np.diff(times)
        forward = steps[steps > 0]
        whole = bool((times == np.round(times)).all())
        unit_s = unit_time_s(guess_time_unit(float(times[0]), float(np.median(forward)) if len(forward) else 1, whole))
    # Epoch times lose their fractions in a float once scaled: take the first away before.
    return np.asarray((times - times[0]) * unit_s, dtype=np.float64)


def _with_notes(trace: Trace, found: dict[str, str]) -> Trace:
    duration = found.get("duration_s", "")
    if not is_number(duration) or not float(trace.starts_s[-1]) < float(duration) < float("inf"):
        return trace
    return Trace(trace.starts_s, trace.rates_bps, float(duration), trace.name, trace.loop)
