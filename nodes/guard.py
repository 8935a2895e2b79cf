"""The accuracy guard: now and then a frame is computed again in full precision, and the two answers are compared.

A calibration is measured on yesterday's frames. The guard sees today's, so that drifted data cannot quietly break
the bound. It costs least on the device, where the picture still is: nothing has to be sent, and the frame path
does not wait, since a thread of its own computes, one frame at a time, and skips what it has no time for.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from nodes.admission import Outcome
from nodes.handoff import Closed, Handoff
from pipeline.model.graph import INPUT
from pipeline.packing import codec
from pipeline.plan import Plan
from pipeline.stage import Compute

logger = logging.getLogger(__name__)

BUDGET = 0.01
"""Share of the device's time, and of the frames, that the guard may take."""

MIN_FRAMES = 50
"""Guarded frames before a rate of disagreement is held against the bound."""


@dataclass
class GuardCounts:
    """What the guard has seen."""

    guarded: int = 0
    """Frames computed again."""
    disagreed: int = 0
    """Of these, frames whose top-1 was another one."""
    skipped: int = 0
    """Frames whose turn it was, but the guard was busy or out of budget."""

    @property
    def rate(self) -> float:
        """Share of guarded frames that disagreed."""
        return self.disagreed / self.guarded if self.guarded else 0.0


class Guard:
    """Compares results of lossy plans with the exact ones.

    Args:
        exact: the whole network, in full precision.
        output: name of the tensor whose largest element is the answer.
        max_drop: the bound on the rate of disagreement that is warned of.
        warn: told once, in words, when the bound is broken.
        budget: share of time and of frames.
    """

    def __init__(
        self, exact: Compute, output: str, max_drop: float, warn: Callable[[str], None], budget: float = BUDGET
    ) -> None:
        self.counts = GuardCounts()
        self._exact = exact
        self._output = output
        self._max_drop = max_drop
        self._warn = warn
        self._budget = budget
        self._seen = 0
        self._warned = False
        self._spent_s = 0.0
        self._begin_s = time.monotonic()
        self._due: Handoff[Outcome] = Handoff()
        self._thread = threading.Thread(target=self._run, name="guard", daemon=True)
        self._thread.start()

    def saw(self, outcome: Outcome, plan: Plan) -> None:
        """Take an outcome; every so manieth of a lossy plan is computed again."""
        if not is_lossy(plan) or not self._budget:
            return
        self._seen += 1
        if (self._seen - 1) % round(1 / self._budget):
            return
        over = self._spent_s > self._budget * (time.monotonic() - self._begin_s) and self.counts.guarded > 0
        if over or len(self._due) >= self._due.bound or not self._due.offer(outcome):
            self.counts.skipped += 1

    def close(self) -> None:
        """Finish the frame in hand, and stop."""
        self._due.close()
        self._thread.join()

    def _run(self) -> None:
        while True:
            try:
                outcome = self._due.get()
            except Closed:
                return
            if outcome is not None:
                self._compare(outcome)

    def _compare(self, outcome: Outcome) -> None:
        begin_s = time.monotonic()
        expected = self._exact({INPUT: outcome.waiting.picture})[self._output]
        self._spent_s += time.monotonic() - begin_s
        self.counts.guarded += 1
        if top(expected) != top(outcome.outputs[self._output]):
            self.counts.disagreed += 1
            self._judge()

    def _judge(self) -> None:
        counts = self.counts
        if self._warned or counts.guarded < MIN_FRAMES or counts.rate <= self._max_drop:
            return
        self._warned = True
        words = f"{counts.disagreed} of {counts.guarded} guarded frames differ from full precision"
        logger.warning("%s; the bound is %.1f%%: calibrate on newer frames", words, 100 * self._max_drop)
        self._warn(words)


def top(scores: Tensor) -> int:
    """Index of the largest element."""
    return int(scores.flatten().argmax())


def is_lossy(plan: Plan) -> bool:
    """Whether a link of the plan, or its tiles, may change a value."""
    names = [link.codec for link in plan.links] + ([plan.tiles.codec] if plan.tiles is not None else [])
    return any(not codec.get(name).lossless for name in names)
