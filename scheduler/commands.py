"""What the scheduler tells the nodes and the viewers. All of it is state, published again at every heartbeat.

A message that is lost, late or doubled delays a switch and breaks nothing: a node compares `scheduler` and
`sequence` and keeps the newest, and every announcement holds all that a node needs that has seen none before.
"""

from __future__ import annotations

import msgspec

from pipeline.plan import Plan, Tier
from scheduler.reports import PROTOCOL_VERSION, Count, Endpoints, Load, Name, Text


class Announcement(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="announcement"):
    """The plans of one stream. Published to every node that one of them names."""

    stream: Name
    scheduler: Name
    """Incarnation of the scheduler."""
    sequence: Count
    """Grows with every command of this incarnation; a node ignores what is older than what it has."""
    current: Plan
    """The plan that frames are stamped with, as the scheduler knows it from the device."""
    prepared: Plan | None = None
    """The plan to build and to warm; None while none is due."""
    commit: Count = 0
    """The device stamps the next frame with this epoch, if it is higher than any that it has left: the epoch
    of `current`, or of `prepared` once all its nodes are ready."""
    draining: tuple[Plan, ...] = ()
    """Earlier plans of which frames are still in flight; they stay runnable."""
    peers: dict[Name, Endpoints] = {}
    """Endpoints of every node that these plans name, workers included, as far as they are alive."""
    oldest: Count = 0
    """No frame of a lower epoch is in flight any more: nodes free those segments (never epoch 0, which is the
    device's own)."""
    lost: dict[Name, Count] = {}
    """Nodes that died or started anew, and an epoch each: frames of that and earlier epochs that pass through the
    node are gone, and the device admits them again."""
    detour: bool = False
    """Whether the device may compute frames alone while nothing comes back (`scheduler.outage.Detour`)."""
    fills_up: bool = False
    """Whether it computes frames alone in the time that its plan leaves it (`scheduler.flow.Spare`)."""
    hedges: bool = False
    """Whether it computes frames as well that are on their way (`scheduler.flow.Flow.hedge`)."""
    reason: Text = ""
    """Why the plan changed last, for people."""
    version: int = PROTOCOL_VERSION

    @property
    def plans(self) -> tuple[Plan, ...]:
        """Every plan that must stay runnable, the oldest first."""
        prepared = () if self.prepared is None else (self.prepared,)
        return (*self.draining, self.current, *prepared)

    @property
    def committed(self) -> Plan:
        """The plan that the device shall stamp frames with."""
        return next((plan for plan in reversed(self.plans) if plan.epoch == self.commit), self.current)


class ProbeOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="probe"):
    """Asks `source` to send bytes to `target`, so that an idle link's goodput is known."""

    scheduler: Name
    sequence: Count
    source: Name
    target: Name
    endpoint: Name
    """The target's frames inbox; its tiles inbox where either end is a tile worker."""
    payload_bytes: Count
    tiles: bool = False
    """Whether `endpoint` is a tiles inbox."""


class Refusal(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="refusal"):
    """Tells a node that it takes no part, and why."""

    scheduler: Name
    sequence: Count
    node: Name
    incarnation: Name
    reason: Text
    version: int = PROTOCOL_VERSION


class NodeView(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One node, as viewers see it."""

    node: Name
    tier: Tier | None
    alive: bool
    age_s: float
    """Since its latest report."""
    load: Load
    slowdown: float = 1.0
    """How many times slower than its profile it runs."""
    refused: Text = ""


class LinkView(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One link, as viewers see it."""

    source: Name
    target: Name
    goodput_bps: float
    uncertainty: float
    """Standard deviation of the natural logarithm of `goodput_bps`: 0.1 is about 10%."""
    rtt_s: float
    age_s: float
    """Since anything was seen on it."""


class SwitchRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A switch of plans: why, what was hoped for, and what came of it."""

    stream: Name
    epoch: Count
    at_s: float
    reason: Text
    predicted: float = 1.0
    """Predicted gain as a ratio, old over new cost: 1.2 is one fifth more frames a second (or less latency)."""
    measured: float | None = None
    """The same ratio, of measurements before and after; None until enough frames have passed."""


class StreamView(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One stream, as viewers see it."""

    stream: Name
    device: Name
    phase: Name
    """`steady`, `preparing` or `committing`."""
    current: Plan
    prepared: Plan | None = None
    waiting_for: tuple[Name, ...] = ()
    """Nodes that are not ready for `prepared`, or that a fixed plan names and nobody has heard of."""
    fps: float = 0.0
    latency_s: float = 0.0
    predicted_fps: float = 0.0
    predicted_latency_s: float = 0.0
    weight: float = 1.0
    planner: Name = ""
    switches: tuple[SwitchRecord, ...] = ()
    """The latest ones, oldest first."""
    problem: Text = ""
    """What keeps this stream from its objective: a bound that cannot be met, a node that is missing."""


class ClusterState(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="cluster"):
    """Everything, for the live table. Published at every heartbeat."""

    scheduler: Name
    sequence: Count
    at_s: float
    nodes: tuple[NodeView, ...] = ()
    links: tuple[LinkView, ...] = ()
    streams: tuple[StreamView, ...] = ()
    log: tuple[Text, ...] = ()
    """The latest decisions in words, oldest first."""


Command = Announcement | ProbeOrder | Refusal | ClusterState
