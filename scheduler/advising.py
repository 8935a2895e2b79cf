"""From the core's world to planners' problems: one problem per route of nodes, and the best of their answers."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Protocol

from pipeline.errors import PlanError
from pipeline.model.graph import ModelGraph
from pipeline.plan import Plan, Tier
from scheduler.cost import evaluate, violations
from scheduler.policy import gain
from scheduler.problem import HOPS, Cost, Decision, Planner, Problem
from scheduler.tables import PackingTable, SegmentTimes
from scheduler.tiles import TileTable
from scheduler.tiling import Workers
from scheduler.world import Advice, Candidate, World

MAX_PER_TIER = 3
"""Edges and clouds that routes are made of, the least busy first: nine problems of some milliseconds each."""


class Catalogue(Protocol):
    """What stays between plans: the network and what was measured of it."""

    def graph(self, model: str) -> ModelGraph:
        """The network of that fingerprint.

        Raises:
            AnabranchError: it is not known here.
        """

    def packing(self, model: str) -> PackingTable:
        """What packing costs; the same object each time."""

    def times(self, model: str, node: str, profile: str) -> SegmentTimes | None:
        """Segment times of a node, or None where nothing is known of it; the same object each time."""

    def tiles(self, model: str, workers: Workers) -> TileTable | None:
        """What tiling saves on an edge node with these workers; None where no tiles are planned."""


class PlannerAdvisor:
    """Advises by planners; see `scheduler.world.Advisor`."""

    def __init__(self, catalogue: Catalogue, planners: Mapping[str, Planner]) -> None:
        self._catalogue = catalogue
        self._planners = planners
        self._latest: tuple[World, list[Problem], Decision] | None = None
        """What was asked last, and the best of the answers."""

    def advise(self, world: World) -> Advice:
        """The best plan over all routes.

        Raises:
            AnabranchError: an unknown planner or network, a device without a profile, or a running plan whose links
                nobody has measured yet.
        """
        problems, best = self._best(world)
        current, broken = self._current(world, problems)
        return Advice(best.plan, best.cost, current, best.violated or "", broken)

    def _best(self, world: World) -> tuple[list[Problem], Decision]:
        """The problems of a world and the best plan; before a commit the same is asked for two running plans."""
        if self._latest is not None and _asks_the_same(self._latest[0], world):
            return self._latest[1:]
        planner = self._planners.get(world.settings.planner)
        if planner is None:
            raise PlanError(f"planner {world.settings.planner!r}", "unknown", f"known are {', '.join(self._planners)}")
        problems = list(self._problems(world))
        decisions = [planner.plan(problem) for problem in problems]
        best = decisions[0]
        for each in decisions[1:]:
            best = each if _better(each, best, world) else best
        self._latest = world, problems, best
        return problems, best

    def stage_s(self, plan: Plan, node: str) -> float | None:
        """See `Advisor.stage_s`; None on an edge that shares its stage with tile workers."""
        times = self._catalogue.times(plan.model, node, "")
        hop = plan.hop_of(node)
        if times is None or (plan.tiles is not None and plan.stages[hop].tier is Tier.EDGE):
            return None
        start, end = plan.span(hop, self._catalogue.graph(plan.model))
        return float(times.segment_s(start.index, end.index))

    def _problems(self, world: World) -> Iterator[Problem]:
        """One problem per pair of an edge and a cloud; plans that skip a tier are in each."""
        known = [each for each in world.candidates if self._times(world, each) is not None]
        edges = [[each] for each in known if each.tier is Tier.EDGE][:MAX_PER_TIER]
        clouds = [[each] for each in known if each.tier is Tier.CLOUD][:MAX_PER_TIER]
        device = next((each for each in known if each.name == world.device), None)
        if device is None:
            raise PlanError(f"device {world.device}", "it has no profile", "measure one with `anabranch profile`")
        for edge, cloud in itertools.product(edges or [[]], clouds or [[]]):
            yield self._problem(world, (device, *edge, *cloud))

    def _problem(self, world: World, nodes: Iterable[Candidate]) -> Problem:
        by_tier = {each.tier: each for each in nodes if each.tier is not None}
        names = {tier: each.name for tier, each in by_tier.items()}
        times = {each.name: self._times(world, each) for each in by_tier.values()}
        links = {
            hop: world.links[names[hop[0]], names[hop[1]]]
            for hop in HOPS
            if hop[0] in names and hop[1] in names and (names[hop[0]], names[hop[1]]) in world.links
        }
        return Problem(
            graph=self._catalogue.graph(world.model),
            stream=world.stream,
            nodes=names,
            times={name: each for name, each in times.items() if each is not None},
            packing=self._catalogue.packing(world.model),
            links=links,
            loads={name: world.loads[name] for name in times if name in world.loads},
            objective=world.settings.objective,
            tiles=self._tiles(world, names),
            fps=world.fps or None,
            fills_up=world.settings.fills_up,
            hedges=world.settings.hedges,
        )

    def _times(self, world: World, node: Candidate) -> SegmentTimes | None:
        return self._catalogue.times(world.model, node.name, node.profile)

    def _tiles(self, world: World, names: Mapping[Tier, str]) -> TileTable | None:
        """What the tile workers that the edge node reaches save; one without a profile counts as fast as that node."""
        edge = names.get(Tier.EDGE)
        own = None if edge is None else self._catalogue.times(world.model, edge, "")
        if edge is None or own is None:
            return None
        found = sorted((each for each in world.candidates if each.tier is None), key=lambda each: each.name)
        found = [each for each in found if (edge, each.name) in world.links]
        if not found:
            return None
        ways = [way for each in found for way in ((edge, each.name), (each.name, edge)) if way in world.links]
        slowdown = _slowdown(world, edge)
        took_s = [(self._times(world, each) or own).block_s.sum() * _slowdown(world, each.name) for each in found]
        workers = Workers(
            edge,
            tuple(each.name for each in found),
            tuple(float(own.block_s.sum()) * slowdown / float(seconds) for seconds in took_s),
            min(world.links[way].goodput_bps for way in ways),
            max(world.links[way].rtt_s for way in ways),
            slowdown,
        )
        return self._catalogue.tiles(world.model, workers)

    def _current(self, world: World, problems: list[Problem]) -> tuple[Cost | None, str]:
        """Cost of the running plan, and the bound that it breaks most; None where a node of it is gone."""
        by_name = {each.name: each for each in world.candidates}
        if not set(world.current.nodes) <= set(by_name):
            return None, ""
        nodes = {stage.tier: stage.node for stage in world.current.stages}
        found = next((each for each in problems if nodes.items() <= each.nodes.items()), None)
        problem = found or self._problem(world, [by_name[name] for name in world.current.nodes])
        try:
            cost = evaluate(replace(problem, epoch=world.current.epoch), world.current)
        except KeyError as error:
            raise PlanError(world.current.label, f"nothing is known yet of {error}") from error
        broken = violations(problem, world.current, cost)
        return cost, max(broken, key=lambda name: broken[name]) if broken else ""


def _asks_the_same(one: World, other: World) -> bool:
    """Whether two worlds are one, but for the plan that runs."""
    return (
        one.links is other.links
        and one.loads is other.loads
        and one.candidates is other.candidates
        and one.settings is other.settings
        and (one.stream, one.model, one.device, one.fps) == (other.stream, other.model, other.device, other.fps)
    )


def _slowdown(world: World, node: str) -> float:
    return world.loads[node].slowdown if node in world.loads else 1.0


def _better(one: Decision, other: Decision, world: World) -> bool:
    """Whether a decision beats the best so far: by keeping the bounds, then by the objective."""
    if (one.violated is None) != (other.violated is None):
        return one.violated is None
    return gain(world.settings.objective, other.cost, one.cost, world.fps).ratio > 1.0
