"""Follows a ratio of sums: smooth while its level stays, quick when it steps. No clock in here: time is an argument.

Both of the scheduler's estimates are such ratios: a link's goodput is bits over the seconds that the link was busy with
them, a node's slowdown is measured seconds over predicted ones. See docs/live-loop.md for the formulas and the reasons
behind the constants.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import msgspec

MEMORY_S = 2.0
"""Time constant of forgetting while nothing changes."""

BIN_S = 0.1
"""Samples closer together than this count as one: on a cellular link single frames ride on bursts of packets, and
a change is to be found within a second, not within a frame."""

CUSUM_SLACK = 0.5
"""Deviations below this many standard deviations do not count towards a change (half of the smallest shift to find)."""

CUSUM_LIMIT = 4.0
"""A change is declared at this sum: two clear samples, or some ten of one standard deviation."""

CUSUM_CLIP = 3.0
"""The most that one sample counts for: a single outlier is no change."""

CUSUM_CLEAR = 2.0
"""A sample this many standard deviations off is the change itself, not noise before it."""

NOISE_GAIN = 0.05
NOISE_BOUNDS = (0.03, 0.5)
"""Bounds of the log noise of one sample."""

DRIFT_GAIN = 0.1
DRIFT_PERIOD_S = 0.5
DRIFT_BOUNDS = (1e-4, 1.0)
"""Bounds of the variance per second by which the log level wanders."""

HORIZON_S = 2.0
"""How far ahead an estimate is used: until the report after the next."""

MAX_UNCERTAINTY = 2.0


class Estimate(msgspec.Struct, frozen=True, gc=False):
    """A positive quantity and how sure it is."""

    value: float
    uncertainty: float
    """Standard deviation of the natural logarithm of `value`, over the next `HORIZON_S`."""
    age_s: float
    """Since the latest sample."""
    noise: float = 0.0
    """The part of `uncertainty` that more samples of the same level would take away."""

    def quantile(self, deviations: float) -> float:
        """The value this many standard deviations up (or down, where negative)."""
        return self.value * math.exp(deviations * self.uncertainty)


def stepped(value: float, step: float) -> float:
    """The nearest value of a ladder whose rungs are `step` apart, as logarithms: nearly the same value is the same."""
    return math.exp(round(math.log(value) / step) * step)


FORGOTTEN = 1e-100
"""Samples that are left of a level after a pause of an hour or so: soon not even a number would be."""


@dataclass(slots=True)
class _Sum:
    """Sums of numerators and denominators, and the number of samples in them."""

    top: float = 0.0
    bottom: float = 0.0
    count: float = 0.0

    def add(self, top: float, bottom: float) -> None:
        self.top += top
        self.bottom += bottom
        self.count += 1.0

    def fade(self, keep: float) -> None:
        self.top *= keep
        self.bottom *= keep
        self.count *= keep

    @property
    def ratio(self) -> float:
        return self.top / self.bottom


PAUSE_S = 0.7
"""Samples that are farther apart are of different times: less than between two probes of an idle link, more than the
stalls of a link in use, whose bursts and gaps belong together."""


class RatioTracker:
    """Follows `sum(top) / sum(bottom)` of samples: smooth while the level stays, quick when it steps.

    A forgetting sum, with Page's two-sided CUSUM test on the logarithm of each sample beside it
    (Page, Continuous Inspection Schemes, Biometrika 1954). When the test finds a change, everything before the
    onset of the change is forgotten at once.
    """

    __slots__ = (
        "_anchor", "_bin", "_bin_end_s", "_bin_s", "_bin_start_s", "_drift", "_latest_log", "_memory_s", "_seen_s",
        "_sides", "_sum", "_timing_s", "_variance", "changes",
    )  # fmt: skip

    def __init__(self, memory_s: float = MEMORY_S, bin_s: float = BIN_S, timing_s: float = 0.0) -> None:
        self.changes = 0
        """How often a change was found."""
        self._memory_s, self._bin_s, self._timing_s = memory_s, bin_s, timing_s
        self._bin, self._bin_start_s, self._bin_end_s = _Sum(), -math.inf, -math.inf
        self._sum = _Sum()
        self._seen_s = -math.inf
        self._latest_log = 0.0
        self._variance = 0.15**2
        self._sides: tuple[tuple[float, _Side], ...] = ()
        """Both sides of the test, from the second sample on: many links never have one."""
        self._drift = 0.02
        self._anchor: tuple[float, float] | None = None

    @property
    def level(self) -> float | None:
        """The level of the latest sample, or None before the first."""
        return self._sum.ratio if self._sum.count else None

    @property
    def noise(self) -> float:
        """Standard deviation of the logarithm of one sample about the level."""
        return math.sqrt(self._variance)

    @property
    def doubtful(self) -> bool:
        """Whether the latest sample lay clearly off the level, so that the next one may show a change."""
        return any(side.level > CUSUM_LIMIT / 2.0 for _, side in self._sides)

    def add(self, top: float, bottom: float, now: float) -> bool:
        """Take one sample.

        Args:
            top: its numerator, above 0.
            bottom: its denominator, above 0.
            now: when it was taken.

        Returns:
            Whether it completed a change of level.
        """
        # What was left over before a pause is no part of what comes behind it.
        changed = self._bin.count > 0.0 and now - self._bin_end_s >= PAUSE_S and self._close(self._bin_end_s)
        self._bin.add(top, bottom)
        self._bin_end_s = now
        return (now - self._bin_start_s >= self._bin_s and self._close(now)) or changed

    def _close(self, now: float) -> bool:
        full, self._bin, self._bin_start_s = self._bin, _Sum(), now
        return self._add(full.top, full.bottom, now)

    def age_s(self, now: float) -> float:
        """Time since the latest sample; infinite before the first."""
        return max(0.0, now - self._seen_s) if self._sum.count else math.inf

    def estimate(self, now: float) -> Estimate | None:
        """The level, or None before the first sample."""
        if self._sum.count == 0.0:
            return None
        age_s = max(0.0, now - self._seen_s)
        count, bottom = self._sum.count, self._sum.bottom
        # Samples are timed wrong one by one: `count` of them together by sqrt(count) times as much.
        sampling = self._variance / max(1.0, count) + count * (self._timing_s / bottom) ** 2
        variance = sampling + self._drift * (HORIZON_S + age_s)
        return Estimate(self._sum.ratio, min(MAX_UNCERTAINTY, math.sqrt(variance)), age_s, math.sqrt(sampling))

    def _add(self, top: float, bottom: float, now: float) -> bool:
        log, blur = math.log(top / bottom), self._timing_s / bottom
        self._sum.fade(math.exp(-max(0.0, now - self._seen_s) / self._memory_s) if self._sum.count else 0.0)
        if self._sum.count < FORGOTTEN:
            self._start(log, top, bottom, now)
            return False
        self._learn_noise(log)
        deviation = (log - math.log(self._sum.ratio)) / math.hypot(self.noise, blur)
        changed = self._test(deviation, top, bottom)
        if not changed:
            self._sum.add(top, bottom)
        self._seen_s = max(self._seen_s, now)
        self._learn_drift(now)
        return changed

    def _start(self, log: float, top: float, bottom: float, now: float) -> None:
        self._sum = _Sum(top, bottom, 1.0)
        self._seen_s, self._latest_log = now, log
        self._anchor = (now, log)

    def _learn_noise(self, log: float) -> None:
        # Half the squared difference of neighbours is the variance about a level that may wander; a step is
        # one difference, and is clipped so that it does not pass for noise.
        difference = min((log - self._latest_log) ** 2 / 2.0, 9.0 * self._variance)
        low, high = NOISE_BOUNDS
        variance = self._variance + NOISE_GAIN * (difference - self._variance)
        self._variance = min(high * high, max(low * low, variance))
        self._latest_log = log

    def _test(self, deviation: float, top: float, bottom: float) -> bool:
        if not self._sides:
            self._sides = ((1.0, _Side()), (-1.0, _Side()))
        for sign, side in self._sides:
            if side.add(sign * deviation, top, bottom):
                self._sum = side.since
                self.changes += 1
                for _, each in self._sides:
                    each.reset()
                return True
        return False

    def _learn_drift(self, now: float) -> None:
        if self._anchor is None or now - self._anchor[0] < DRIFT_PERIOD_S:
            return
        level = math.log(self._sum.ratio)
        moved = (level - self._anchor[1]) ** 2 - 2.0 * self._variance / max(1.0, self._sum.count)
        wander = max(0.0, moved) / (now - self._anchor[0])
        low, high = DRIFT_BOUNDS
        self._drift = min(high, max(low, self._drift + DRIFT_GAIN * (min(wander, high) - self._drift)))
        self._anchor = (now, level)


_NOTHING = _Sum()
"""Never added to: one for all, since there are two for each of 100,000 trackers."""


class _Side:
    """One side of the CUSUM test, with the samples since the change began.

    It began where the sum was last zero, or with the first clear sample behind weak ones: noise alone keeps the sum
    above zero for a while, and samples of the old level weigh the most where the new one is faster. The first sample
    is kept apart: as a rule the change fell into it, and it belongs to neither level.
    """

    __slots__ = ("_begun", "_clear", "level", "since")

    def __init__(self) -> None:
        self.since = _NOTHING
        self.reset()

    def reset(self) -> None:
        self.level, self._begun, self._clear = 0.0, False, False

    def add(self, deviation: float, top: float, bottom: float) -> bool:
        self.level += min(CUSUM_CLIP, max(-CUSUM_CLIP, deviation)) - CUSUM_SLACK
        if self.level <= 0.0:
            self.reset()
            return False
        clear = deviation >= CUSUM_CLEAR
        if self._begun and (self._clear or not clear):
            self.since.add(top, bottom)
        else:
            self.since = _Sum()
        self._begun, self._clear = True, self._clear or clear
        return self.level > CUSUM_LIMIT and self.since.count > 0.0
