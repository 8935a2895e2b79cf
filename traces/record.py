"""From what a live run measured to a trace, so that a bad day in the field can be replayed at the desk."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from traces.errors import TraceError
from traces.formats import write_trace
from traces.trace import Trace

STEP_S = 1.0
"""Length of a recorded step: as fine as link reports come, and as the public data sets are."""


class TraceRecorder:
    """Collects deliveries or throughput estimates of one direction of a link, and makes a trace of them.

    Deliveries say how many bits passed and how long the link was busy with them; an estimate is a rate that holds
    from its time on; a silence is an outage. Within a step, deliveries go before estimates, since they are what was
    seen, and what was silent of it carried nothing. In a step of which nothing is known the rate before goes on, as
    everywhere in this package; behind a silence, that from before it.

    Times are any clock's, in seconds; a little disorder does not matter. Memory grows with the length of the run
    (one entry a step), not with the number of calls.
    """

    def __init__(self, name: str = "recorded", step_s: float = STEP_S) -> None:
        if not 0 < step_s < math.inf:
            raise TraceError(name, f"a step of {step_s!r} s is no time")
        self.name = name
        self._step_s = step_s
        self._bits: dict[int, float] = {}
        self._busy_s: dict[int, float] = {}
        self._estimates: dict[int, tuple[float, int]] = {}
        self._silent_s: dict[int, float] = {}

    def __len__(self) -> int:
        """Steps in which a rate was seen or estimated."""
        return len(self._bits.keys() | self._estimates.keys())

    def add_delivery(self, time_s: float, bits: float, busy_s: float | None = None) -> None:
        """Bits that had arrived by a time, and for how long before it the link was busy with them.

        Without `busy_s` the link counts as busy for the whole step: right for a saturated link.

        Raises:
            TraceError: a time that is not finite, or negative bits.
        """
        self._check(time_s, bits)
        if busy_s is None or busy_s <= 0:
            step = self._step_of(time_s)
            self._bits[step] = self._bits.get(step, 0.0) + bits
            self._busy_s.setdefault(step, 0.0)
            return
        # A long transfer is spread over all the steps that it took.
        for step, share_s in self._shares(time_s - busy_s, time_s):
            self._bits[step] = self._bits.get(step, 0.0) + bits / busy_s * share_s
            self._busy_s[step] = self._busy_s.get(step, 0.0) + share_s

    def add_rate(self, time_s: float, rate_bps: float) -> None:
        """An estimate of the link's throughput at a time. Several in a step are averaged.

        Raises:
            TraceError: a time that is not finite, or a negative rate.
        """
        self._check(time_s, rate_bps)
        mean, count = self._estimates.get(self._step_of(time_s), (0.0, 0))
        self._estimates[self._step_of(time_s)] = ((mean * count + rate_bps) / (count + 1), count + 1)

    def add_silence(self, begin_s: float, end_s: float) -> None:
        """A time in which the link carried nothing, though it was asked to. No two of them may overlap.

        Raises:
            TraceError: times that are not finite, or in the wrong order.
        """
        self._check(begin_s, end_s - begin_s)
        for step, share_s in self._shares(begin_s, end_s):
            self._silent_s[step] = self._silent_s.get(step, 0.0) + share_s

    def trace(self, begin_s: float | None = None) -> Trace:
        """The trace so far.

        Args:
            begin_s: its time 0, to the step; None for the first step of which something is known. Where nothing is
                known yet at `begin_s`, the rate before it holds, or else the first one after it.

        Raises:
            TraceError: nothing was recorded.
        """
        if not len(self):
            raise TraceError(self.name, "nothing was recorded", "record while frames cross the link")
        steps, found = self._rates()
        known = np.array(steps, dtype=np.float64)
        rates = np.array(found)
        starts = (known - (known[0] if begin_s is None else self._step_of(begin_s))) * self._step_s
        first = max(0, int(np.searchsorted(starts, 0.0, side="right")) - 1)
        starts, rates = np.maximum(starts[first:], 0.0), rates[first:]
        starts[0] = 0.0
        return Trace(starts, rates, float(starts[-1] + self._step_s), self.name)

    def write(self, path: Path | str, format: str | None = None) -> Path:
        """Writes the trace so far; the format follows from the file's name unless it is given."""
        return write_trace(self.trace(), path, format)

    def _rates(self) -> tuple[list[int], list[float]]:
        """Steps from which on a rate holds, and the rates."""
        seen = self._bits.keys() | self._estimates.keys()
        known = seen | self._silent_s.keys()
        last = max(known)
        # Behind a silence the rate before it goes on, if nothing else is known there.
        steps = sorted(known | {step + 1 for step in self._silent_s if step < last})
        rates, held_bps = [], self._rate(min(seen))
        for step in steps:
            held_bps = self._rate(step) if step in seen else held_bps
            rates.append(held_bps * max(0.0, 1.0 - self._silent_s.get(step, 0.0) / self._step_s))
        return steps, rates

    def _shares(self, begin_s: float, end_s: float) -> Iterator[tuple[int, float]]:
        """The steps that a time falls into, each with its part of it."""
        for step in range(self._step_of(begin_s), self._step_of(end_s) + 1):
            share_s = min(end_s, (step + 1) * self._step_s) - max(begin_s, step * self._step_s)
            if share_s > 0.0:
                yield step, share_s

    def _rate(self, step: int) -> float:
        if step not in self._bits:
            return self._estimates[step][0]
        busy_s = self._busy_s[step]
        return self._bits[step] / (min(busy_s, self._step_s) if busy_s > 0 else self._step_s)

    def _step_of(self, time_s: float) -> int:
        return math.floor(time_s / self._step_s)

    def _check(self, time_s: float, value: float) -> None:
        if not (math.isfinite(time_s) and math.isfinite(value) and value >= 0):
            raise TraceError(self.name, f"cannot record {value!r} at {time_s!r} s")
