"""Two columns: seconds and Mbit/s (Pensieve, FCC, Norway, Lumos5G), and Oboe's pairs of `t_ms kbit/s`."""

from __future__ import annotations

import numpy as np

from traces.errors import TraceError, quoted
from traces.formats.lines import number, numbered
from traces.formats.samples import ReadOptions, Samples, build_traces
from traces.formats.table import unit_rate_bps, unit_time_s
from traces.trace import FloatArray, Trace


def read_columns(text: str, name: str, options: ReadOptions) -> list[Trace]:
    """Seconds and Mbit/s, unless the options name other units."""
    times, rates, lines = _pairs(text, name)
    seconds = times * unit_time_s(options.time_unit or "s")
    factor = unit_rate_bps(options.rate_unit or "Mbit/s")
    samples = Samples(name, seconds, rates * (factor or 8.0), lines, per_step_bits=factor is None)
    return build_traces(samples, options)


def read_oboe(text: str, name: str, options: ReadOptions) -> list[Trace]:
    """Pairs of lines `t_ms kbit/s`, the start and the end of one download at that rate.

    Between the end of one download and the start of the next nothing was measured: the rate before goes on.
    """
    times, rates, lines = _pairs(text, name)
    if len(times) % 2:
        raise TraceError(name, "ends in the middle of a pair", "Oboe's lines come in twos", lines[-1])
    unequal = np.flatnonzero(rates[::2] != rates[1::2])
    if len(unequal):
        raise TraceError(name, "the two rates of a pair differ", line=lines[int(unequal[0]) * 2 + 1])
    seconds, bps = times * unit_time_s(options.time_unit or "ms"), rates * (unit_rate_bps("kbit/s") or 1.0)
    starts = Samples(name, seconds[::2], bps[::2], lines[::2])
    *before, last = build_traces(starts, options)
    return [*before, _ending(last, float(seconds[-1] - seconds[-2]))]


def write_columns(trace: Trace) -> str:
    """Seconds, a tab, Mbit/s.

    The format cannot say how long the last step lasts: readers take the median step. So a last step that is longer
    is written as several lines.
    """
    step_s = float(np.median(np.diff(trace.starts_s))) if len(trace.starts_s) > 1 else trace.duration_s
    last_s = trace.duration_s - float(trace.starts_s[-1])
    more = max(0, round(last_s / step_s) - 1)
    starts = np.append(trace.starts_s, trace.starts_s[-1] + step_s * np.arange(1, more + 1))
    rates = np.append(trace.rates_bps, np.full(more, trace.rates_bps[-1]))
    return _rows(starts, rates / 1e6, "\t")


def write_oboe(trace: Trace) -> str:
    """Pairs of `t_ms kbit/s`: start and end of each step."""
    edges = np.append(trace.starts_s, trace.duration_s) * 1000.0
    times = np.column_stack([edges[:-1], edges[1:]]).ravel()
    return _rows(times, np.repeat(trace.rates_bps / 1e3, 2), " ")


def looks_like_oboe(times: FloatArray, rates: FloatArray) -> bool:
    """Whether lines come in pairs of equal rates, with times and rates of the size of ms and kbit/s."""
    if len(times) < 2 or len(times) % 2 or (rates[::2] != rates[1::2]).any():
        return False
    return float(np.median(np.diff(times))) >= 30 and float(np.median(rates)) >= 50


def _pairs(text: str, name: str) -> tuple[FloatArray, FloatArray, list[int]]:
    times: list[float] = []
    rates: list[float] = []
    lines: list[int] = []
    for line, content in numbered(text):
        words = content.replace(",", " ").split()
        if len(words) != 2:
            raise TraceError(name, f"{quoted(content)} is not two columns", "a time and a rate a line", line)
        times.append(number(words[0], name, line, "time"))
        rates.append(number(words[1], name, line, "rate"))
        lines.append(line)
    return np.array(times), np.array(rates), lines


def _ending(trace: Trace, last_s: float) -> Trace:
    """The same trace with the length of its last step known."""
    if last_s <= 0:
        return trace
    return Trace(trace.starts_s, trace.rates_bps, float(trace.starts_s[-1]) + last_s, trace.name, trace.loop)


def _rows(times: FloatArray, values: FloatArray, separator: str) -> str:
    rows = zip(times.tolist(), values.tolist(), strict=True)
    return "".join(f"{time!r}{separator}{value!r}\n" for time, value in rows)
