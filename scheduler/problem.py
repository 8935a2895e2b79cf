"""What a planner is asked and what it answers: the dataclasses that planners, scheduler core and simulator share.

A `Problem` holds what stays (graph, profiles, packing table, tile table) by reference and what moves (links, loads)
by value: `dataclasses.replace(problem, links=...)` costs nothing, and planners keep what they have prepared for the
parts that stayed.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ConfigError
from pipeline.frames.ledger import MAX_OPEN
from pipeline.model.graph import ModelGraph
from pipeline.plan import Plan, Tier
from scheduler.objective import Objective
from scheduler.pieces import LONGER

if TYPE_CHECKING:
    from scheduler.tables import PackingTable, SegmentTimes
    from scheduler.tiles import TileTable

Hop = tuple[Tier, Tier]
"""A link, by the tiers that it joins; downstream only."""

DEVICE_EDGE: Hop = (Tier.DEVICE, Tier.EDGE)
EDGE_CLOUD: Hop = (Tier.EDGE, Tier.CLOUD)
DEVICE_CLOUD: Hop = (Tier.DEVICE, Tier.CLOUD)
HOPS = (DEVICE_EDGE, EDGE_CLOUD, DEVICE_CLOUD)


@dataclass(frozen=True)
class LinkEstimate:
    """How fast a link is, and how sure that is."""

    goodput_bps: float
    """Median of payload bits per second."""
    rtt_s: float = 0.0
    uncertainty: float = 0.0
    """Standard deviation of the natural logarithm of the goodput (about its relative error)."""

    def bps_at(self, quantile: float) -> float:
        """The goodput with which the transfer time is at its `quantile` (log-normal)."""
        return self.goodput_bps * math.exp(-_deviations(quantile) * self.uncertainty)


@dataclass(frozen=True)
class LoadEstimate:
    """How much slower than its profile a node runs, and how sure that is."""

    slowdown: float = 1.0
    """1 is as profiled, 2 takes twice the time; shares that other streams use are part of it."""
    uncertainty: float = 0.0
    """Standard deviation of the natural logarithm of the slowdown."""

    def at(self, quantile: float) -> float:
        """The slowdown at `quantile` (log-normal)."""
        return self.slowdown * math.exp(_deviations(quantile) * self.uncertainty)


@functools.lru_cache(maxsize=64)
def _deviations(quantile: float) -> float:
    return NormalDist().inv_cdf(quantile)


@dataclass(frozen=True)
class WayHome:
    """What a result takes from the last stage to the device: it goes there straight, not through the other stages."""

    transfer_s: float = 0.0
    delay_s: float = 0.0

    @property
    def seconds(self) -> float:
        """From the last stage's end to the device."""
        return self.transfer_s + self.delay_s


@dataclass(frozen=True)
class Power:
    """What the device draws above idle."""

    compute_w: float
    """While it computes, packs or unpacks."""
    transmit_w: float = 0.0
    """While it sends."""


@dataclass(frozen=True)
class Problem:
    """Everything that a planner needs to know of one stream.

    Raises:
        ConfigError: no device, or a node without a profile.
    """

    graph: ModelGraph
    stream: str
    nodes: Mapping[Tier, str]
    """The node of each tier; a tier that is not there is not planned with. The device must be."""
    times: Mapping[str, SegmentTimes]
    """Predicted segment times by node name (`Profile.bind(graph)`)."""
    packing: PackingTable
    links: Mapping[Hop, LinkEstimate]
    """Only routes whose links are all here are planned."""
    loads: Mapping[str, LoadEstimate] = field(default_factory=dict)
    """By node name; a node that is not here runs as profiled."""
    objective: Objective = field(default_factory=Objective)
    tiles: TileTable | None = None
    """What tiling the edge stage saves; None where there are no tile workers."""
    power: Power | None = None
    """Of the device, for energy."""
    fps: float | None = None
    """Frame rate of the source; None for a file that is run as fast as it goes."""
    epoch: int = 0
    """Epoch that the plan gets."""
    fills_up: bool = False
    """Whether the device computes frames alone in the time that the plan leaves it."""
    hedges: bool = False
    """Whether it computes frames as well that are on their way."""

    def __post_init__(self) -> None:
        if Tier.DEVICE not in self.nodes:
            raise ConfigError(f"problem of stream {self.stream}", "it has no device")
        for node in self.nodes.values():
            if node not in self.times:
                raise ConfigError(f"node {node}", "it has no profile", "measure one with `anabranch profile`")

    def times_of(self, tier: Tier) -> SegmentTimes:
        """The times of the tier's node, as profiled."""
        return self.times[self.nodes[tier]]

    @property
    def alone_s(self) -> float:
        """A frame on the device alone and in pieces, where some are computed so beside the plan; infinite otherwise."""
        return (1.0 + LONGER) * self._whole_s if self.fills_up else math.inf

    @property
    def hedge_s(self) -> float:
        """A frame on the device alone, where those are computed so that are on their way; infinite otherwise."""
        return (1.0 + HEDGED_LONGER) * self._whole_s if self.hedges else math.inf

    @property
    def _whole_s(self) -> float:
        return self.times_of(Tier.DEVICE).whole_s * self.load_of(Tier.DEVICE)

    def load_of(self, tier: Tier) -> float:
        """The slowdown of the tier's node, at the objective's quantile."""
        load = self.loads.get(self.nodes[tier])
        return 1.0 if load is None else load.at(self.objective.quantile)

    def way_home(self, last: Tier) -> WayHome:
        """The way of a result from the tier `last`, over links that are taken to be as fast back as forth.

        Without an estimate of its link with the device, the way is that over the edge.
        """
        if last is Tier.DEVICE:
            return WayHome()
        straight = self.links.get((Tier.DEVICE, last))
        links = (self.links[DEVICE_EDGE], self.links[EDGE_CLOUD]) if straight is None else (straight,)
        slowest_bps = min(link.bps_at(self.objective.quantile) for link in links)
        return WayHome(self.graph.result_bytes * 8.0 / slowest_bps, sum(link.rtt_s for link in links) / 2)

    def has(self, *hops: Hop) -> bool:
        """Whether all of these links, and the nodes at their ends, are there."""
        return all(hop in self.links and hop[0] in self.nodes and hop[1] in self.nodes for hop in hops)


@dataclass(frozen=True)
class StageCost:
    """Predicted seconds per frame of one stage; the three run side by side on successive frames."""

    tier: Tier
    node: str
    until: str
    decode_s: float
    compute_s: float
    encode_s: float


@dataclass(frozen=True)
class LinkCost:
    """Predicted use of one link by one frame."""

    source: Tier
    target: Tier
    codec: str
    bytes: float
    transfer_s: float
    """Bytes over goodput: what counts for the period."""
    rtt_s: float
    """Half of it counts with the frame; its result goes a way of its own."""


DEVIATIONS = 2.0
"""A link that is so many standard deviations faster than estimated is still looked ahead to."""

LINKED = 7
"""Frames of a plan on their way: each result that comes meanwhile waits for theirs."""


def filled_s(period_s: NDArray[np.float64], device_s: NDArray[np.float64], alone_s: float) -> NDArray[np.float64]:
    """Seconds between results, with those of frames that the device computes alone in the time that its plan leaves.

    Rates add up: 1 / period of the plan, and of 1 / alone the share that its own stage leaves. But all that come while
    some frames of the plan are on their way have to wait for these.

    Args:
        period_s: of the plan.
        device_s: compute of its stage on the device.
        alone_s: of a frame on the device alone, in pieces; infinite where none are computed so.
    """
    if math.isinf(alone_s):
        return period_s
    left = np.clip(1.0 - device_s / alone_s, 0.0, 1.0)
    with np.errstate(divide="ignore"):
        found = 1.0 / (1.0 / alone_s + left / period_s)
    return np.asarray(np.maximum(found, period_s * (LINKED / MAX_OPEN)))


HEDGED_LONGER = 0.03
"""By this share a frame takes longer alone that is computed as well: the plan's own part of it goes first."""

LEAST_DOUBT, SHARPNESS = 0.02, 3.0
"""Of links, and how much sharper the minimum of two latencies is than by all of their doubt: it comes and goes."""


def hedged_s(
    latency_s: NDArray[np.float64], device_s: NDArray[np.float64], alone_s: float, doubt: float
) -> NDArray[np.float64]:
    """Seconds to the first result of a frame that the device computes as well while it is on its way.

    That is the less of two times, and less than either where they are about the same and one of them is in doubt: a
    smooth minimum, `(a ** -k + b ** -k) ** (-1 / k)`.

    Args:
        latency_s: of the plan.
        device_s: compute of its stage on the device, which comes first.
        alone_s: of the frame on the device alone; infinite where none are computed so.
        doubt: log deviation of the links.
    """
    if math.isinf(alone_s):
        return latency_s
    own_s, sharpness = device_s + alone_s, SHARPNESS / max(doubt, LEAST_DOUBT)
    less_s = np.minimum(latency_s, own_s)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = less_s / np.maximum(latency_s, own_s)
    return np.asarray(less_s * (1.0 + share**sharpness) ** (-1.0 / sharpness))


@dataclass(frozen=True)
class Cost:
    """What a plan costs, as predicted."""

    latency_s: float
    """From admission to the result, without waiting in queues."""
    pipeline_s: float
    """Time of the slowest stage or link."""
    bytes: float
    """Per frame, all links together."""
    accuracy_drop: float | None
    """None where a codec of the plan was never calibrated at its cut."""
    device_busy_s: float
    device_memory_bytes: float
    cloud_busy_s: float
    energy_j: float | None
    """Of the device per frame; None without power figures."""
    stages: tuple[StageCost, ...]
    links: tuple[LinkCost, ...]
    home: WayHome
    """Of the result."""
    bottleneck: str
    """What takes `pipeline_s`: `device compute`, `edge decode`, `device-edge link`, `way home`, ..."""
    faster: float = 1.0
    """How many times faster the links may become."""
    alone_s: float = math.inf
    """See `Problem.alone_s`."""
    hedge_s: float = math.inf
    """See `Problem.hedge_s`."""

    @property
    def answer_s(self) -> float:
        """The latency, where the device computes frames as well that are on their way."""
        if math.isinf(self.hedge_s):
            return self.latency_s
        doubt = math.log(self.faster) / DEVIATIONS
        return float(hedged_s(np.asarray(self.latency_s), np.asarray(self.stages[0].compute_s), self.hedge_s, doubt))

    @property
    def busy_s(self) -> float:
        """The slowest step on a node: the slowest of all, were the links infinitely fast."""
        return max((max(stage.decode_s, stage.compute_s, stage.encode_s) for stage in self.stages), default=0.0)

    @property
    def period_s(self) -> float:
        """Seconds between results, those of frames that the device computes alone beside the plan among them."""
        return self._filled_s(self.pipeline_s)

    @property
    def headroom_s(self) -> float:
        """The same, were the links as fast as they may become (see `bounds.faster`)."""
        return self._filled_s(max(self.busy_s, self.pipeline_s / self.faster))

    def _filled_s(self, pipeline_s: float) -> float:
        if math.isinf(self.alone_s):
            return pipeline_s
        return float(filled_s(np.asarray(pipeline_s), np.asarray(self.stages[0].compute_s), self.alone_s))

    @property
    def throughput_fps(self) -> float:
        """Results per second of a source that is never the bottleneck."""
        return 1.0 / self.period_s if self.period_s > 0 else math.inf

    @property
    def pipeline_fps(self) -> float:
        """Of these, those of frames that go by the plan."""
        return 1.0 / self.pipeline_s if self.pipeline_s > 0.0 else math.inf


@dataclass(frozen=True)
class Alternative:
    """A plan that was not chosen."""

    plan: Plan
    cost: Cost


@dataclass(frozen=True)
class Decision:
    """A planner's answer."""

    plan: Plan
    cost: Cost
    planner: str
    considered: int
    """Plans that were compared, those excluded by a bound on a whole group of them included."""
    violated: str | None = None
    """None, or the bound that no plan keeps (for `joint`), or that this plan breaks (for the others)."""
    runners_up: tuple[Alternative, ...] = ()
    """Next best plans, best first, where asked for."""


class Planner(Protocol):
    """Finds a plan. Pure: no clock, no I/O; may keep what it prepared for a problem's constant parts."""

    name: str

    def plan(self, problem: Problem, alternatives: int = 0) -> Decision:
        """Decide.

        Args:
            problem: what is known.
            alternatives: number of runners-up wanted; planners that do not rank give none.

        Raises:
            PlanError: the planner cannot plan this problem at all (a fixed plan for another model).
        """
