"""Trace files: one reader and one writer per format, and finding out which one a file is in."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from traces.errors import TraceError, quoted
from traces.formats.columns import looks_like_oboe, read_columns, read_oboe, write_columns, write_oboe
from traces.formats.csv_table import read_csv, write_csv
from traces.formats.lines import is_number, numbered, read_text
from traces.formats.mahimahi import looks_like_mahimahi, read_mahimahi, write_mahimahi
from traces.formats.samples import ReadOptions
from traces.trace import Trace

__all__ = ["FORMATS", "ReadOptions", "detect_format", "parse_traces", "read_trace", "read_traces", "write_trace"]


@dataclass(frozen=True)
class Format:
    """One file format."""

    read: Callable[[str, str, ReadOptions], list[Trace]]
    """(text, name, options) to the runs in it."""
    write: Callable[[Trace], str]
    """A trace to text."""
    about: str


FORMATS = {
    "mahimahi": Format(read_mahimahi, write_mahimahi, "one millisecond a line, 1500 bytes each"),
    "columns": Format(read_columns, write_columns, "two columns: seconds and Mbit/s (Pensieve, FCC)"),
    "oboe": Format(read_oboe, write_oboe, "pairs of lines: ms and kbit/s, start and end"),
    "csv": Format(read_csv, write_csv, "time and throughput columns"),
}

_SUFFIXES = {".csv": "csv", ".down": "mahimahi", ".up": "mahimahi", ".mahi": "mahimahi", ".oboe": "oboe"}


def detect_format(text: str, name: str) -> str:
    """The format of a file's text, by its first lines (and for Oboe's pairs, all of them).

    Raises:
        TraceError: an empty file, or lines that are like none of the formats.
    """
    lines = numbered(text)
    if not lines:
        raise TraceError(name, "is empty")
    head = [line.split() for _, line in lines[:20]]
    if looks_like_mahimahi(head[:1]):
        return "mahimahi"
    if any(mark in lines[0][1] for mark in ",;") or not all(is_number(word) for word in head[0]):
        if len(lines) > 1 and not any(mark in lines[0][1] for mark in ",;\t ") and not is_number(head[0][0]):
            raise TraceError(name, f"{quoted(lines[0][1])} is like no known format", _mend(), lines[0][0])
        return "csv"
    if len(head[0]) != 2:
        raise TraceError(name, f"{quoted(lines[0][1])} is like no known format", _mend(), lines[0][0])
    pairs = [line.split() for _, line in lines]
    if all(len(pair) == 2 and is_number(pair[0]) and is_number(pair[1]) for pair in pairs):
        values = np.array(pairs, dtype=np.float64)
        if looks_like_oboe(values[:, 0], values[:, 1]):
            return "oboe"
    return "columns"


def parse_traces(text: str, name: str, options: ReadOptions | None = None) -> list[Trace]:
    """All runs in a file's text.

    Raises:
        TraceError: a broken file, with the line number; an unknown format.
    """
    options = options or ReadOptions()
    return _format(options.format or detect_format(text, name)).read(text, name, options)


def read_traces(path: Path | str, options: ReadOptions | None = None) -> list[Trace]:
    """All runs of a file (`.gz` is unpacked). Logs of several drives hold several; most files hold one."""
    path = Path(path)
    return parse_traces(read_text(path), path.name, options)


def read_trace(path: Path | str, options: ReadOptions | None = None, part: int | None = None) -> Trace:
    """One run of a file: the `part`th, counted from 1, or the first.

    Raises:
        TraceError: a broken file, or a file with fewer runs.
    """
    traces = read_traces(path, options)
    if not 1 <= (part or 1) <= len(traces):
        raise TraceError(f"{path}#{part}", f"the file holds {len(traces)} runs", f"give #1 to #{len(traces)}")
    return traces[(part or 1) - 1]


def write_trace(trace: Trace, path: Path | str, format: str | None = None) -> Path:
    """Writes a trace in a format, or in the one that the file's name suggests (else two columns)."""
    path = Path(path)
    plain = path.with_suffix("") if path.suffix == ".gz" else path
    text = _format(format or _SUFFIXES.get(plain.suffix, "columns")).write(replace(trace, name=plain.name))
    try:
        path.write_bytes(gzip.compress(text.encode(), mtime=0) if path.suffix == ".gz" else text.encode())
    except OSError as error:
        raise TraceError(str(path), f"cannot be written: {error.strerror}") from None
    return path


def _format(name: str) -> Format:
    if name not in FORMATS:
        raise TraceError(f"format {quoted(name)}", "is unknown", f"use one of {', '.join(FORMATS)}")
    return FORMATS[name]


def _mend() -> str:
    return f"name the format: {', '.join(FORMATS)}"
