"""Planners that hardly choose: everything on the device, everything in the cloud, or as told."""

from __future__ import annotations

import dataclasses
import itertools

import msgspec
import numpy as np

from pipeline.errors import PlanError
from pipeline.plan import Plan, Stage, Tier
from scheduler.packing import RAW
from scheduler.planners.build import ALONE, build, decide
from scheduler.planners.prepared import Choice
from scheduler.problem import DEVICE_CLOUD, DEVICE_EDGE, EDGE_CLOUD, Decision, Problem


class DeviceOnly:
    """Everything on the device."""

    name = "device-only"

    def plan(self, problem: Problem, alternatives: int = 0) -> Decision:
        """See `Planner.plan`."""
        return decide(problem, self.name, [build(problem, (len(problem.graph.cuts) - 1, ALONE, ALONE, ALONE))])


class CloudOnly:
    """The whole network in the cloud: the picture is sent raw, or with the codec that the objective likes best.

    Without a link from the device to the cloud, the edge passes the picture on; without a cloud, the edge is the
    cloud; without either, the device does it all.
    """

    def __init__(self, name: str, raw: bool) -> None:
        self.name = name
        self._raw = raw

    def plan(self, problem: Problem, alternatives: int = 0) -> Decision:
        """See `Planner.plan`."""
        offered = np.flatnonzero(np.isfinite(problem.packing.bytes[0])).tolist()
        if self._raw:
            offered = [codec for codec in offered if problem.packing.codecs[codec] == RAW]
        choices = [choice for codec in offered for choice in self._routes(problem, int(codec))]
        if not choices:
            return dataclasses.replace(DeviceOnly().plan(problem), planner=self.name)
        return decide(problem, self.name, [build(problem, choice) for choice in choices])

    def _routes(self, problem: Problem, codec: int) -> list[Choice]:
        if problem.has(DEVICE_CLOUD):
            return [(0, codec, ALONE, ALONE)]
        if problem.has(DEVICE_EDGE, EDGE_CLOUD):
            return [(0, codec, 0, codec)]
        return [(0, codec, len(problem.graph.cuts) - 1, ALONE)] if problem.has(DEVICE_EDGE) else []


class Fixed:
    """Always the same plan, whatever the links and loads."""

    name = "fixed"

    def __init__(self, plan: Plan | None = None) -> None:
        self._plan = plan

    def plan(self, problem: Problem, alternatives: int = 0) -> Decision:
        """See `Planner.plan`.

        Raises:
            PlanError: no plan was given, it is for another model, or its tiers or links are not there.
        """
        if self._plan is None:
            raise PlanError("planner fixed", "it was given no plan", "name a plan file")
        self._plan.check(problem.graph)
        tiers = [stage.tier for stage in self._plan.stages]
        if set(tiers) - set(problem.nodes) or not problem.has(*itertools.pairwise(tiers)):
            raise PlanError(self._plan.label, "a node or link of it is not there")
        stages = tuple(Stage(stage.tier, problem.nodes[stage.tier], stage.until) for stage in self._plan.stages)
        plan = msgspec.structs.replace(self._plan, epoch=problem.epoch, stream=problem.stream, stages=stages)
        return decide(problem, self.name, [plan])


def two_tier_links(problem: Problem) -> list[tuple[Tier, Tier]]:
    """The links over which a planner of two tiers may offload: to the cloud, or to the edge as if it were one."""
    return [hop for hop in (DEVICE_CLOUD, DEVICE_EDGE) if problem.has(hop)]
