"""Receiver-side timing: how long a link carried what came in, from one machine's clock. Used by the nodes.

Every large message is announced by a small head, sent just before it. The head's arrival is the first byte's,
the message's own arrival the last byte's, and what lies between is the link's work, whether the sender was
idle before or not; while messages queue up back to back, the work starts at the previous one's last byte.
Both instants are the receiver's: no clocks are compared. Where a sender gives its own time instead, `PathClock`
supplies the offset.
"""

from __future__ import annotations

from dataclasses import dataclass

from scheduler.estimate import LONG_S, MIN_MESSAGE_BYTES, OUTAGE_RATIO, OUTAGE_S, LinkEstimator, RecentLeast
from scheduler.reports import MAX_CROSSINGS, Crossing, LinkReport
from scheduler.tracker import BIN_S

OFFSET_WINDOW_S = 60.0
"""Clocks of two machines drift apart by some tens of parts in a million: 60 s are a few milliseconds."""

MAX_PEERS = 224
"""Links from nodes that this one knows that it keeps figures of; the one heard of longest ago is forgotten first."""

MAX_STRANGERS = 32
"""The same for peers that no plan has named yet: who makes names up pushes out no link of a stream, and as many cameras
may begin at once and have their first probes told of."""

JUMP_RATIO = 1.15
"""A node reports at once when its own estimate of a link differs from the scheduler's by this factor."""


class PathClock:
    """The least delay from a sender's clock to this one's: clock offset plus propagation, as one number.

    NTP's minimum filter (RFC 5905, section 10), one way: a small message that met no queue has the least
    difference of the two clocks' readings, and only that difference is needed to time a transfer.
    """

    def __init__(self) -> None:
        self._least = RecentLeast(OFFSET_WINDOW_S)

    def add(self, sent_s: float, received_s: float) -> None:
        """Take the sender's and the receiver's readings of one small message."""
        self._least.add(received_s - sent_s, received_s)

    def arrival_s(self, sent_s: float) -> float | None:
        """When a byte sent at `sent_s` comes in here at the earliest; None before the first small message."""
        least = self._least.value
        return None if least is None else sent_s + least


@dataclass(frozen=True)
class RoundTrip:
    """One echo: sent and returned by this clock, received and answered by the peer's."""

    sent_s: float
    received_s: float
    answered_s: float
    returned_s: float

    @property
    def rtt_s(self) -> float:
        """Time on the way, without the peer's own delay."""
        return max(0.0, (self.returned_s - self.sent_s) - (self.answered_s - self.received_s))

    @property
    def offset_s(self) -> float:
        """Peer's clock minus this one, right to within half of `rtt_s` (NTP's formula)."""
        return ((self.received_s - self.sent_s) + (self.answered_s - self.returned_s)) / 2.0


_UNTOLD = LinkEstimator()
"""What the scheduler knows before the first report; never added to. Most links of strangers are forgotten before it."""


class CrossingLog:
    """What crossed one link, from its receiver's event times to the `LinkReport` of the next report."""

    __slots__ = (
        "_bytes_total", "_finished_s", "_kept", "_news", "_outage", "_rtt_s", "_started", "_taken_s", "_told",
        "estimator", "peer",
    )  # fmt: skip

    def __init__(self, peer: str) -> None:
        self.peer = peer
        self.estimator = LinkEstimator()
        """This node's own estimate of the link, up to the moment."""
        self._told = _UNTOLD  # the scheduler's, as it must be from the reports so far
        self._kept: list[tuple[float, Crossing]] = []
        self._started: tuple[int, float] | None = None
        """Size of the message that is on its way, and when its head was here."""
        self._finished_s = float("-inf")
        self._outage = False
        """Whether the latest message met an outage."""
        self._news = False
        """Whether a message has come in that was on its way for long: the link may be another one now."""
        self._rtt_s: float | None = None
        self._bytes_total = 0
        self._taken_s = float("-inf")

    def started(self, payload_bytes: int, now: float) -> None:
        """The head of a message of this size came in, and the message set out at `now` (for most, the same moment).

        A sender's heads and messages take turns, so an earlier head that still waits has lost its message: its
        connection broke in between.
        """
        self._started = payload_bytes, now

    def finished(self, payload_bytes: int, now: float, *, probe: bool = False, held: bool = False) -> None:
        """The message came in whole.

        Args:
            payload_bytes: its size.
            now: when its last byte was read.
            probe: whether it was sent only to measure.
            held: whether this node left it unread for a while (its own queue was full): such a time is not the
                link's, and is not used.
        """
        start_s = self._start_of(payload_bytes)
        busy_s = None if start_s is None else now - max(start_s, self._finished_s)
        self._finished_s = now
        self._bytes_total += payload_bytes
        self._news = self._news or (busy_s is not None and busy_s > LONG_S)
        if busy_s is not None and self._ends_outage(payload_bytes, busy_s):
            return
        if busy_s is not None and busy_s > 0.0 and not held and payload_bytes >= MIN_MESSAGE_BYTES:
            self.add(Crossing(payload_bytes, busy_s, 0.0, 1, probe), now)

    def _ends_outage(self, payload_bytes: int, busy_s: float) -> bool:
        """Whether a message met an outage that is over with it: its time says nothing of the link as it is now.

        While it was on its way it bounded the goodput. One that is as slow right behind it is no outage: the link
        has slowed down.
        """
        level, bits = self.estimator.tracker.level, 8.0 * payload_bytes
        slow = level is not None and busy_s > max(OUTAGE_S, OUTAGE_RATIO * bits / level)
        self._outage = slow and not self._outage
        return self._outage

    def add(self, crossing: Crossing, now: float) -> None:
        """Take a crossing that was timed otherwise and ended at `now`."""
        self.estimator.add_crossing(crossing, now)
        if self._kept and now - self._kept[-1][0] < BIN_S and self._kept[-1][1].probe == crossing.probe:
            then, last = self._kept.pop()
            self._kept.append((then, _merged(last, crossing)))
        else:
            self._kept.append((now, crossing))
        if len(self._kept) > MAX_CROSSINGS:
            (_, oldest), (then, second) = self._kept[:2]
            self._kept[:2] = [(then, _merged(oldest, second))]

    def echoed(self, trip: RoundTrip) -> None:
        """An echo came back from the peer."""
        self.returned(trip.rtt_s)

    def returned(self, rtt_s: float) -> None:
        """The same, of the time on the way alone."""
        if self._rtt_s is None or rtt_s < self._rtt_s:
            self._rtt_s = rtt_s

    def jumped(self, now: float) -> bool:
        """Whether the goodput has moved so far from the last report that the scheduler should hear of it at once."""
        if now - self._taken_s < BIN_S:
            return False
        if self._news:
            return True
        if self._started is None and not self._kept and not self._told.stalled:
            return False
        if self._kept and self._kept[-1][1].probe and (self.estimator.tracker.doubtful or self._told.doubtful):
            return True  # whoever sent the probe waits for it, to send the next
        self.estimator.wait(*self._waiting(now))
        own, told = self.estimator.goodput(now), self._told.goodput(now)
        if own is None:
            return False
        if self._told.tracker.estimate(now) is None and self.estimator.tracker.estimate(now) is not None:
            return True  # the first crossing: the scheduler knows a bound at most
        return told is None or not 1.0 / JUMP_RATIO < own.value / told.value < JUMP_RATIO

    def take(self, now: float) -> LinkReport:
        """What the next report says; starts the next one."""
        crossings: tuple[Crossing, ...] = ()
        if self._kept:
            crossings = tuple(
                Crossing(each.payload_bytes, each.busy_s, max(0.0, now - then), each.messages, each.probe)
                for then, each in self._kept
            )
            self._kept.clear()
        payload_bytes, waited_s = (0, 0.0) if self._started is None else self._waiting(now)
        report = LinkReport(self.peer, crossings, self._rtt_s, payload_bytes, waited_s, self._bytes_total)
        self._rtt_s, self._news = None, False
        if crossings or payload_bytes or self._told.stalled:  # an echo alone tells nothing of the goodput
            if self._told is _UNTOLD:
                self._told = LinkEstimator()
            self._told.add(report, now)
        self._taken_s = now
        return report

    def _waiting(self, now: float) -> tuple[int, float]:
        """Size of the message that is on its way, and for how long the link has been carrying it."""
        if self._started is None:
            return 0, 0.0
        payload_bytes, since_s = self._started
        return payload_bytes, max(0.0, now - max(since_s, self._finished_s))

    def _start_of(self, payload_bytes: int) -> float | None:
        """When the head of the message that has just come in was here; None where it has none."""
        if self._started is None or self._started[0] != payload_bytes:
            return None
        _, start_s = self._started
        self._started = None
        return start_s


def _merged(first: Crossing, second: Crossing) -> Crossing:
    return Crossing(
        first.payload_bytes + second.payload_bytes,
        first.busy_s + second.busy_s,
        0.0,
        first.messages + second.messages,
        first.probe and second.probe,
    )
