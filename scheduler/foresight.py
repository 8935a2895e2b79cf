"""The oracle: plans with the true rates of the time ahead. A limit to hold policies against, not one to deploy."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import msgspec

from pipeline.plan import Plan
from scheduler.core import SchedulerCore
from scheduler.events import VIEWERS, Event, Instruction, StreamConfigured, StreamSettings, Tick
from scheduler.planners.joint import Joint
from scheduler.problem import Hop, LinkEstimate, Problem

ORACLE = "oracle"
"""Name of the policy."""

STEP_S = 0.25
HORIZON_S = 1.0
"""It plans with the true mean rate of this time ahead (longer where frames take longer)."""

Foresee = Callable[[float, float], Mapping[Hop, LinkEstimate]]
"""From a time and a horizon, in seconds, to the true mean of each link."""


class Foresight:
    """The best plan for the time ahead.

    Args:
        problem: everything but the links.
        foresee: tells their true rates.
    """

    def __init__(self, problem: Problem, foresee: Foresee) -> None:
        self._problem = problem
        self._foresee = foresee
        self._planner = Joint()
        self._horizon_s = HORIZON_S

    @property
    def uses_spare(self) -> bool:
        """Whether the device uses the time that the plans leave it."""
        return self._problem.fills_up or self._problem.hedges

    def plan(self, now: float) -> Plan:
        """The plan; its epoch is 0."""
        links = self._foresee(now, self._horizon_s)
        decision = self._planner.plan(dataclasses.replace(self._problem, links=links))
        self._horizon_s = max(HORIZON_S, decision.cost.latency_s)
        return msgspec.structs.replace(decision.plan, epoch=0)


class OracleCore:
    """A live scheduler's core that follows the foresight, and neither gates nor dwells.

    The core itself only carries the plans out, as it does a fixed one: nodes still have to build their segments.
    """

    def __init__(self, core: SchedulerCore, foresight: Foresight, settings: StreamSettings) -> None:
        self._core = core
        self._foresight = foresight
        self._settings = settings
        self._plan: Plan | None = None

    def handle(self, event: Event, now: float) -> list[Instruction]:
        """See `SchedulerCore.handle`."""
        changed: list[Instruction] = []
        if isinstance(event, Tick):
            plan = self._foresight.plan(now)
            if plan != self._plan:
                self._plan = plan
                spare = self._foresight.uses_spare
                settings = msgspec.structs.replace(self._settings, planner="fixed", plan=plan, spare=spare)
                changed = self._core.handle(StreamConfigured(VIEWERS, settings), now)
        return [*changed, *self._core.handle(event, now)]
