"""The world in which a stream is planned: candidates, links and loads, less what other streams use of them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pipeline.plan import Plan, Tier
from scheduler.problem import LinkEstimate, LoadEstimate
from scheduler.registry import NodeRecord, Registry
from scheduler.sharing import LEAST_SHARE, Demand, link_share, node_share, sent_bps
from scheduler.streams import StreamState, participants
from scheduler.world import Candidate, World

MAX_CANDIDATES = 6
"""Nodes of one tier that a stream is planned with, the least busy first; those it uses already are always among
them."""

MAX_WORKERS = 8

STEP = 0.03
"""Estimates that moved by less than this share are the same to the planner: it is not asked again."""

LinkName = tuple[str, str]


def demand_of(state: StreamState, registry: Registry) -> Demand:
    """What the stream uses now."""
    nodes: dict[str, float] = {}
    links: dict[LinkName, float] = {}
    for name in participants(state.current):
        record = registry.get(name)
        if record is not None and record.alive:
            nodes[name] = record.usage.get(state.stream, 0.0)
            links.update(sent_bps(record.report, state.current))
    return Demand(state.settings.weight, nodes, links)


@dataclass(frozen=True)
class Outlook:
    """Builds worlds from what is known at one instant."""

    registry: Registry
    demands: Mapping[str, Demand]
    """By stream."""
    now: float
    _least_busy: dict[Tier | None, list[NodeRecord]] = field(default_factory=dict)

    def nodes(self, state: StreamState) -> list[NodeRecord]:
        """The stream's candidates: its device, then edges, clouds and tile workers."""
        device = self.registry.get(state.device)
        found = [device] if device is not None else []
        for tier, limit in ((Tier.EDGE, MAX_CANDIDATES), (Tier.CLOUD, MAX_CANDIDATES), (None, MAX_WORKERS)):
            found.extend(self._of_tier(state, tier, limit))
        return found

    def _of_tier(self, state: StreamState, tier: Tier | None, limit: int) -> list[NodeRecord]:
        if tier not in self._least_busy:
            self._least_busy[tier] = self.registry.candidates(tier, limit)
        least_busy = self._least_busy[tier]
        used = [self.registry.get(name) for name in participants(state.current)]
        kept = [each for each in used if each is not None and each.usable and each.report.tier is tier]
        every = {each.name: each for each in (*least_busy, *kept)}
        return [each for each in every.values() if self._fits(state, each)]

    def _fits(self, state: StreamState, node: NodeRecord) -> bool:
        return node.report.model == state.model and not state.banned_node(node.name, self.now)

    def world(self, state: StreamState) -> World:
        """The estimates under which the stream is planned."""
        nodes = self.nodes(state)
        others = [demand for stream, demand in self.demands.items() if stream != state.stream]
        return World(
            stream=state.stream,
            model=state.model,
            device=state.device,
            settings=state.settings,
            fps=state.report.source_fps,
            candidates=tuple(
                Candidate(each.name, each.report.tier, each.report.profile, each.report.load.memory_free_bytes)
                for each in nodes
            ),
            links=self._links(state, routes(nodes), others),
            loads={each.name: self._load(state, each, others) for each in nodes},
            current=state.current,
        )

    def noise(self, *plans: Plan) -> float:
        """The largest sampling noise among the links that the plans use."""
        hops = {hop for plan in plans for hop in itertools.pairwise(plan.nodes)}
        found = (self.registry.link(*hop) for hop in hops)
        seen = (each.goodput(self.now) for each in found if each is not None)
        return max((each.noise for each in seen if each is not None), default=0.0)

    def _links(
        self, state: StreamState, names: Iterable[LinkName], others: list[Demand]
    ) -> dict[LinkName, LinkEstimate]:
        found = {}
        for name in names:
            estimator = self.registry.link(*name)
            goodput = None if estimator is None else estimator.goodput(self.now)
            if estimator is None or goodput is None:
                continue
            part = link_share(state.settings.weight, name, goodput.value, others)
            found[name] = LinkEstimate(max(1.0, goodput.value * part), self._rtt_s(name), goodput.uncertainty)
        return found

    def _rtt_s(self, name: LinkName) -> float:
        """Round trip, measured from either end."""
        ends = (self.registry.link(*name), self.registry.link(*reversed(name)))
        return min((each.rtt_s for each in ends if each is not None and each.rtt_s is not None), default=0.0)

    def _load(self, state: StreamState, node: NodeRecord, others: list[Demand]) -> LoadEstimate:
        slowdown = node.slowdown.estimate(self.now)
        part = max(LEAST_SHARE, node_share(state.settings.weight, node.name, others))
        return LoadEstimate(slowdown.value / part, slowdown.uncertainty)


def routes(nodes: Iterable[NodeRecord]) -> list[LinkName]:
    """The links that plans over these nodes may use."""
    by_tier: dict[Tier | None, list[str]] = {}
    for each in nodes:
        by_tier.setdefault(each.report.tier, []).append(each.name)
    device, edge = by_tier.get(Tier.DEVICE, []), by_tier.get(Tier.EDGE, [])
    cloud, workers = by_tier.get(Tier.CLOUD, []), by_tier.get(None, [])
    pairs = ((device, edge), (device, cloud), (edge, cloud), (edge, workers), (workers, edge))
    return [pair for left, right in pairs for pair in itertools.product(left, right)]


def digest(world: World) -> object:
    """Equal for two worlds that are the same to a planner, up to `STEP`."""
    links = tuple(
        (name, _rounded(each.goodput_bps), round(each.rtt_s, 3), round(each.uncertainty, 1))
        for name, each in world.links.items()
    )
    loads = tuple((name, _rounded(each.slowdown), round(each.uncertainty, 1)) for name, each in world.loads.items())
    names = tuple((each.name, each.profile) for each in world.candidates)
    return (names, links, loads, world.settings, round(world.fps, 1), world.current)


def _rounded(value: float) -> int:
    return round(math.log(value) / STEP)
