"""How many frames of a stream may be in flight, and what a device computes of them alone.

Pure, and the same for a live and a simulated device: time is an argument.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence

from pipeline.frames.ledger import MAX_OPEN, Entry, Ledger, Outcome, Picture
from pipeline.plan import Plan
from scheduler.meter import Series
from scheduler.outage import MAX_GIVEN_UP, RESULT_TIMEOUT_S, SILENT_LATENCIES, SILENT_S, Deadline, Detour
from scheduler.window import CreditWindow

PATIENCE = 3.0
"""Deadlines without a result after which a device that computes alone meanwhile leaves the plan."""

SCOUT_S = RESULT_TIMEOUT_S
"""After this, in an outage, one more frame goes by the plan where all that went before were computed on the device."""

HEDGE_NEAR, HEDGE_GAP = 0.5, 0.8
"""Frames on their way are computed as well where they lately took so many times as long as that takes, or longer; in
one go where that is done in this share of the time until the camera's next frame."""

STUCK, HEDGED = "stuck", "hedged"
"""Why a frame that is on its way is computed as well."""

LEAST_SPARE, LEAST_MORE = 0.2, 0.05
"""Of a device's time, what its plan has to leave for frames of its own, in less they would take too long; and of the
plan's results, how many more there have to be: they are in its way a little."""

OWN_FRAMES = 16
"""Frames over which a device's part of a plan is averaged."""


class Handover:
    """How fast a new plan's frames may follow the last ones of the plan before.

    Results leave in order, so whatever comes out ahead of those waits for them; and where nodes share a machine or a
    link, it is in their way. So one frame follows for each that leaves, as TCP conserves packets (Jacobson,
    SIGCOMM '88), while the older ones come home as they did. Once they do not, each plan has credit of its own.
    """

    def __init__(self) -> None:
        self._size = 0
        self._latency_s = 0.0
        self._result_s = self._until_s = -math.inf

    def begin(self, sizes: tuple[int, int], latency_s: float, now: float) -> None:
        """Another plan begins.

        Args:
            sizes: windows of the plan before and of the new one.
            latency_s: typical of the plan before; 0 where none of its frames came home.
            now: the time.
        """
        self._size, self._latency_s = max(sizes), latency_s
        self._until_s = now + SILENT_S

    def result(self, now: float) -> None:
        """A result came home, of whatever plan."""
        self._result_s = now

    def until_s(self) -> float:
        """When it is over, if nothing comes home before."""
        return min(self._until_s, self._result_s + self._latency_s)

    def waits(self, ledger: Ledger[Picture, Outcome], now: float) -> bool:
        """Whether the next frame is to wait for an older one to leave."""
        return now < self.until_s() and ledger.open >= self._size and ledger.has_older


class Spare:
    """What a plan leaves of the device's time: frames that it cannot take yet are computed in it, on the device alone.

    A device whose link is the bottleneck has little to do; it is as fast as ever. While one of its own is computed,
    frames of the plan go on between its pieces, and their results wait for it, for they leave in order.
    """

    def __init__(self) -> None:
        self._own_s = 0.0

    def begin(self) -> None:
        """Another plan begins."""
        self._own_s = 0.0

    def result(self, own_s: float) -> None:
        """A result of the plan came home, whose frame the device computed its part of in so long."""
        self._own_s += (own_s - self._own_s) / (OWN_FRAMES if self._own_s else 1)

    def has_time(self, window: CreditWindow, detour: Detour, room: int) -> bool:
        """Whether a frame is begun now.

        Of a full window, each piece keeps a frame waiting for half of what it takes, in the mean: so much longer is the
        round in which as many results come as the window holds, at most. What is gained is to be twice that.

        Args:
            window: the plan's.
            detour: what a frame takes on the device alone.
            room: results that may wait for it.
        """
        rate, alone_s = window.rate, detour.alone_s
        left = 1.0 - rate * self._own_s
        if left < max(LEAST_SPARE, LEAST_MORE * rate * alone_s) or rate * alone_s / left >= room:
            return False
        return detour.piece_s <= window.least_s and left / alone_s >= rate * rate * detour.piece_s / window.size


class Flow:
    """All five for one stream, whatever plan it runs."""

    def __init__(self, plan: Plan) -> None:
        self.detour = Detour()
        self.handover = Handover()
        self.fills_up = False
        """Whether the device computes frames alone in the time that its plan leaves it."""
        self.hedges = False
        """Whether it computes frames as well that are on their way."""
        self._spare = Spare()
        self._deadline = Deadline()
        self._plan = plan
        self._window = CreditWindow(plan)
        self._latency_s = Series()
        self._stuck_s = SILENT_S
        """A frame of the plan before that is under way for longer is stuck."""
        self._doubled: OrderedDict[tuple[int, int], int] = OrderedDict()
        """Attempts that went by a plan before their frame was computed on the device as well, and the plan's epoch."""

    @property
    def window(self) -> int:
        """Frames that may be in flight under the running plan."""
        return self._window.size

    def begin(self, plan: Plan, now: float) -> None:
        """The next frames go by this plan."""
        before = self._window.size
        latency_s = self._latency_s.figure().window
        if not self._plan.is_device_only:
            self._stuck_s = max(SILENT_S, SILENT_LATENCIES * latency_s)
        self._plan = plan
        self._window = CreditWindow(plan)
        self.handover.begin((before, self._window.size), latency_s, now)
        self._latency_s = Series()
        self._spare.begin()
        self.detour.begin(now)

    def result(
        self,
        attempt: tuple[int, int],
        epoch: int,
        admitted_s: float | None,
        now: float,
        queued_s: float = 0.0,
        own_s: float = 0.0,
    ) -> None:
        """Take a result.

        Args:
            attempt: frame, and number of the attempt that it is of.
            epoch: of the plan that the frame went by.
            admitted_s: when that attempt was admitted; None where another one is under way by now.
            now: the time.
            queued_s: how long the frame waited in nodes, as they say.
            own_s: what the device computed of it took.
        """
        self._deadline.result(*attempt, now)
        self.handover.result(now)
        if self._doubled.pop(attempt, 0) == self._plan.epoch:
            self.detour.result(now)
        if epoch == self._plan.epoch:
            self.detour.result(now)
            self._spare.result(own_s)
            if admitted_s is not None:
                self._latency_s.add(now - admitted_s)
                self._window.result(now - admitted_s, now, queued_s)

    def limit_s(self, latency_s: Series, now: float) -> float:
        """See `Deadline.limit_s`."""
        return self._deadline.limit_s(latency_s, now)

    def give_up(self, frame: int, attempt: int, epoch: int) -> None:
        """An attempt was given up as late."""
        self._deadline.give_up(frame, attempt)
        self.detour.is_suspect = self.detour.is_suspect or epoch == self._plan.epoch

    def takes_detour(self, ledger: Ledger[Picture, Outcome], may_detour: bool, now: float) -> bool:
        """Whether the next frame is computed on the device alone, since nothing has come back for so long."""
        if not may_detour or not self.may_be_silent(now) or not ledger.has_room:
            return False
        in_flight = ledger.entries()
        return now >= self.detour_s(in_flight, now) and not has_detour(in_flight)

    def takes_spare(self, ledger: Ledger[Picture, Outcome]) -> bool:
        """Whether the next frame is computed on the device alone, in time that the plan, which is full, leaves it."""
        if not (self.fills_up or self.hedges) or ledger.has_credit or self._plan.is_device_only:
            return False
        if self.hedges:
            return self._is_near() and ledger.has_room and not has_detour(ledger.entries())
        if not self._window.is_settled:
            return False
        room = MAX_OPEN - ledger.open
        return self._spare.has_time(self._window, self.detour, room) and not has_detour(ledger.entries())

    def hedge(self, ledger: Ledger[Picture, Outcome]) -> Entry[Picture] | None:
        """The frame that a device with nothing else to do computes as well, for it may be late: the newest on its way.

        Whichever result is there first counts. Old ones have waited for long, and may be there any moment; and a device
        that is slower than its camera would fall further behind with each.
        """
        if not self.hedges or self._plan.is_device_only or not ledger.in_flight or not self._is_near():
            return None
        in_flight = ledger.entries()
        return None if has_detour(in_flight) else self._newest(in_flight)

    def leaves_gaps(self, fps: float) -> bool:
        """Whether a frame is computed alone before a camera's next one comes: then in one go, for that is faster."""
        return self.hedges and 0.0 < fps * self.detour.alone_s < HEDGE_GAP

    def _is_near(self) -> bool:
        """Whether the device alone is about as fast as the plan lately."""
        return self._latency_s.figure().window >= HEDGE_NEAR * self.detour.alone_s

    def _newest(self, in_flight: Sequence[Entry[Picture]]) -> Entry[Picture] | None:
        return next((entry for entry in reversed(in_flight) if entry.epoch == self._plan.epoch), None)

    def stuck(
        self, ledger: Ledger[Picture, Outcome], waits: bool, may_detour: bool, now: float
    ) -> Entry[Picture] | None:
        """The frame that a device with nothing else to do computes as well in an outage: the oldest on its way.

        Results leave in order, so behind a frame that is stuck all others wait, in the end without room for more.
        Whichever result is there first counts. The same holds for a device that went over to itself, and frames of the
        plan that it left: they may be in a link that is dead.

        Args:
            ledger: the frames in flight.
            waits: whether a frame of the source waits to be admitted; where it can be, it goes first.
            may_detour: whether the device may compute frames alone.
            now: the time.
        """
        if not may_detour or not is_stalled(ledger, waits) or not self.may_be_stuck(ledger, now):
            return None
        in_flight = ledger.entries()
        if now < self.stuck_s(ledger, in_flight, now):
            return None
        if self._plan.is_device_only:
            again = any(entry.attempt > entry.first_attempt and not entry.epoch for entry in in_flight)
            return None if again else next(self._left_behind(in_flight), None)
        return None if has_detour(in_flight) else next(iter(in_flight), None)

    def stuck_s(self, ledger: Ledger[Picture, Outcome], in_flight: Sequence[Entry[Picture]], now: float) -> float:
        """From when on the oldest frame counts as stuck, if nothing comes home before; infinite for never.

        Where it leaves no room for frames that the device would compute alone beside the plan, although others come.
        """
        held_up_s = math.inf
        if self.fills_up and not ledger.has_room and in_flight:
            held_up_s = in_flight[0].admitted_s + SILENT_LATENCIES * self._window.least_s
        if self._plan.is_device_only:
            left_s = min((entry.admitted_s for entry in self._left_behind(in_flight)), default=math.inf)
            return min(held_up_s, left_s + self._stuck_s)
        return min(held_up_s, self.detour_s(in_flight, now) if self.may_be_silent(now) else math.inf)

    def may_be_stuck(self, ledger: Ledger[Picture, Outcome], now: float) -> bool:
        """Whether it is worth asking for a frame that is stuck; quick, for every frame."""
        if self._plan.is_device_only:
            return ledger.has_older
        return self.may_be_silent(now) or (self.fills_up and not ledger.has_room)

    def _left_behind(self, in_flight: Iterable[Entry[Picture]]) -> Iterator[Entry[Picture]]:
        """Frames of plans before, on their way through other nodes."""
        return (entry for entry in in_flight if entry.epoch not in (0, self._plan.epoch))

    def double(self, entry: Entry[Picture], why: str) -> None:
        """The frame is computed on the device as well; its result may come home all the same.

        Args:
            entry: the frame.
            why: `STUCK`, then its plan may not work; or `HEDGED`.
        """
        self._doubled[entry.frame, entry.attempt] = entry.epoch
        while len(self._doubled) > MAX_GIVEN_UP:
            self._doubled.popitem(last=False)
        if why == STUCK and entry.epoch == self._plan.epoch:
            self.detour.is_suspect = True
            self.detour.scout_s = max(self.detour.scout_s, entry.admitted_s)

    def is_hopeless(self, late: Plan | None, may_detour: bool, limit_s: float, now: float) -> bool:
        """Whether the running plan is to be left, since a frame of the plan `late` is late.

        A device that may compute frames alone has no haste: the scheduler hears of dead nodes, and no outage is mended
        by another plan. After three deadlines without any result it leaves all the same.
        """
        if not shares_a_node(self._plan, late):
            return False
        return not may_detour or self.detour.silent_s(now) > PATIENCE * limit_s

    def may_be_silent(self, now: float) -> bool:
        """Whether it is worth asking for a detour; quick, for every frame."""
        return self.detour.is_suspect or self.detour.silent_s(now) >= SILENT_S

    def to_give_up(
        self, late: list[Entry[Picture]], in_flight: list[Entry[Picture]], may_detour: bool, now: float
    ) -> list[Entry[Picture]]:
        """Those of the late frames that are computed anew now.

        On a detour one at a time, as any frame: all at once would keep the device from the plan's frames when the
        outage is over, and the late ones are likely to come home then.
        """
        late = [entry for entry in late if entry.epoch]  # a second attempt on the device itself would not be faster
        if not may_detour or self._plan.is_device_only:
            return late
        is_due = now >= self.detour_s(in_flight, now) and not has_detour(in_flight)
        return late[:1] if is_due else []

    def detour_s(self, in_flight: Iterable[Entry[Picture]], now: float) -> float:
        """From when on frames take the detour, if nothing comes home before; infinite for never."""
        own = (entry.admitted_s for entry in in_flight if entry.epoch == self._plan.epoch)
        # A frame that was computed here meanwhile is on its way still: no other has to find out.
        oldest_s = min(own, default=self.detour.scout_s if now < self.detour.scout_s + SCOUT_S else math.inf)
        if self._plan.is_device_only or math.isinf(oldest_s):
            return math.inf
        return self.detour.due_s(oldest_s, self._window.rate, self._window.least_s)


def attempt_s(entry: Entry[Picture], attempt: int) -> float | None:
    """When an attempt at a frame that has its result now was admitted; None for one that is not known any more."""
    if attempt == entry.attempt:
        return entry.admitted_s
    return entry.first_admitted_s if entry.hedged and attempt == entry.first_attempt else None


def is_stalled(ledger: Ledger[Picture, Outcome], waits: bool) -> bool:
    """Whether frames are in flight and no other can be begun; `waits` tells that one waits for that."""
    return ledger.in_flight > 0 and not (waits and ledger.has_room)


def has_detour(in_flight: Iterable[Entry[Picture]]) -> bool:
    """Whether a frame is computed on the device alone; a second one would only be in the way of the plan's."""
    return any(entry.epoch == 0 for entry in in_flight)


def shares_a_node(one: Plan, other: Plan | None) -> bool:
    """Whether frames of both plans pass through one node other than the device."""
    return other is not None and not {*one.nodes[1:]}.isdisjoint(other.nodes[1:])
