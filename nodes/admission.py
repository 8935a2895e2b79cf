"""The device's book-keeping, shared by its threads under one lock.

Credit, the waiting frame, attempts and retries, and the plan that the next frame is stamped with.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from enum import StrEnum

from torch import Tensor

from nodes.epochs import EpochStore
from pipeline.frames.ledger import Entry, Ledger
from pipeline.frames.sources import Frame
from pipeline.frames.wire import FrameHeader
from pipeline.plan import Plan
from scheduler.commands import Announcement
from scheduler.flow import HEDGED, STUCK, Flow, attempt_s
from scheduler.meter import Rate, Series
from scheduler.reports import StreamReport

logger = logging.getLogger(__name__)

ATTEMPT_BITS = 61
"""Attempts are numbered from a random number on, so that nobody can answer who was not sent the frame."""

CHECK_S = 0.1
"""How often frames in flight are held against their deadline while nothing else happens."""


class Admit(StrEnum):
    """What a full window does to the source."""

    EVERY = "every"
    """The source waits: no frame is let go."""
    LATEST = "latest"
    """The newest frame takes the place of the waiting one, which is counted as superseded."""


@dataclass(frozen=True)
class Waiting:
    """A frame of the source, prepared for the network."""

    frame: Frame
    picture: Tensor
    """uint8, (1, 3, height, width)."""


@dataclass(frozen=True)
class Outcome:
    """The network's answer for one frame."""

    waiting: Waiting
    header: FrameHeader
    outputs: dict[str, Tensor]
    latency_s: float
    admitted_s: float = 0.0
    """When it was first admitted, monotonic."""


@dataclass(frozen=True)
class Attempt:
    """One frame to send on its way now."""

    plan: Plan
    entry: Entry[Waiting]
    key: bool


@dataclass
class Counts:
    """What happened to the stream so far."""

    drops: Counter[str] = field(default_factory=Counter)
    """Frames let go before admission, by reason."""
    frames: Rate = field(default_factory=Rate)
    latency_s: Series = field(default_factory=Series)
    first_frame: int | None = None
    """Number of the first frame admitted under the plan of now; None while none was."""


class Admission:
    """The device's decisions about frames, shared by its threads under one lock."""

    def __init__(self, stream: str, fallback: Plan, epochs: EpochStore, policy: Admit) -> None:
        flow = Flow(fallback)
        self.stream = stream
        self.policy = policy
        self.flow = flow
        self.counts = Counts()
        self.ledger: Ledger[Waiting, Outcome] = Ledger(flow.window, lambda: secrets.randbits(ATTEMPT_BITS))
        self.plan = fallback
        self.fallback_reason = ""
        self.on_switch: Callable[[Plan, int], None] = lambda plan, frame: None
        """Told of every plan's first frame."""
        self._narrowed = self._may_detour = False
        self._fallback = fallback
        self._epochs = epochs
        self._highest_epoch = 0
        self._highest_used = 0
        self._lost: dict[str, int] = {}
        self._announced: dict[int, Plan] = {0: fallback}
        self._committed = fallback
        """By the latest announcement."""
        self._waiting: Waiting | None = None
        self._retries: deque[Attempt] = deque()
        self._key_due = False
        self._source_ended = False
        self._stopping = False
        self._changed = threading.Condition()
        self.source_fps = 0.0

    # --- the source's side

    def offer(self, waiting: Waiting) -> bool:
        """Put a frame forward; waits for room under `every`, replaces the waiting frame under `latest`.

        Returns:
            False once the stream is stopped: the frame is not taken.
        """
        with self._changed:
            if self.policy is Admit.EVERY:
                self._changed.wait_for(lambda: self._waiting is None or self._stopping)
            elif self._waiting is not None:
                self.counts.drops["superseded"] += 1
            if self._stopping:
                return False
            self._waiting = waiting
            self._changed.notify_all()
            return True

    def source_ended(self) -> None:
        """The source has no more frames."""
        with self._changed:
            self._source_ended = True
            self._changed.notify_all()

    def stop(self) -> None:
        """Admit nothing more, and let everybody who waits go on."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()

    def wait_for_plan(self, timeout_s: float) -> bool:
        """Whether a plan of the scheduler's is in force, within `timeout_s` (or the stream stops)."""
        with self._changed:
            in_force = lambda: self.plan.epoch > 0 or self._stopping  # noqa: E731
            return self._changed.wait_for(in_force, max(0.0, min(timeout_s, CHECK_S)))

    def narrow(self, window: int) -> None:
        """Let only so many frames be in flight, until the next plan."""
        with self._changed:
            self.ledger.window, self._narrowed = window, True
            self._changed.notify_all()

    # --- the stage's side

    def attempts(self) -> Iterator[Attempt]:
        """Frames to send on their way, one by one, until the source has ended and every result is in."""
        while True:
            with self._changed:
                self._changed.wait_for(self._has_something_to_do, CHECK_S)
                if self._stopping or self._is_finished():
                    return
                self._give_up_late_frames(time.monotonic())
                attempt = self._next_attempt(time.monotonic())
            if attempt is not None:
                yield attempt

    def _has_something_to_do(self) -> bool:
        now = time.monotonic()
        if self._stopping or self._retries or self._can_admit(now) or self._is_finished():
            return True
        return self._stuck(now) is not None or self.flow.hedge(self.ledger) is not None

    def _can_admit(self, now: float) -> bool:
        return self._waiting is not None and (self._takes_credit(now) or self._goes_alone(now))

    def _takes_credit(self, now: float) -> bool:
        return self.ledger.has_credit and not self.flow.handover.waits(self.ledger, now)

    def _goes_alone(self, now: float) -> bool:
        """Whether the next frame is computed here alone: in an outage, or in time that the plan leaves."""
        if self.flow.takes_detour(self.ledger, self._may_go_alone, now):
            return True
        return not self._narrowed and self.flow.takes_spare(self.ledger)

    def _stuck(self, now: float) -> Entry[Waiting] | None:
        """The frame to compute here as well, since nothing comes back and no other can be begun."""
        return self.flow.stuck(self.ledger, self._waiting is not None, self._may_go_alone, now)

    @property
    def _may_go_alone(self) -> bool:
        return self._may_detour and not self._narrowed

    def _is_finished(self) -> bool:
        return self._source_ended and self._waiting is None and not self.ledger.in_flight

    def _next_attempt(self, now: float) -> Attempt | None:
        if self._retries:
            return self._retries.popleft()
        if not self._can_admit(now) or self._waiting is None:
            return self._double(now)
        waiting, self._waiting = self._waiting, None
        if self._goes_alone(now):
            entry = self.ledger.admit(waiting.frame.number, 0, waiting, now, credit=False)
            self._changed.notify_all()
            return Attempt(self._fallback, entry, key=True)
        entry = self.ledger.admit(waiting.frame.number, self.plan.epoch, waiting, now)
        self._note_first_frame(waiting.frame.number)
        key, self._key_due = self._key_due, False
        self._changed.notify_all()
        return Attempt(self.plan, entry, key)

    def _double(self, now: float) -> Attempt | None:
        entry, why = self._stuck(now), STUCK
        if entry is None and not self._narrowed:
            entry, why = self.flow.hedge(self.ledger), HEDGED
        if entry is None:
            return None
        self.flow.double(entry, why)
        self._retry(entry.frame, entry.attempt, why, self._fallback)
        return self._retries.popleft()

    def _note_first_frame(self, frame: int) -> None:
        if self.counts.first_frame is None:
            self.counts.first_frame = frame
            self.on_switch(self.plan, frame)

    # --- results and losses

    def complete(self, header: FrameHeader, outputs: dict[str, Tensor], now: float) -> list[Outcome]:
        """Take a result; returns the outcomes whose turn it is, in frame order."""
        with self._changed:
            entry = next((one for one in self.ledger.entries() if one.frame == header.frame), None)
            if entry is None:
                self.ledger.drops["duplicate"] += 1
                return []
            latency_s = now - entry.first_admitted_s
            outcome = Outcome(entry.picture, header, outputs, latency_s, entry.first_admitted_s)
            self.ledger.complete(header.frame, outcome, header.attempt)
            self.counts.frames.tick(now)
            self.counts.latency_s.add(latency_s)
            admitted_s = attempt_s(entry, header.attempt)
            queued_s = sum(hop.queue_s for hop in header.hops)
            own_s = header.hops[0].compute_s if header.hops else 0.0
            self.flow.result((header.frame, header.attempt), header.epoch, admitted_s, now, queued_s, own_s)
            if not self._narrowed:
                self.ledger.window = self.flow.window
            ready = list(self.ledger.ready())
            self._changed.notify_all()
            return ready

    def expects(self, frame: int, attempt: int) -> bool:
        """Whether somebody was sent that attempt at a frame, and the frame has no result yet."""
        with self._changed:
            return self.ledger.expects(frame, attempt)

    def count_unasked(self, frame: int, attempt: int) -> None:
        """A result or a notice came that nobody waits for: the frame has its result, or this attempt was never made."""
        with self._changed:
            now, admitted_s = time.monotonic(), self.ledger.release(frame)
            self.flow.result((frame, attempt), self.plan.epoch if admitted_s else 0, admitted_s, now)
            in_flight = any(entry.frame == frame for entry in self.ledger.entries())
            self.ledger.drops["unasked" if in_flight else "duplicate"] += 1

    def lose(self, frame: int, attempt: int, reason: str) -> None:
        """An attempt at a frame is lost: admit the frame again, under a plan that can work."""
        with self._changed:
            if reason == "need-key":
                self._key_due = True
            elif reason in UNWORKABLE and self.plan.epoch and self._is_current(frame):
                self._fall_back(reason)
            self._retry(frame, attempt, reason)
            self._changed.notify_all()

    def _is_current(self, frame: int) -> bool:
        return any(entry.frame == frame and entry.epoch == self.plan.epoch for entry in self.ledger.entries())

    def _retry(self, frame: int, attempt: int, reason: str, plan: Plan | None = None) -> None:
        plan = plan or self.plan
        entry = self.ledger.readmit(frame, attempt, plan.epoch, reason, time.monotonic(), reason == HEDGED)
        if entry is not None:
            self._retries.append(Attempt(plan, replace(entry), key=True))

    def _give_up_late_frames(self, now: float) -> None:
        limit_s = self.flow.limit_s(self.counts.latency_s, now)
        self.ledger.forgive(now - limit_s)
        in_flight = self.ledger.entries()
        late = [entry for entry in in_flight if now - entry.admitted_s > limit_s]
        for entry in late:
            if self.flow.is_hopeless(self._announced.get(entry.epoch), self._may_detour, limit_s, now):
                self._fall_back(f"no result for frame {entry.frame} in {limit_s:.1f} s")
                break
        for entry in self.flow.to_give_up(late, in_flight, self._may_detour, now):
            self.flow.give_up(entry.frame, entry.attempt, entry.epoch)
            self._retry(entry.frame, entry.attempt, "late", self._fallback if self._may_detour else self.plan)

    def _fall_back(self, reason: str) -> None:
        logger.warning("%s: everything on the device from here on (%s)", self.stream, reason)
        self.fallback_reason = reason
        self._use(self._fallback)

    # --- the scheduler's word

    def hear(self, announcement: Announcement) -> None:
        """Follow an announcement: lost nodes at once, a committed plan as soon as it is built here."""
        with self._changed:
            self._highest_epoch = max(self._highest_epoch, *(plan.epoch for plan in announcement.plans))
            self._announced |= {plan.epoch: plan for plan in announcement.plans}
            self._announced = {epoch: self._announced[epoch] for epoch in sorted(self._announced)[-MAX_ANNOUNCED:]}
            self._lost, self._may_detour = announcement.lost, announcement.detour
            self.flow.fills_up, self.flow.hedges = announcement.fills_up, announcement.hedges
            self._committed = announcement.committed
            self._follow()
            self._leave_lost_nodes()
            self._changed.notify_all()

    def built(self) -> None:
        """A plan can run here from now on; it may be one that was committed before it could."""
        with self._changed:
            self._follow()
            self._changed.notify_all()

    def _follow(self) -> None:
        plan = self._committed
        is_new = plan.epoch > self._highest_used
        if is_new and self._epochs.is_ready(self.stream, plan.epoch) and not self._lost_nodes(plan):
            self.fallback_reason = ""
            self._use(plan)

    def _use(self, plan: Plan) -> None:
        self.plan = plan
        self._highest_used = max(self._highest_used, plan.epoch)
        self.counts.first_frame = None
        self._narrowed = False
        self.flow.begin(plan, time.monotonic())
        self.ledger.renew(self.flow.window)

    def _lost_nodes(self, plan: Plan) -> list[str]:
        """Nodes of `plan` that are dead, or have forgotten its epoch in a new start."""
        return [name for name in plan.nodes if self._lost.get(name, -1) >= plan.epoch]

    def _leave_lost_nodes(self) -> None:
        if gone := self._lost_nodes(self.plan):
            self._fall_back(f"lost {', '.join(gone)}")
        for entry in self.ledger.entries():
            plan = self._announced.get(entry.epoch)
            if plan is not None and plan.epoch != self.plan.epoch and self._lost_nodes(plan):
                self._retry(entry.frame, entry.attempt, "node-lost")

    # --- what the reports say

    def report(self) -> StreamReport:
        """The stream as its device tells it."""
        with self._changed:
            counts = self.counts
            return StreamReport(
                self.stream,
                self.plan.epoch,
                max(self._highest_epoch, self.plan.epoch),
                self.plan if self.plan.epoch else None,
                counts.first_frame,
                tuple(sorted(self.ledger.epochs)),
                self.source_fps,
                self.ledger.window,
                self.ledger.in_flight,
                self.ledger.admitted,
                self.ledger.completed,
                counts.frames.figure(),
                counts.latency_s.figure(),
                dict(counts.drops),
                self.fallback_reason,
                self._is_finished(),
                self._highest_used,
            )


UNWORKABLE = frozenset(
    {"unknown-epoch", "model-mismatch", "bad-message", "codec", "send-timeout", "compute", "stopping"}
)
"""Reasons for which the plan itself, not the one frame, is given up."""

MAX_ANNOUNCED = 64
"""Plans that the device remembers by epoch, to know which nodes a frame in flight depends on."""
