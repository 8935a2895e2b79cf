"""The plans that a node can run now: built and warmed in a thread of their own, off the frame path."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable

from nodes.handoff import Closed, Handoff
from pipeline.errors import AnabranchError
from pipeline.plan import Plan
from pipeline.stage import StageProgram
from scheduler.reports import Readiness

logger = logging.getLogger(__name__)

MAX_PROGRAMS = 64
"""Programs that a node keeps over all streams; the ones that no announcement names leave first."""

MAX_STREAMS = 1024
"""Streams that a node remembers; the one announced longest ago is forgotten first, with all its epochs."""

Builder = Callable[[Plan], StageProgram | None]
"""Builds this node's stage of a plan; None where the plan gives it none (a tile worker)."""


class EpochStore:
    """Stage programs by (stream, epoch)."""

    def __init__(self, build: Builder, on_change: Callable[[], None] = lambda: None) -> None:
        self._build = build
        self._on_change = on_change
        self._lock = threading.Lock()
        self._programs: OrderedDict[tuple[str, int], StageProgram | None] = OrderedDict()
        self._oldest: OrderedDict[str, int] = OrderedDict()
        """By stream, the lowest epoch (but 0) of which frames may still come. At most `MAX_STREAMS`."""
        self._building: set[tuple[str, int]] = set()
        self._refused: dict[tuple[str, int], str] = {}
        self._plans: dict[tuple[str, int], Plan] = {}
        self._orders: Handoff[Plan] = Handoff(bound=MAX_PROGRAMS)
        self._thread = threading.Thread(target=self._run, name="builder", daemon=True)
        self._thread.start()

    def get(self, stream: str, epoch: int) -> StageProgram | None:
        """The program of that epoch, or None where it is not ready."""
        with self._lock:
            return self._programs.get((stream, epoch))

    def is_ready(self, stream: str, epoch: int) -> bool:
        """Whether frames of that epoch can be computed here."""
        with self._lock:
            return (stream, epoch) in self._programs

    def keep(self, stream: str, plans: Iterable[Plan], oldest: int) -> None:
        """Build what is new among `plans`, and free what is of an epoch below `oldest`."""
        plans = list(plans)
        with self._lock:
            self._oldest[stream] = oldest
            self._oldest.move_to_end(stream)
            self._forget_namesakes(plans)
            due = [plan for plan in plans if self._is_due(stream, plan.epoch)]
            self._building.update((stream, plan.epoch) for plan in due)
            self._plans |= {(stream, plan.epoch): plan for plan in due}
            self._trim()
        for plan in due:
            self._orders.offer(plan)

    def add(self, program: StageProgram) -> None:
        """Enter a program that was built elsewhere."""
        with self._lock:
            self._programs[program.plan.stream, program.plan.epoch] = program
            self._oldest.setdefault(program.plan.stream, program.plan.epoch)

    def refusal(self, stream: str, epoch: int) -> str | None:
        """Why that epoch cannot be run here."""
        with self._lock:
            return self._refused.get((stream, epoch))

    def readiness(self) -> tuple[Readiness, ...]:
        """What the node's report says of its epochs."""
        with self._lock:
            return tuple(
                Readiness(
                    stream,
                    tuple(sorted(epoch for name, epoch in self._programs if name == stream)),
                    tuple(sorted(epoch for name, epoch in self._building if name == stream)),
                    {str(epoch): why for (name, epoch), why in self._refused.items() if name == stream},
                )
                for stream in self._oldest
            )

    def close(self) -> None:
        """Stop the builder."""
        self._orders.close()
        self._thread.join(timeout=30)

    def _forget_namesakes(self, plans: list[Plan]) -> None:
        """An epoch may have meant another plan to a scheduler that is gone: then it is built again."""
        for plan in plans:
            key = (plan.stream, plan.epoch)
            if plan.epoch and self._plans.get(key, plan) != plan:
                self._programs.pop(key, None)
                self._refused.pop(key, None)
                self._building.discard(key)

    def _is_due(self, stream: str, epoch: int) -> bool:
        key = (stream, epoch)
        return key not in self._programs and key not in self._building and key not in self._refused

    def _trim(self) -> None:
        """Forget what no frame needs any more. Epoch 0 stays: it is the way back when all else is lost."""
        for known in (self._programs, self._refused, self._plans):
            for stream, epoch in list(known):
                if 0 < epoch < self._oldest.get(stream, 0):
                    del known[stream, epoch]
        while len(self._programs) > MAX_PROGRAMS:
            self._programs.popitem(last=False)
        while len(self._oldest) > MAX_STREAMS:
            gone, _ = self._oldest.popitem(last=False)
            for known in (self._programs, self._refused, self._plans):
                for key in [key for key in known if key[0] == gone]:
                    del known[key]

    def _run(self) -> None:
        while True:
            try:
                plan = self._orders.get()
            except Closed:
                return
            if plan is not None:
                self._build_one(plan)
                self._on_change()

    def _build_one(self, plan: Plan) -> None:
        key = (plan.stream, plan.epoch)
        try:
            program, reason = self._build(plan), None
        except AnabranchError as error:
            logger.warning("%s refused: %s", plan.label, error)
            program, reason = None, str(error)
        with self._lock:
            if self._plans.get(key) != plan:
                return  # the epoch means another plan by now, or none
            self._building.discard(key)
            if reason is not None:
                self._refused[key] = reason
            elif plan.epoch >= self._oldest.get(plan.stream, 0):
                self._programs[key] = program
