"""Bandwidth over time, as one immutable type."""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, replace
from functools import cached_property
from typing import overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from traces.errors import TraceError

FloatArray = NDArray[np.float64]

OPENING_S = 1.0
OPENING_SHARE = 0.01
"""A first second of less than this share of the mean rate counts as an outage."""


@dataclass(frozen=True, slots=True)
class Step:
    """A time within a trace in which the rate stays."""

    begin_s: float
    """When the pass over the trace begins that it is of."""
    low_s: float
    high_s: float
    """From when until when, within the pass; empty outside of a trace that does not loop."""
    rate_bps: float


@dataclass(frozen=True, eq=False)
class Trace:
    """The capacity of one direction of a link, step-wise constant over time.

    Rate `rates_bps[i]` holds from `starts_s[i]` until `starts_s[i + 1]`, the last until `duration_s`. There are no
    gaps in a trace: where a log has none to tell, its reader lets the rate before the gap go on (see
    `traces.formats`). A looping trace begins again at its end, and is the same for negative times; one that does
    not loop keeps its first rate before its start and its last rate after its end, for ever.

    Raises:
        TraceError: arrays of unequal length, times that do not start at 0 or do not increase, a negative or
            infinite rate, a duration that is not after the last start.
    """

    starts_s: FloatArray
    """(n,), seconds; the first is 0, each later than the one before. Read-only."""
    rates_bps: FloatArray
    """(n,), bit/s, finite and not negative. Read-only."""
    duration_s: float
    """Seconds until the trace ends or begins again."""
    name: str = "trace"
    """For people: a file's name, or a name in the library."""
    loop: bool = True
    """Whether the trace begins again at its end."""

    def __post_init__(self) -> None:
        starts, rates = _frozen(self.starts_s), _frozen(self.rates_bps)
        object.__setattr__(self, "starts_s", starts)
        object.__setattr__(self, "rates_bps", rates)
        object.__setattr__(self, "duration_s", float(self.duration_s))
        if starts.ndim != 1 or starts.shape != rates.shape or not len(starts):
            raise TraceError(self.name, f"{starts.shape} start times and {rates.shape} rates do not go together")
        if starts[0] != 0 or not (np.diff(starts) > 0).all() or not np.isfinite(starts).all():
            raise TraceError(self.name, "start times must begin at 0 and increase")
        if not np.isfinite(rates).all() or (rates < 0).any():
            raise TraceError(self.name, "a rate is negative or not finite")
        if not (math.isfinite(self.duration_s) and self.duration_s > starts[-1]):
            raise TraceError(self.name, f"duration {self.duration_s:g} s does not end after the last start time")

    @classmethod
    def constant(cls, rate_bps: float, duration_s: float = 1.0, name: str = "constant") -> Trace:
        """A link whose rate never changes."""
        return cls(np.zeros(1), np.array([rate_bps], dtype=np.float64), duration_s, name)

    # --- reading it -------------------------------------------------------------------------------------------

    @overload
    def rate_at(self, now_s: float) -> float: ...
    @overload
    def rate_at(self, now_s: FloatArray) -> FloatArray: ...
    def rate_at(self, now_s: float | FloatArray) -> float | FloatArray:
        """The rate in bit/s at a time, or at each of an array of times."""
        if isinstance(now_s, np.ndarray):
            phase = self._fold_each(now_s)[1]
            at = np.searchsorted(self.starts_s, phase, side="right") - 1
            return self.rates_bps[np.clip(at, 0, len(self.rates_bps) - 1)]
        _, phase_s = self._fold(now_s)
        edges, _, rates = self._lists
        return rates[min(max(bisect_right(edges, phase_s) - 1, 0), len(rates) - 1)]

    @overload
    def bits_between(self, start_s: float, end_s: float) -> float: ...
    @overload
    def bits_between(self, start_s: float | FloatArray, end_s: FloatArray) -> FloatArray: ...
    @overload
    def bits_between(self, start_s: FloatArray, end_s: float | FloatArray) -> FloatArray: ...
    def bits_between(self, start_s: float | FloatArray, end_s: float | FloatArray) -> float | FloatArray:
        """Bits that can pass between two times (negative where the second is earlier). Exact; arrays broadcast."""
        if isinstance(start_s, np.ndarray) or isinstance(end_s, np.ndarray):
            loops0, phase0 = self._fold_each(start_s)
            loops1, phase1 = self._fold_each(end_s)
            inside = self._bits_until_each(phase1) - self._bits_until_each(phase0)
            return np.asarray((loops1 - loops0) * self.total_bits + inside, dtype=np.float64)
        turns0, phase0_s = self._fold(start_s)
        turns1, phase1_s = self._fold(end_s)
        return (turns1 - turns0) * self.total_bits + (self._bits_until(phase1_s) - self._bits_until(phase0_s))

    def step_at(self, time_s: float) -> Step:
        """The step that a time is in."""
        turns, phase_s = self._fold(time_s)
        edges, _, rates = self._lists
        here = bisect_right(edges, phase_s) - 1
        if not 0 <= here < len(rates):
            return Step(0.0, math.inf, math.inf, 0.0)
        return Step(turns * self.duration_s, edges[here], edges[here + 1], rates[here])

    def time_to_send(self, bits: float, start_s: float) -> float:
        """Seconds from `start_s` until `bits` have passed: the inverse of `bits_between`, in O(log n).

        Where the last bit passes just before an outage, this is the time before the outage. Infinite where the
        bits never pass.
        """
        if bits <= 0:
            return 0.0
        phase_s = self._fold(start_s)[1]
        edges, cumulated, rates = self._lists
        here = bisect_right(edges, phase_s) - 1
        if 0 <= here < len(rates) and (edges[here + 1] - phase_s) * rates[here] >= bits:
            return bits / rates[here]  # as a rule: all within one step
        target, total = self._bits_until(phase_s) + bits, cumulated[-1]
        if not self.loop and target > total:
            return self.duration_s + (target - total) / rates[-1] - phase_s if rates[-1] > 0 else math.inf
        if not self.loop and target <= 0:
            return target / rates[0] - phase_s
        if total <= 0:
            return math.inf
        more = max(0, math.ceil(target / total) - 1)
        rest = min(max(target - more * total, 0.0), total)
        at = max(bisect_left(cumulated, rest) - 1, 0)
        inside_s = (rest - cumulated[at]) / rates[at] if rates[at] > 0 else 0.0
        return max(0.0, more * self.duration_s + edges[at] + inside_s - phase_s)

    @cached_property
    def total_bits(self) -> float:
        """Bits of one pass over the trace."""
        return float(self._cumulated[-1])

    @property
    def mean_bps(self) -> float:
        """Time-weighted mean rate."""
        return self.total_bits / self.duration_s

    @cached_property
    def peak_bps(self) -> float:
        """Most bits that pass in any one second of a grid over the trace, as a rate."""
        return float(self.resample(min(1.0, self.duration_s)).rates_bps.max())

    @property
    def opening_bps(self) -> float:
        """The rate that a link is given before its trace begins: the first second's; the whole trace's in an outage."""
        opening_bps = self.bits_between(0.0, OPENING_S) / OPENING_S
        return opening_bps if opening_bps > OPENING_SHARE * self.mean_bps else self.mean_bps

    def digest(self) -> str:
        """SHA-256 over times (to 1 ns), rates (to 1 bit/s) and duration; the same for equal traces of any name."""
        content = np.concatenate([self._edges * 1e9, self.rates_bps])
        return hashlib.sha256(np.round(content).astype("<i8").tobytes()).hexdigest()

    # --- deriving others ----------------------------------------------------------------------------------------

    def named(self, name: str) -> Trace:
        """The same trace under another name."""
        return replace(self, name=name)

    def looping(self, loop: bool) -> Trace:
        """The same trace, beginning again at its end or not."""
        return replace(self, loop=loop)

    def slice(self, start_s: float, end_s: float) -> Trace:
        """The part between two times, its own time starting at 0; it may run over the end into the next pass."""
        if not (math.isfinite(start_s) and math.isfinite(end_s) and end_s > start_s):
            raise TraceError(self.name, f"no time between {start_s:g} s and {end_s:g} s", "end after the start")
        turns = [math.floor(t / self.duration_s) if self.loop else 0 for t in (start_s, end_s)]
        starts = np.concatenate([self.starts_s + turn * self.duration_s for turn in range(turns[0], turns[1] + 1)])
        starts = np.concatenate([[start_s], starts[(starts > start_s) & (starts < end_s)]])
        ends = np.append(starts[1:], end_s)
        rates = self.rate_at((starts + ends) / 2)
        moved = starts - start_s
        keep = np.append(True, np.diff(moved) > 0)
        return replace(self, starts_s=moved[keep], rates_bps=rates[keep], duration_s=end_s - start_s)

    def scale(self, rate_factor: float = 1.0, time_factor: float = 1.0) -> Trace:
        """Rates times one factor, durations times another."""
        if not (rate_factor >= 0 and time_factor > 0):
            raise TraceError(self.name, "factors must be positive")
        return replace(
            self,
            starts_s=self.starts_s * time_factor,
            rates_bps=self.rates_bps * rate_factor,
            duration_s=self.duration_s * time_factor,
        )

    def resample(self, step_s: float) -> Trace:
        """Even steps, each with the mean rate of its time, so that no bit is lost; the last step may be shorter."""
        if not (0 < step_s <= self.duration_s):
            raise TraceError(self.name, f"step {step_s:g} s is not within its {self.duration_s:g} s")
        count = max(1, math.ceil(self.duration_s / step_s - 1e-9))
        edges = np.append(np.arange(count) * step_s, self.duration_s)
        rates = np.diff(np.interp(edges, self._edges, self._cumulated)) / np.diff(edges)
        return replace(self, starts_s=edges[:-1], rates_bps=np.maximum(rates, 0.0))

    # --- inside ---------------------------------------------------------------------------------------------------

    @cached_property
    def _edges(self) -> FloatArray:
        return np.append(self.starts_s, self.duration_s)

    @cached_property
    def _cumulated(self) -> FloatArray:
        """(n + 1,): bits that have passed at each edge of one pass."""
        return np.concatenate([[0.0], np.cumsum(self.rates_bps * np.diff(self._edges))])

    @cached_property
    def _lists(self) -> tuple[list[float], list[float], list[float]]:
        # Plain lists: for one time at a time, bisect on a list is several times faster than NumPy.
        return self._edges.tolist(), self._cumulated.tolist(), self.rates_bps.tolist()

    def _fold(self, time_s: float) -> tuple[int, float]:
        """Number of whole passes before a time, and the time within its pass."""
        if not self.loop:
            return 0, time_s
        turns = math.floor(time_s / self.duration_s)
        phase_s = time_s - turns * self.duration_s
        if 0.0 <= phase_s <= self.duration_s:
            return turns, phase_s
        return turns, 0.0 if phase_s < 0.0 else self.duration_s

    def _fold_each(self, times_s: float | FloatArray) -> tuple[FloatArray, FloatArray]:
        times = np.asarray(times_s, dtype=np.float64)
        if not self.loop:
            return np.zeros_like(times), times
        turns = np.floor(times / self.duration_s)
        return turns, np.clip(times - turns * self.duration_s, 0.0, self.duration_s)

    def _bits_until(self, phase_s: float) -> float:
        edges, cumulated, rates = self._lists
        at = min(max(bisect_right(edges, phase_s) - 1, 0), len(rates) - 1)
        return cumulated[at] + rates[at] * (phase_s - edges[at])

    def _bits_until_each(self, phases_s: FloatArray) -> FloatArray:
        at = np.clip(np.searchsorted(self._edges, phases_s, side="right") - 1, 0, len(self.rates_bps) - 1)
        return np.asarray(self._cumulated[at] + self.rates_bps[at] * (phases_s - self._edges[at]), dtype=np.float64)


def join(traces: list[Trace], name: str) -> Trace:
    """Traces one after the other, as one."""
    if not traces:
        raise TraceError(name, "no trace to join")
    offsets = np.cumsum([0.0, *(trace.duration_s for trace in traces)])
    starts = np.concatenate([trace.starts_s + offset for trace, offset in zip(traces, offsets, strict=False)])
    return Trace(starts, np.concatenate([trace.rates_bps for trace in traces]), float(offsets[-1]), name)


def _frozen(values: ArrayLike) -> FloatArray:
    array = np.array(values, dtype=np.float64)
    array.setflags(write=False)
    return array
