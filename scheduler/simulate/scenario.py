"""What is simulated: the network's figures, machines, links, streams and the policy."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from pipeline.errors import ConfigError
from pipeline.model.graph import ModelGraph
from pipeline.plan import Plan, Tier
from scheduler.foresight import ORACLE
from scheduler.objective import Objective
from scheduler.planners import NAMES
from scheduler.problem import DEVICE_CLOUD, DEVICE_EDGE, EDGE_CLOUD, HOPS, Hop
from scheduler.simulate.scenes import Spread
from scheduler.tables import PackingTable, SegmentTimes
from traces.trace import Trace

POLICIES = (*NAMES, ORACLE)

DELAYS_S = {DEVICE_EDGE: 0.002, EDGE_CLOUD: 0.010, DEVICE_CLOUD: 0.012}
"""One-way delays where none are given: a room, a country, both."""

STREAMS_PER_EDGE = 32
STREAMS_PER_CLOUD = 64
"""More streams get more nodes: a node's report has room for 64 links."""


@dataclass(frozen=True)
class Channel:
    """The link between two tiers."""

    trace: Trace
    delay_s: float = 0.0
    """One way."""
    back: Trace | None = None
    """The other direction; None for the same trace."""
    shared: str = ""
    """Channels from one node with the same word here share their capacity (one radio)."""


@dataclass(frozen=True)
class Scenario:
    """One run.

    Raises:
        ConfigError: an unknown policy, no device, a link without its nodes, or figures out of range.
    """

    graph: ModelGraph
    packing: PackingTable
    times: Mapping[Tier, SegmentTimes]
    """Of one node of each tier; a tier that is not here has no nodes."""
    channels: Mapping[Hop, Channel]
    policy: str = "joint"
    fixed: Plan | None = None
    """Plan of the policy `fixed`, for nodes named as in `node_name`."""
    objective: Objective = field(default_factory=Objective)
    admit: str = "every"
    """`every` or `latest`: what a full window does to the source."""
    fps: float = 0.0
    """Of the source; 0 where it has a frame whenever one is wanted."""
    seconds: float = 60.0
    """The source ends after this."""
    frames: int | None = None
    """Or after so many frames."""
    streams: int = 1
    seed: int = 0
    noise: float = 0.05
    """Log deviation of every service time."""
    lead_s: float = 5.0
    """Nodes register, links are probed and the first plan is made before the source starts."""
    build_s: float = 0.25
    """To build a segment; warming it takes three frames more."""
    overhead_s: float = 0.0
    """Of every step of a frame, beside its profile: hand-overs and headers."""
    spread: Spread = field(default_factory=dict)
    """Of packed bytes from frame to frame; where a codec at a cut is not there, all frames have the median."""
    trace_spread_s: float = 0.0
    """Each further stream's device begins its access trace this much later."""

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise ConfigError(f"policy {self.policy!r}", "unknown", f"known are {', '.join(POLICIES)}")
        if self.policy == "fixed" and self.fixed is None:
            raise ConfigError("policy fixed", "it has no plan", "give --cut and --codec")
        if self.policy == ORACLE and self.streams > 1:
            raise ConfigError("policy oracle", "it knows one stream only", "leave --streams at 1")
        if Tier.DEVICE not in self.times:
            raise ConfigError("simulation", "it has no device")
        for hop in self.channels:
            if hop not in HOPS or not set(hop) <= set(self.times):
                raise ConfigError(f"link {hop[0]}-{hop[1]}", "it has no nodes", "name device-edge, edge-cloud, ...")
        if not (self.seconds > 0 and self.streams > 0 and self.noise >= 0 and self.fps >= 0 and self.lead_s >= 0):
            raise ConfigError("simulation", "a figure is out of range", "give positive seconds, streams and rates")
        if self.admit not in ("every", "latest") or (self.admit == "latest" and self.fps <= 0):
            raise ConfigError(f"admission {self.admit!r}", "unknown, or `latest` without a frame rate", "give --fps")

    def count(self, tier: Tier) -> int:
        """Nodes of a tier."""
        per = {Tier.DEVICE: 1, Tier.EDGE: STREAMS_PER_EDGE, Tier.CLOUD: STREAMS_PER_CLOUD}[tier]
        return -(-self.streams // per) if tier in self.times else 0

    def names(self, tier: Tier) -> list[str]:
        """The nodes of a tier."""
        return [node_name(tier, number) for number in range(self.count(tier))]

    @property
    def joined(self) -> frozenset[tuple[str, str]]:
        """The pairs of nodes that a channel joins; as in a replay, no others are probed."""
        names = {tier: self.names(tier) for tier in Tier}
        return frozenset(pair for a, b in self.channels for pair in itertools.product(names[a], names[b]))

    def alike(self, **changes: object) -> Scenario:
        """The same run with other fields."""
        return replace(self, **changes)  # type: ignore[arg-type]


def node_name(tier: Tier, number: int = 0) -> str:
    """Name of a simulated node: `edge-1` is number 0."""
    return f"{tier}-{number + 1}"
