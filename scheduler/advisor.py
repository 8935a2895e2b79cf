"""Advisors: what the core asks for a plan when estimates move."""

from __future__ import annotations

from pipeline.errors import PlanError
from pipeline.plan import Plan
from scheduler.world import Advice, World


class NoAdvisor:
    """For a scheduler whose streams all have fixed plans: it knows no profile, and so advises nothing."""

    def advise(self, world: World) -> Advice:
        """Never advises.

        Raises:
            PlanError: always.
        """
        raise PlanError(f"stream {world.stream}", "fixed plans alone here", "use --planner joint")

    def stage_s(self, plan: Plan, node: str) -> float | None:
        """None: there are no profiles."""
        return None
