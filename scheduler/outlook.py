"""The world in which a stream is planned: candidates, links and loads, less what other streams use of them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from pipeline.plan import Plan, Tier
from scheduler.estimate import LinkEstimator
from scheduler.policy import Doubt
from scheduler.problem import LinkEstimate, LoadEstimate
from scheduler.registry import NodeRecord, Registry
from scheduler.sharing import LEAST_SHARE, Demand, Demands, sent_bps
from scheduler.streams import StreamState
from scheduler.swings import STEADY, Swing
from scheduler.tracker import stepped
from scheduler.world import Candidate, World

MAX_CANDIDATES = 6
"""Nodes of one tier that a stream is planned with, the least busy first; those it uses already are always among
them."""

MAX_WORKERS = 8

STEP = 0.03
"""Estimates that moved by less than this share are the same to the planner: it is not asked again."""

FPS_STEP, RTT_STEP_S, UNCERTAINTY_STEP = 0.1, 0.001, 0.1
"""The same for the other figures of a world, absolute."""

READ_S = 1.0
"""What streams use is read off the nodes' reports, which come once in that time."""

SILENT_LINK_S = 5.0
"""A link over which nothing came for so long carries nothing: it is probed every three seconds, reported every one."""

QUIET_S = 2.0
"""A link of the running plan over which nothing came for two reports may be in an outage: what is known of it is of
the time before."""

LinkName = tuple[str, str]


def demand_of(state: StreamState, registry: Registry, now: float) -> Demand:
    """What the stream uses now, and what it is about to use: others that are planned meanwhile leave room for it."""
    nodes: dict[str, float] = {}
    links: dict[LinkName, float] = {}
    for name in state.current.participants:
        record = registry.get(name)
        if record is not None and record.alive:
            nodes[name] = record.usage.get(state.stream, 0.0)
            links.update(sent_bps(record.report, state.current))
    if state.prepared is not None or now < state.expected_until_s:
        nodes |= {name: part for name, part in state.expected.items() if nodes.get(name, 0.0) < part}
    return Demand(state.settings.weight, nodes, links)


class Uses:
    """What all streams use, read off the reports once a `READ_S`; of a stream that is decided, at once."""

    def __init__(self) -> None:
        self._read_s = -math.inf
        self._used: dict[str, Demand] = {}
        self._demands: Demands | None = None

    def forget(self) -> None:
        """A node came or went: read all anew."""
        self._read_s = -math.inf

    def demands(self, registry: Registry, streams: Mapping[str, StreamState], now: float) -> Demands:
        """Of all streams; one whose device is gone uses nothing."""
        if now - self._read_s >= READ_S:
            self._used = {
                name: demand_of(state, registry, now)
                for name, state in streams.items()
                if registry.usable(state.device)
            }
            self._read_s, self._demands = now, None
        if self._demands is None:
            self._demands = Demands(self._used)
        return self._demands

    def decided(self, state: StreamState, registry: Registry, now: float) -> None:
        """A stream was given another plan."""
        if state.stream in self._used:
            self._used[state.stream] = demand_of(state, registry, now)
            self._demands = None


@dataclass(frozen=True)
class Outlook:
    """Builds worlds from what is known at one instant."""

    registry: Registry
    streams: Mapping[str, StreamState]
    now: float
    uses: Uses = field(default_factory=Uses)
    _shared: dict[str, _Servers] = field(default_factory=dict)

    @property
    def demands(self) -> Demands:
        """What all streams use."""
        return self.uses.demands(self.registry, self.streams, self.now)

    def decided(self, state: StreamState) -> None:
        """A stream was given another plan: it uses something else now."""
        self.uses.decided(state, self.registry, self.now)

    def nodes(self, state: StreamState) -> list[NodeRecord]:
        """The stream's candidates: its device, then edges, clouds and tile workers."""
        device = self.registry.get(state.device)
        found = self._servers(state).nodes
        return [*found] if device is None else [device, *found]

    def _servers(self, state: StreamState) -> _Servers:
        shared = self._least_busy(state.model)
        others = [name for name in state.current.participants[1:] if name not in shared.names]
        if not others and not state.bans:
            return shared
        used = (self.registry.get(name) for name in others)
        kept = [each for each in used if each is not None and each.usable]
        every = sorted((*shared.nodes, *kept), key=_rank)
        return _Servers([each for each in every if self._fits(state, each)])

    def _least_busy(self, model: str) -> _Servers:
        """Those that any stream of this network may use."""
        if model not in self._shared:
            limits = ((Tier.EDGE, MAX_CANDIDATES), (Tier.CLOUD, MAX_CANDIDATES), (None, MAX_WORKERS))
            chosen = (each for tier, limit in limits for each in self.registry.candidates(tier, limit))
            self._shared[model] = _Servers([each for each in chosen if each.report.model == model])
        return self._shared[model]

    def _fits(self, state: StreamState, node: NodeRecord) -> bool:
        return node.report.model == state.model and not state.bans.bars_node(node.name, self.now)

    def world(self, state: StreamState) -> World:
        """The estimates under which the stream is planned."""
        nodes = self.nodes(state)
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
            links=self._links(state, routes(nodes)),
            loads={each.name: self._load(state, each) for each in nodes},
            current=state.current,
        )

    def doubt(self, *plans: Plan) -> Doubt:
        """The largest of the links that the plans use."""
        seen = [
            each for link in self._along(*plans) if link is not None and (each := link.goodput(self.now)) is not None
        ]
        return Doubt(
            max((each.noise for each in seen), default=0.0), max((each.uncertainty for each in seen), default=0.0)
        )

    def swings(self, plan: Plan) -> list[Swing]:
        """What is to be expected of each link that the plan uses."""
        return [STEADY if each is None else each.swing(self.now) for each in self._along(plan)]

    def freed(self, *plans: Plan) -> bool:
        """Whether a link that the plans use has just come back from an outage, and nothing else has crossed it yet."""
        return any(each is not None and each.freed for each in self._along(*plans))

    def silent(self, plan: Plan, for_s: float = SILENT_LINK_S) -> bool:
        """Whether a link that the plan uses has carried nothing for so long."""
        seen = (None if each is None else each.tracker.estimate(self.now) for each in self._along(plan))
        return any(each is None or each.age_s > for_s for each in seen)

    def held_up(self, plan: Plan) -> bool:
        """Whether a link that the plan uses was in an outage when last heard of."""
        return any(each is not None and each.held_up for each in self._along(plan))

    def recovers(self, plan: Plan) -> bool:
        """Whether a link that the plan uses is just behind a spell of outages; see `LinkEstimator.recovers`."""
        return any(each is not None and each.recovers(self.now) for each in self._along(plan))

    def _along(self, *plans: Plan) -> Iterator[LinkEstimator | None]:
        """The links that the plans use, from hop to hop; None where nothing is known of one."""
        return (self.registry.link(*hop) for plan in plans for hop in itertools.pairwise(plan.nodes))

    def _links(self, state: StreamState, names: Iterable[LinkName]) -> dict[LinkName, LinkEstimate]:
        found = {}
        for name in names:
            estimator = self.registry.link(*name)
            goodput = None if estimator is None else estimator.goodput(self.now)
            if estimator is None or goodput is None:
                continue
            part = self.demands.link_share(state.stream, state.settings.weight, name, goodput.value)
            found[name] = LinkEstimate(max(1.0, goodput.value * part), self._rtt_s(name), goodput.uncertainty)
        return found

    def _rtt_s(self, name: LinkName) -> float:
        """Round trip, measured from either end."""
        ends = (self.registry.link(*name), self.registry.link(*reversed(name)))
        return min((each.rtt_s for each in ends if each is not None and each.rtt_s is not None), default=0.0)

    def _load(self, state: StreamState, node: NodeRecord) -> LoadEstimate:
        """In steps of `STEP`: planners keep what they prepared for the same loads."""
        slowdown = node.slowdown.estimate(self.now)
        part = max(LEAST_SHARE, self.demands.node_share(state.stream, state.settings.weight, node.name))
        return LoadEstimate(stepped(slowdown.value / part, STEP), round(slowdown.uncertainty * 20.0) / 20.0)

    def routes(self, states: Iterable[StreamState]) -> list[LinkName]:
        """The links that plans of these streams may use. Most streams have all but the device in common."""
        own: list[LinkName] = []
        shared: dict[tuple[tuple[str, ...], ...], None] = {}
        for state in states:
            edges, clouds, workers = self._servers(state).tiers
            own.extend((state.device, name) for name in (*edges, *clouds))
            shared[edges, clouds, workers] = None
        return list(dict.fromkeys([*own, *(link for tiers in shared for link in _behind(*tiers))]))


class _Servers:
    """Edges, clouds and tile workers, in this order."""

    def __init__(self, nodes: list[NodeRecord]) -> None:
        self.nodes = nodes
        self.names = frozenset(each.name for each in nodes)
        _, *self.tiers = _by_tier(nodes)
        """Their names, by tier."""


def _rank(node: NodeRecord) -> int:
    """Order of the tiers; tile workers come last."""
    return len(Tier) if node.report.tier is None else node.report.tier.rank


def routes(nodes: Iterable[NodeRecord]) -> list[LinkName]:
    """The links that plans over these nodes may use."""
    device, edges, clouds, workers = _by_tier(nodes)
    return [*itertools.product(device, (*edges, *clouds)), *_behind(edges, clouds, workers)]


def _by_tier(nodes: Iterable[NodeRecord]) -> list[tuple[str, ...]]:
    """Names of devices, edges, clouds and tile workers."""
    found: dict[Tier | None, list[str]] = {Tier.DEVICE: [], Tier.EDGE: [], Tier.CLOUD: [], None: []}
    for each in nodes:
        found[each.report.tier].append(each.name)
    return [tuple(names) for names in found.values()]


def _behind(edges: tuple[str, ...], clouds: tuple[str, ...], workers: tuple[str, ...]) -> Iterator[LinkName]:
    """The links that do not start at a device."""
    pairs = ((edges, clouds), (edges, workers), (workers, edges))
    return (pair for left, right in pairs for pair in itertools.product(left, right))


def alike(one: World, other: World) -> bool:
    """Whether two worlds are the same to a planner: no estimate moved by more than `STEP`."""
    return (
        one.current == other.current
        and one.settings == other.settings
        and abs(one.fps - other.fps) < FPS_STEP
        and [(each.name, each.profile) for each in one.candidates]
        == [(each.name, each.profile) for each in other.candidates]
        and one.links.keys() == other.links.keys()
        and all(_alike_links(each, other.links[name]) for name, each in one.links.items())
        and all(_alike_loads(each, other.loads[name]) for name, each in one.loads.items())
    )


def _alike_links(one: LinkEstimate, other: LinkEstimate) -> bool:
    return (
        abs(one.goodput_bps - other.goodput_bps) <= STEP * other.goodput_bps
        and abs(one.rtt_s - other.rtt_s) <= RTT_STEP_S
        and abs(one.uncertainty - other.uncertainty) <= UNCERTAINTY_STEP
    )


def _alike_loads(one: LoadEstimate, other: LoadEstimate) -> bool:
    return (
        abs(one.slowdown - other.slowdown) <= 1.01 * STEP * other.slowdown
        and abs(one.uncertainty - other.uncertainty) <= UNCERTAINTY_STEP
    )
