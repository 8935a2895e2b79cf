"""A rival that never asks whether it pays: everything in the cloud, whatever the running plan is worth."""

from __future__ import annotations

import dataclasses

from pipeline.plan import Plan
from scheduler.world import Advice, Advisor, World

MANDATED = frozenset({"cloud-only", "cloud-only-raw"})
"""Planners whose place for the network is not up for discussion; the gate still decides on their codecs."""


class Insisting:
    """An advisor that does not let a mandated planner's stream stay where it does not belong.

    The gate keeps a running plan that costs less than the planner's, as the device's own plan often does. Cloud-only
    would then be a policy that nobody proposes: the better one of cloud and device.
    """

    def __init__(self, inner: Advisor) -> None:
        self._inner = inner

    def advise(self, world: World) -> Advice:
        """The inner advisor's plan; the running one counts for nothing where it computes elsewhere."""
        advice = self._inner.advise(world)
        if world.settings.planner in MANDATED and _places(advice.plan) != _places(world.current):
            return dataclasses.replace(advice, current_cost=None)
        return advice

    def stage_s(self, plan: Plan, node: str) -> float | None:
        """See `Advisor.stage_s`."""
        return self._inner.stage_s(plan, node)


def _places(plan: Plan) -> tuple[tuple[str, str], ...]:
    return tuple((stage.node, stage.until) for stage in plan.stages)
