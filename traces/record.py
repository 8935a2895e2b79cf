"""From what a live run measured to a trace, so that a bad day in the field can be replayed at the desk."""

from __future__ import annotations

import math
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
    from its time on. Within a step, deliveries go before estimates, since they are what was seen. In a step without
    either nothing is known, and the rate before goes on, as everywhere in this package.

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

    def __len__(self) -> int:
        """Steps of which something is known."""
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
        rate_bps, from_s = bits / busy_s, time_s - busy_s
        for step in range(self._step_of(from_s), self._step_of(time_s) + 1):
            begin_s, end_s = max(from_s, step * self._step_s), min(time_s, (step + 1) * self._step_s)
            share_s = max(0.0, end_s - begin_s)
            if share_s:
                self._bits[step] = self._bits.get(step, 0.0) + rate_bps * share_s
                self._busy_s[step] = self._busy_s.get(step, 0.0) + share_s

    def add_rate(self, time_s: float, rate_bps: float) -> None:
        """An estimate of the link's throughput at a time. Several in a step are averaged.

        Raises:
            TraceError: a time that is not finite, or a negative rate.
        """
        self._check(time_s, rate_bps)
        mean, count = self._estimates.get(self._step_of(time_s), (0.0, 0))
        self._estimates[self._step_of(time_s)] = ((mean * count + rate_bps) / (count + 1), count + 1)

    def trace(self, begin_s: float | None = None) -> Trace:
        """The trace so far.

        Args:
            begin_s: its time 0, to the step; None for the first step of which something is known. Where nothing is
                known yet at `begin_s`, the rate before it holds, or else the first one after it.

        Raises:
            TraceError: nothing was recorded.
        """
        steps = sorted(self._bits.keys() | self._estimates.keys())
        if not steps:
            raise TraceError(self.name, "nothing was recorded", "record while frames cross the link")
        known = np.array(steps, dtype=np.float64)
        rates = np.array([self._rate(step) for step in steps])
        starts = (known - (known[0] if begin_s is None else self._step_of(begin_s))) * self._step_s
        first = max(0, int(np.searchsorted(starts, 0.0, side="right")) - 1)
        starts, rates = np.maximum(starts[first:], 0.0), rates[first:]
        starts[0] = 0.0
        return Trace(starts, rates, float(starts[-1] + self._step_s), self.name)

    def write(self, path: Path | str, format: str | None = None) -> Path:
        """Writes the trace so far; the format follows from the file's name unless it is given."""
        return write_trace(self.trace(), path, format)

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
