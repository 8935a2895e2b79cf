"""From what a log holds (times and rates, line by line) to traces. The rules on gaps live here.

- A sample's rate holds from its time until the next sample's. So a short gap (missing seconds) is filled with the
  rate before it: nothing says that the link was down, and a tool that logs once a second skips seconds when busy.
- The last sample holds for the median step of its part.
- Samples with the same time are averaged: doubled rows are two readings of the same second.
- A jump of more than `max_gap_s` forward, or (with calendar times) any jump backward, ends one part and begins the
  next: several drives in one file. Other times that go backward are a broken file.
- Each part's time begins at 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from traces.errors import TraceError
from traces.trace import FloatArray, Trace

MAX_GAP_S = 30.0
"""Longest hole that still counts as missing lines; longer ones (or 20 median steps, if that is more) part two runs."""


@dataclass(frozen=True)
class ReadOptions:
    """How to read a file, where the file does not say so itself. None means: find out."""

    format: str | None = None
    """A name from `traces.formats.FORMATS`."""
    time_column: str | None = None
    """Name of the time column, or its number counted from 1."""
    rate_column: str | None = None
    """Name of the rate (or bytes) column, or its number counted from 1."""
    time_unit: str | None = None
    """s, ms, us, ns, min or h."""
    rate_unit: str | None = None
    """bit/s, kbit/s, Mbit/s, Gbit/s, the same of bytes, or `bytes` for bytes since the line before."""
    max_gap_s: float | None = None
    """Longest hole within one part."""
    loop: bool = True
    """Whether the trace begins again at its end."""


@dataclass(frozen=True)
class Samples:
    """What a log held."""

    name: str
    times_s: FloatArray
    rates_bps: FloatArray
    lines: list[int]
    """Line number of each sample, for messages."""
    calendar: bool = False
    """Whether the times were dates, so that a jump backward means another run."""
    per_step_bits: bool = False
    """Whether `rates_bps` holds bits since the line before, still to be divided by the step."""


def build_traces(samples: Samples, options: ReadOptions) -> list[Trace]:
    """All the runs of a log as traces; names get `#1`, `#2`... where there are several.

    Raises:
        TraceError: no sample at all; a negative or infinite rate; a time that goes backward.
    """
    _check(samples)
    steps = np.diff(samples.times_s)
    forward = steps[steps > 0]
    step_s = float(np.median(forward)) if len(forward) else 1.0
    limit_s = options.max_gap_s or max(MAX_GAP_S, 20 * step_s)
    backward = np.flatnonzero(steps < 0)
    if len(backward) and not samples.calendar:
        at = int(backward[0]) + 1
        raise TraceError(samples.name, "time goes backward", "sort the lines or cut the file", samples.lines[at])
    cuts = [0, *(np.flatnonzero((steps < 0) | (steps > limit_s)) + 1).tolist(), len(samples.times_s)]
    parts = [slice(first, last) for first, last in pairwise(cuts)]
    names = [samples.name] if len(parts) == 1 else [f"{samples.name}#{n}" for n in range(1, len(parts) + 1)]
    return [_part(samples, where, name, step_s, options) for where, name in zip(parts, names, strict=True)]


def _part(samples: Samples, where: slice, name: str, step_s: float, options: ReadOptions) -> Trace:
    times, rates = samples.times_s[where], samples.rates_bps[where]
    times, first_rows, counts = np.unique(times, return_index=True, return_counts=True)
    rates = np.add.reduceat(rates, first_rows) / (1 if samples.per_step_bits else counts)
    if len(times) > 1:
        step_s = float(np.median(np.diff(times)))
    if samples.per_step_bits:
        rates = rates / step_s
    starts = times - times[0]
    return Trace(starts, rates, float(starts[-1] + step_s), name, options.loop)


def _check(samples: Samples) -> None:
    if not len(samples.times_s):
        raise TraceError(samples.name, "holds no sample", "look at the file and name its format and columns")
    for values, what in ((samples.times_s, "time"), (samples.rates_bps, "rate")):
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            raise TraceError(samples.name, f"the {what} is not finite", line=samples.lines[int(bad[0])])
    bad = np.flatnonzero(samples.rates_bps < 0)
    if len(bad):
        raise TraceError(samples.name, "the rate is negative", line=samples.lines[int(bad[0])])
