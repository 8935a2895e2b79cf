"""How fast a link or a node is now, and how sure that is. No clock in here: time is an argument.

One tracker does both, since both are ratios of sums: a link's goodput is bits over the seconds that the link
was busy with them, a node's slowdown is measured seconds over predicted ones. See docs/live-loop.md for the
formulas and the reasons behind the constants.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import msgspec

from scheduler.reports import Crossing, LinkReport

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

LONG_S = 1.0
"""A message that took longer says little of the link at its end."""

FRESH = 3
"""For so many reports after an outage, what is known of a link is of the time before."""

OUTAGE_S, OUTAGE_RATIO = 0.5, 4.0
"""A message that takes longer than this, and than this many times what the link's level says, met an outage."""

MAX_GOODPUT_BPS = 1e12
"""No link is taken for faster, whatever its receiver says: loopback carries a tenth of it."""

TIMING_S = 0.0005
"""How far off the instants are by which a receiver times a message: threads wake late, radios deliver in clumps."""

MIN_MESSAGE_BYTES = 2048
"""Smaller messages are kept out of goodput: their time is the host's, not the link's."""

RTT_WINDOW_S = 10.0


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


class RecentLeast:
    """The least value of a window of time: the round trip without the queues on the way."""

    __slots__ = ("_kept", "_window_s")

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._kept: list[tuple[float, float]] = []
        # A list: there are as many as reports in the window, and an empty deque is ten times as large.

    def add(self, value: float, now: float) -> None:
        """Take a value seen at `now`."""
        kept = self._kept
        while kept and kept[-1][1] >= value:
            kept.pop()
        kept.append((now, value))
        # The latest value stays however old it is: an old round trip is better than none.
        while len(kept) > 1 and kept[0][0] < now - self._window_s:
            del kept[0]

    @property
    def value(self) -> float | None:
        """The least of the window that ends with the latest value; None before the first."""
        return self._kept[0][1] if self._kept else None


class LinkEstimator:
    """Goodput and round trip of one directed link, from its receiver's reports."""

    __slots__ = ("_bound_bps", "_fresh", "_held_up_s", "_rtt", "_spell_s", "tracker")

    def __init__(self) -> None:
        self.tracker = RatioTracker(timing_s=TIMING_S)
        self._rtt = RecentLeast(RTT_WINDOW_S)
        self._bound_bps: float | None = None
        self._spell_s = self._held_up_s = -math.inf
        """When the latest outages began, and when the link was last seen in one: those that follow before it is settled
        are one spell."""
        self._fresh = 1
        """Reports with crossings since the latest outage; that of the first is no news to anybody."""

    def add(self, report: LinkReport, now: float) -> bool:
        """Take what the receiver saw since its previous report, which came in at `now`.

        Returns:
            Whether the goodput has stepped.
        """
        if report.rtt_s is not None:
            self._rtt.add(report.rtt_s, now)
        if not report.crossings and not report.waiting_bytes and self._bound_bps is None:
            return False  # as a rule, of a node with hundreds of links
        changes, held_up = self.tracker.changes, self.held_up
        for crossing in report.crossings:
            self.add_crossing(crossing, now)
        self.wait(report.waiting_bytes, report.waiting_s)
        if self.held_up:
            self._spell_s = self._spell_s if held_up or self.recovers(now) else now
            self._held_up_s = now
        if held_up and not self.held_up:
            # One of them may be what was held up; what came behind it tells of the link as it is now.
            self._fresh = int(sum(each.messages for each in report.crossings) > 1)
        elif any(each.busy_s > LONG_S for each in report.crossings):
            self._fresh = 1
        elif report.crossings:
            self._fresh += 1
        return self.tracker.changes > changes

    def add_crossing(self, crossing: Crossing, now: float) -> None:
        """Take one crossing of a report that came in at `now`."""
        if crossing.busy_s > 0.0 and crossing.payload_bytes >= MIN_MESSAGE_BYTES * crossing.messages:
            bits = crossing.payload_bytes * 8.0
            self.tracker.add(bits, max(crossing.busy_s, bits / MAX_GOODPUT_BPS), now - crossing.age_s)

    @property
    def held_up(self) -> bool:
        """Whether the message that is on its way takes so long that the link must be in an outage."""
        if self._bound_bps is None:
            return False
        seen = self.tracker.level
        return seen is not None and self._bound_bps * OUTAGE_RATIO < seen

    @property
    def freed(self) -> bool:
        """Whether the link has just come back from an outage, and nothing has crossed it since."""
        return not self._fresh

    def recovers(self, now: float) -> bool:
        """Whether the link is unsettled behind a spell of outages, for no longer than that lasted.

        What has lasted is likely to last as long again: until then it is as likely to be on its way to what it was
        before as it is to stay what it is.
        """
        return self.unsettled and now - self._held_up_s < self._held_up_s - self._spell_s

    def wait(self, payload_bytes: int, waited_s: float) -> None:
        """Take the message that was on its way when the receiver looked: 0 bytes for none."""
        self._bound_bps = payload_bytes * 8.0 / max(waited_s, 1e-6) if payload_bytes and waited_s > 0.0 else None

    def goodput(self, now: float) -> Estimate | None:
        """Goodput in bit/s, or None while nothing has crossed.

        A message that is still on its way bounds the goodput: so an outage shows before it ends.
        """
        seen, bound = self.tracker.estimate(now), self._bound_bps
        if bound is None or (seen is not None and seen.value <= bound):
            return seen
        return Estimate(bound, MAX_UNCERTAINTY if seen is None else max(seen.uncertainty, 0.5), 0.0)

    @property
    def rtt_s(self) -> float | None:
        """Round trip in an empty queue, or None where none was measured."""
        return self._rtt.value

    @property
    def stalled(self) -> bool:
        """Whether a message was on its way when the receiver reported last."""
        return self._bound_bps is not None

    @property
    def unsettled(self) -> bool:
        """Whether the link is new or has just come back: what is known of it rests on very little."""
        return self._fresh < FRESH

    @property
    def doubtful(self) -> bool:
        """Whether one more sample would tell much: the latest was clearly off, or the link has just come back."""
        return self.unsettled or self.tracker.doubtful
