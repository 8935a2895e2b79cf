"""How fast a link is now, and how sure that is. No clock in here: time is an argument.

Goodput is bits over the seconds that the link was busy with them (`scheduler.tracker`). See docs/live-loop.md for the
formulas and the reasons behind the constants.
"""

from __future__ import annotations

import math

from scheduler.reports import Crossing, LinkReport
from scheduler.swings import STEADY, Swing, Swings
from scheduler.tracker import MAX_UNCERTAINTY, Estimate, RatioTracker

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

    __slots__ = ("_bound_bps", "_fresh", "_held_up_s", "_rtt", "_spell_s", "_swings", "tracker")

    def __init__(self) -> None:
        self.tracker = RatioTracker(timing_s=TIMING_S)
        self._rtt = RecentLeast(RTT_WINDOW_S)
        self._bound_bps: float | None = None
        self._swings: Swings | None = None
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
        self._see(now)
        return self.tracker.changes > changes

    def _see(self, now: float) -> None:
        """Remember what the link is now, where that does not rest on very little: two packets may ride on one burst."""
        found = None if self.unsettled else self.goodput(now)
        if found is None:
            return
        if self._swings is None:
            self._swings = Swings(found.value, now)
        else:
            self._swings.see(found.value, now)

    def swing(self, now: float) -> Swing:
        """What is to be expected of the link, by what it was lately."""
        found = self.goodput(now)
        return STEADY if self._swings is None or found is None else self._swings.swing(found.value, now)

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
