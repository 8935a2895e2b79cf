"""A simulated device: source, credit window, epochs stamped at admission, lost frames admitted again.

The rules are those of `nodes.admission`, on the same `Ledger`.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from pipeline.frames.ledger import Entry, Ledger
from pipeline.plan import Plan
from scheduler.commands import Announcement
from scheduler.flow import HEDGED, STUCK, Flow, attempt_s, is_stalled
from scheduler.meter import Rate, Series
from scheduler.outage import SILENT_S
from scheduler.reports import StreamReport
from scheduler.simulate.agenda import Agenda
from scheduler.simulate.node import Job, SimulatedNode
from scheduler.simulate.routes import Routes
from scheduler.simulate.scenes import Scenes

CHECK_S = 0.1


@dataclass(frozen=True)
class SourceSettings:
    """What the device reads."""

    stream: str
    fps: float
    """0 where a frame is there whenever one is wanted."""
    latest: bool
    """Whether the newest frame takes the place of the waiting one."""
    start_s: float
    end_s: float
    frames: int | None = None
    scenes: Scenes | None = None
    """None where all frames are alike."""


class Done(NamedTuple):
    """A frame with its result."""

    frame: int
    attempt: int
    epoch: int
    admitted_s: float
    done_s: float
    bytes: int
    drop: float | None
    """Accuracy drop of its plan's codecs."""


@dataclass
class Hooks:
    """What a device needs of its surroundings."""

    is_ready: Callable[[Plan], bool]
    """Whether the device's own segment of a plan is built."""
    hurry: Callable[[], None]
    """Report at once."""
    done: Callable[[SimulatedDevice, Done], None]
    switched: Callable[[SimulatedDevice, Plan, str], None]
    finished: Callable[[], None]
    """The source has ended and every result is in."""
    planned: Callable[[], None] = lambda: None
    """The next frames go by another plan."""


@dataclass
class _Counts:
    drops: Counter[str] = field(default_factory=Counter)
    frames: Rate = field(default_factory=Rate)
    latency_s: Series = field(default_factory=Series)
    first_frame: int | None = None


class SimulatedDevice:
    """One stream's source and book."""

    def __init__(self, source: SourceSettings, node: SimulatedNode, routes: Routes, fallback: Plan) -> None:
        self.source = source
        self.node = node
        self.counts = _Counts()
        self._flow = Flow(fallback)
        self._flow.detour.alone_s, self._flow.detour.piece_s = sum(routes.pieces_s), max(routes.pieces_s)
        self._may_detour = self._watching = False
        self.ledger: Ledger[None, None] = Ledger(self._flow.window)
        self.plan = fallback
        self.hooks = Hooks(
            lambda plan: True, lambda: None, lambda device, done: None, lambda device, plan, why: None, lambda: None
        )
        self._agenda: Agenda = node.agenda
        self._routes = routes
        self._fallback = fallback
        self._fallback_reason = ""
        self._highest_epoch = self._highest_used = 0
        self._lost: frozenset[str] = frozenset()
        self._announced: dict[int, Plan] = {0: fallback}
        self._waiting: int | None = None
        self._offered = 0
        self._blocked: Job | None = None
        self._retries: deque[tuple[Plan, Entry[None]]] = deque()
        self._ended = self._checking = self._pumping = False
        node.on_room = self._room
        self._agenda.at(source.start_s, self._offer)

    @property
    def is_finished(self) -> bool:
        """Whether the source has ended and every result is in."""
        return self._ended and self._waiting is None and not self.ledger.in_flight

    # --- the source

    def _offer(self) -> None:
        """The source's next frame."""
        source, now = self.source, self._agenda.now
        if now >= source.end_s or (source.frames is not None and self._offered >= source.frames):
            self._ended = True
            self.hooks.hurry()
            if self.is_finished:
                self.hooks.finished()
            return
        if self._waiting is not None:
            if not source.latest:
                return  # the source waits; `_admit` calls it again
            self.counts.drops["superseded"] += 1
        self._waiting = self._offered
        self._offered += 1
        if source.fps > 0.0:
            self._agenda.at(max(now, source.start_s + self._offered / source.fps), self._offer)
        self._pump()

    def _go_on(self) -> None:
        """The waiting frame has gone: a source that waited for that goes on."""
        due_s = self.source.start_s + self._offered / self.source.fps if self.source.fps > 0.0 else 0.0
        if not self.source.latest and due_s <= self._agenda.now:
            self._offer()

    # --- frames on their way

    def _room(self) -> None:
        if self._blocked is not None:
            job, self._blocked = self._blocked, None
            self.node.submit(job)
        self._pump()

    def _pump(self) -> None:
        """Admit what can be admitted; the thread that does so waits while compute has no room."""
        if self._pumping:
            return  # called from inside: the loop below goes on
        self._pumping = True
        while self._blocked is None:
            if self._retries:
                plan, entry = self._retries.popleft()
                self._submit(plan, entry)
            elif self._waiting is not None and self._takes_detour():
                self._admit_alone()
            elif self._waiting is not None and self.ledger.has_credit and not self._waits():
                frame, self._waiting = self._waiting, None
                entry = self.ledger.admit(frame, self.plan.epoch, None, self._agenda.now)
                self._note_first(frame)
                self._submit(self.plan, entry)
                self._go_on()
            elif self._waiting is not None and self._flow.takes_spare(self.ledger):
                self._admit_alone()
            elif not self._doubles() and not self._hedges() and not self._retries:
                break
        self._pumping = False

    def _admit_alone(self) -> None:
        assert self._waiting is not None
        frame, self._waiting = self._waiting, None
        self._submit(self._fallback, self.ledger.admit(frame, 0, None, self._agenda.now, credit=False))
        self._go_on()

    def _waits(self) -> bool:
        """Whether the waiting frame has to let older ones leave first."""
        if not self._flow.handover.waits(self.ledger, self._agenda.now):
            return False
        self._watch_from(self._flow.handover.until_s())
        return True

    def _watch_from(self, due_s: float) -> None:
        """Look again then, and no sooner than the live device would."""
        if not self._watching:
            self._watching = True
            self._agenda.at(max(due_s, self._agenda.now + CHECK_S), self._watch)

    def _takes_detour(self) -> bool:
        """Whether the waiting frame is computed here alone, since nothing has come back for so long."""
        if not self._may_detour or not self.ledger.has_room or not self._is_silent():
            return False
        takes = self._flow.takes_detour(self.ledger, self._may_detour, self._agenda.now)
        return takes and not self._give_up_late_frames()

    def _is_silent(self) -> bool:
        """Whether frames are computed here alone; looked at again when they may be."""
        if not self._may_detour:
            return False
        now = self._agenda.now
        if not self._flow.may_be_silent(now):
            self._watch_from(now + SILENT_S)
            return False
        due_s = self._flow.detour_s(self._entries(), now)
        if now < due_s < math.inf:
            self._watch_from(due_s)
        return due_s <= now

    def _doubles(self) -> bool:
        """Whether a frame that is on its way is computed here as well, since nothing comes back and no other can be."""
        if not self._may_detour:
            return False
        waits, now = self._waiting is not None, self._agenda.now
        if not is_stalled(self.ledger, waits):
            return False
        due_s = now + SILENT_S
        if self._flow.may_be_stuck(self.ledger, now):
            entry = self._flow.stuck(self.ledger, waits, self._may_detour, now)
            if entry is not None:
                self._double(entry, STUCK)
                return True
            due_s = self._flow.stuck_s(self.ledger, self._entries(), now)
        if now < due_s < math.inf:
            self._watch_from(due_s)
        return False

    def _hedges(self) -> bool:
        """Whether a frame that is on its way is computed here as well, for it may be late."""
        entry = self._flow.hedge(self.ledger)
        if entry is not None:
            self._double(entry, HEDGED)
        return entry is not None

    def _double(self, entry: Entry[None], why: str) -> None:
        self._flow.double(entry, why)
        self._retry(entry.frame, entry.attempt, why, self._fallback)

    def _watch(self) -> None:
        self._watching = False
        self._pump()

    def _submit(self, plan: Plan, entry: Entry[None]) -> None:
        job = Job(self, entry.frame, entry.attempt, self._routes.of(plan), received_s=self._agenda.now)
        if self.source.scenes is not None:
            job.busyness = self.source.scenes.busyness(entry.frame)
        if not plan.epoch and not self.plan.is_device_only and not self._flow.leaves_gaps(self.source.fps):
            job.pieces_s = self._routes.pieces_s
        if self.node.has_room:
            self.node.submit(job)
        else:
            self._blocked = job
        self._check_later()

    def _note_first(self, frame: int) -> None:
        if self.counts.first_frame is None:
            self.counts.first_frame = frame
            self.hooks.switched(self, self.plan, self._fallback_reason)
            self.hooks.hurry()

    def complete(self, job: Job) -> None:
        """A result came home."""
        now = self._agenda.now
        entry = self.ledger.complete(job.frame, None, job.attempt)
        admitted_s = self.ledger.release(job.frame) if entry is None else attempt_s(entry, job.attempt)
        epoch = job.route.plan.epoch if entry is not None or admitted_s is not None else 0
        self._flow.result((job.frame, job.attempt), epoch, admitted_s, now, job.queued_s, job.route.hops[0].compute_s)
        if entry is None:
            return
        self.ledger.window = self._flow.window
        self.counts.frames.tick(now)
        self.counts.latency_s.add(now - entry.first_admitted_s)
        for _ in self.ledger.ready():
            pass
        epoch, sent = job.route.plan.epoch, job.route.bytes_of(job.busyness)
        self.hooks.done(self, Done(job.frame, job.attempt, epoch, entry.first_admitted_s, now, sent, job.route.drop))
        self._pump()
        if self.is_finished:
            self.hooks.hurry()
            self.hooks.finished()

    # --- losses

    def lose(self, frame: int, attempt: int, reason: str) -> None:
        """A node gave an attempt up."""
        if self.plan.epoch and any(each.frame == frame and each.epoch == self.plan.epoch for each in self._entries()):
            self._fall_back(reason)
        self._retry(frame, attempt, reason)
        self._pump()

    def _entries(self) -> list[Entry[None]]:
        return self.ledger.entries()

    def _retry(self, frame: int, attempt: int, reason: str, plan: Plan | None = None) -> None:
        plan = plan or self.plan
        entry = self.ledger.readmit(frame, attempt, plan.epoch, reason, self._agenda.now, reason == HEDGED)
        if entry is not None:
            self._retries.append((plan, replace(entry)))

    def _limit_s(self) -> float:
        return self._flow.limit_s(self.counts.latency_s, self._agenda.now)

    def _check_later(self) -> None:
        if not self._checking and self.ledger.in_flight:
            self._checking = True
            oldest_s = min(entry.admitted_s for entry in self._entries())
            self._agenda.at(max(self._agenda.now + CHECK_S, oldest_s + self._limit_s()), self._check)

    def _check(self) -> None:
        """Give late frames up, as the live device does every tenth of a second."""
        self._checking = False
        # The live device's thread is the one that waits for room: it looks at nothing meanwhile.
        if self._blocked is None:
            self._give_up_late_frames()
            self._pump()
        self._check_later()

    def _give_up_late_frames(self) -> bool:
        """Returns whether there were some."""
        now, limit_s = self._agenda.now, self._limit_s()
        self.ledger.forgive(now - limit_s)
        in_flight = self._entries()
        late = [entry for entry in in_flight if now - entry.admitted_s > limit_s - 1e-9]
        for entry in late:
            if self._flow.is_hopeless(self._announced.get(entry.epoch), self._may_detour, limit_s, now):
                self._fall_back(f"no result for frame {entry.frame} in {limit_s:.1f} s")
                break
        given_up = self._flow.to_give_up(late, in_flight, self._may_detour, now)
        for entry in given_up:
            self._flow.give_up(entry.frame, entry.attempt, entry.epoch)
            self._retry(entry.frame, entry.attempt, "late", self._fallback if self._may_detour else self.plan)
        return bool(given_up)

    def _fall_back(self, reason: str) -> None:
        self._fallback_reason = reason
        self.use(self._fallback)
        self.hooks.hurry()

    # --- plans

    def hear(self, announcement: Announcement) -> None:
        """Follow an announcement: lost nodes at once, a committed plan as soon as it is built here."""
        self._highest_epoch = max(self._highest_epoch, *(plan.epoch for plan in announcement.plans))
        self._announced |= {plan.epoch: plan for plan in announcement.plans}
        self._announced = {epoch: self._announced[epoch] for epoch in sorted(self._announced)[-64:]}
        self._lost = frozenset(announcement.lost)
        self._may_detour = announcement.detour
        self.use_spare(announcement.fills_up, announcement.hedges)
        plan = announcement.committed
        if plan.epoch > self._highest_used and self.hooks.is_ready(plan) and not self._lost & set(plan.nodes):
            self._fallback_reason = ""
            self.use(plan)
        if self._lost & set(self.plan.nodes):
            self._fall_back(f"lost {', '.join(sorted(self._lost))}")
        for entry in self._entries():
            old = self._announced.get(entry.epoch)
            if old is not None and self._lost & set(old.nodes):
                self._retry(entry.frame, entry.attempt, "node-lost")
        self._pump()

    def use_spare(self, fills_up: bool, hedges: bool) -> None:
        """What to do in the time that the plan leaves; see `Announcement`."""
        self._flow.fills_up, self._flow.hedges = fills_up, hedges

    def use(self, plan: Plan) -> None:
        """Stamp the next frames with a plan."""
        self.plan = plan
        self._highest_used = max(self._highest_used, plan.epoch)
        self.counts.first_frame = None
        self._flow.begin(plan, self._agenda.now)
        self.ledger.renew(self._flow.window)
        self.hooks.planned()

    def report(self) -> StreamReport:
        """The stream as its device tells it."""
        counts = self.counts
        return StreamReport(
            self.source.stream,
            self.plan.epoch,
            max(self._highest_epoch, self.plan.epoch),
            self.plan if self.plan.epoch else None,
            counts.first_frame,
            tuple(sorted(self.ledger.epochs)),
            self.source.fps,
            self.ledger.window,
            self.ledger.in_flight,
            self.ledger.admitted,
            self.ledger.completed,
            counts.frames.figure(),
            counts.latency_s.figure() if counts.frames.count else counts.frames.figure(),
            dict(counts.drops),
            self._fallback_reason,
            self.is_finished,
            self._highest_used,
        )
