"""mahimahi's format: one line per delivery opportunity of 1500 bytes, the millisecond at which it comes.

An opportunity at millisecond t is spread over the millisecond that ends at t, so that by every whole millisecond
as many bits have passed here as in mahimahi. (Those at 0 are given the first millisecond.) The last line is also
the length of the loop, as in mahimahi's own link shell, which adds it to every line of the next pass.
"""

from __future__ import annotations

import math

import numpy as np

from traces.errors import TraceError, quoted
from traces.formats.lines import numbered
from traces.formats.samples import ReadOptions
from traces.trace import Trace

PACKET_BITS = 1500 * 8
MAX_MS = 10**10
"""Latest time that is believed (115 days)."""


def read_mahimahi(text: str, name: str, options: ReadOptions) -> list[Trace]:
    """The file as one trace with steps of whole milliseconds.

    Raises:
        TraceError: a line that is no whole number of milliseconds, or a time before the line above.
    """
    times = _times_ms(text, name)
    if not len(times):
        raise TraceError(name, "holds no delivery opportunity")
    if times[-1] <= 0:
        raise TraceError(name, "all opportunities come at 0 ms", "a loop needs a length: end with a later time")
    at_ms, counts = np.unique(np.maximum(times, 1), return_counts=True)
    # Each busy millisecond opens a step at t-1, and an empty one follows at t unless the next is busy too.
    edges = np.unique(np.concatenate([[0], at_ms - 1, at_ms]))[:-1]
    rates = np.zeros(len(edges))
    rates[np.searchsorted(edges, at_ms - 1)] = counts * (PACKET_BITS * 1000.0)
    return [Trace(edges / 1000.0, rates, float(times[-1]) / 1000.0, name, options.loop)]


def write_mahimahi(trace: Trace) -> str:
    """The trace as mahimahi lines: an opportunity each time that another 1500 bytes have passed, rounded up to 1 ms.

    The last line is at the end of the trace, since it sets the loop; it carries what is left of a packet.

    Raises:
        TraceError: a trace shorter than 1 ms or without any capacity.
    """
    end_ms = round(trace.duration_s * 1000)
    if end_ms < 1 or trace.total_bits <= 0:
        raise TraceError(trace.name, "cannot be told as delivery opportunities", "it needs capacity and at least 1 ms")
    once = trace.looping(False)
    edges_ms = np.append(np.arange(end_ms) / 1000.0, trace.duration_s)
    passed = np.floor(once.bits_between(0.0, edges_ms) / PACKET_BITS + 1e-6).astype(np.int64)
    # The last opportunity takes up the part of a packet that is left, or ends the loop with a packet of its own.
    if passed[-1] == passed[-2] or trace.total_bits / PACKET_BITS - passed[-1] > 0.5:
        passed[-1] += 1
    times = np.repeat(np.arange(1, end_ms + 1), np.diff(passed))
    return "\n".join(map(str, times.tolist())) + "\n"


def looks_like_mahimahi(words: list[list[str]]) -> bool:
    """Whether the first lines of a file are single whole numbers."""
    return all(len(line) == 1 and line[0].lstrip("+-").isdigit() for line in words)


def _times_ms(text: str, name: str) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    times: list[int] = []
    last = 0
    for line, word in numbered(text):
        if not word.isascii() or not word.isdigit() or len(word) > math.ceil(math.log10(MAX_MS)):
            raise TraceError(name, f"{quoted(word)} is not a whole number of milliseconds", line=line)
        value = int(word)
        if value < last:
            raise TraceError(name, f"time goes backward, from {last} to {value} ms", "sort the lines", line)
        times.append(value)
        last = value
    return np.array(times, dtype=np.int64)
