"""The plan: which part of the network runs where, and how its activations travel. Immutable data.

The one contract that all rooms share. A plan names cuts, not blocks or layers: `ModelGraph.cut` gives their
meaning. Its epoch is stamped on every frame, and a frame is computed from end to end by the plan of its epoch.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import Annotated, TypeVar

import msgspec

from pipeline.errors import PlanError
from pipeline.model.graph import INPUT, OUTPUT, Cut, ModelGraph

Item = TypeVar("Item")

Epoch = Annotated[int, msgspec.Meta(ge=0, lt=1 << 53)]
"""Far below the wire's own bound (2^62), so that counting on from the highest can never reach it."""

NodeName = Annotated[str, msgspec.Meta(max_length=200)]
CutName = Annotated[str, msgspec.Meta(max_length=2048)]
Share = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]
CodecName = Annotated[str, msgspec.Meta(max_length=32)]


RESULT_CODEC = "fp32"
"""How the network's outputs travel back: exactly."""

MAX_SEGMENTS = 8
"""Segments that a node keeps for plans that may come back."""


class Tier(StrEnum):
    """Where a stage runs; the order of the members is the order of the stream."""

    DEVICE = "device"
    EDGE = "edge"
    CLOUD = "cloud"

    @property
    def rank(self) -> int:
        """0 for the device, 1 for the edge, 2 for the cloud."""
        return _RANKS[self]


_RANKS = {tier: rank for rank, tier in enumerate(Tier)}


class Stage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One node's part of the network: from the previous stage's `until` (or the input) to its own."""

    tier: Tier
    node: NodeName
    """Name of the node, as in its reports."""
    until: CutName
    """Name of the cut at which this stage ends."""


class Link(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The way from one stage to the next."""

    codec: CodecName = "fp32"
    """Name of a codec of `pipeline.packing`, used for every tensor that crosses."""


class TileStack(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A run of blocks that tile workers compute side by side, with a merge behind it."""

    until: CutName
    """Name of the cut at which the stack ends; it starts at the previous stack's, or where the stage starts."""
    rows: Annotated[tuple[Share, ...], msgspec.Meta(max_length=64)] = (1.0,)
    """Shares of the output's height, top to bottom; they sum to 1."""
    columns: Annotated[tuple[Share, ...], msgspec.Meta(max_length=64)] = (1.0,)
    """Shares of the output's width, left to right; they sum to 1."""
    chained: bool = False
    """Whether the strips of the stack before stay with their workers, and only rows that are lacked cross, instead of a
    merge in between. Both stacks are strips then."""


def in_chains(items: Iterable[Item], goes_on: Callable[[Item, Item], bool]) -> list[list[Item]]:
    """Stacks, or what stands for them, that are chained to each other together; all others by themselves.

    Args:
        items: in order.
        goes_on: whether the second of two neighbours is chained to the first.
    """
    found: list[list[Item]] = []
    for item in items:
        if found and goes_on(found[-1][-1], item):
            found[-1].append(item)
        else:
            found.append([item])
    return found


class TilePlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the edge stage is cut into tiles."""

    stacks: Annotated[tuple[TileStack, ...], msgspec.Meta(max_length=128)]
    """Fused stacks in order; blocks of the stage behind the last one run untiled on the edge node. Empty: the edge
    node chooses them itself, by its own measurements. Their shares are a first guess: the edge node fits strips to
    the speeds that it sees."""
    workers: Annotated[tuple[NodeName, ...], msgspec.Meta(max_length=128)]
    """Node names of the workers, the edge node first. Any but the edge node may be absent."""
    codec: CodecName = "fp32"
    """Codec of tile inputs and outputs; lossless by default."""
    open: bool = False
    """Whether tile workers that are not named take part too, as they come."""


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A complete decision for one stream.

    Raises:
        PlanError: stages and links do not fit each other, or the tiers are out of order.
    """

    epoch: Epoch
    """Grows by one at each switch of the stream; 0 is everything on the device."""
    stream: NodeName
    model: NodeName
    """Fingerprint of the network."""
    stages: Annotated[tuple[Stage, ...], msgspec.Meta(max_length=8)]
    links: Annotated[tuple[Link, ...], msgspec.Meta(max_length=8)] = ()
    tiles: TilePlan | None = None

    def __post_init__(self) -> None:
        ranks = [stage.tier.rank for stage in self.stages]
        if not self.stages or ranks[0] != Tier.DEVICE.rank:
            raise PlanError(self.label, "the first stage is not on the device")
        if any(a >= b for a, b in itertools.pairwise(ranks)):
            raise PlanError(self.label, "stages are not in the order device, edge, cloud")
        if len(self.links) != len(self.stages) - 1:
            raise PlanError(self.label, f"{len(self.stages)} stages need {len(self.stages) - 1} links")
        if self.stages[-1].until != OUTPUT:
            raise PlanError(self.label, f"the last stage ends at {self.stages[-1].until}, not at the output")
        if self.tiles is not None and Tier.EDGE not in {stage.tier for stage in self.stages}:
            raise PlanError(self.label, "tiles without an edge stage")

    @property
    def label(self) -> str:
        """How messages name this plan."""
        return f"plan {self.stream}#{self.epoch}"

    @property
    def nodes(self) -> tuple[str, ...]:
        """Names of the nodes that the plan needs; tile workers are not among them (any may leave)."""
        return tuple([stage.node for stage in self.stages])  # a list: this is asked for thousands of times a second

    @property
    def participants(self) -> tuple[str, ...]:
        """Names of all nodes with a part in the plan, tile workers included."""
        return self.nodes if self.tiles is None else tuple(dict.fromkeys((*self.nodes, *self.tiles.workers)))

    @property
    def is_device_only(self) -> bool:
        """Whether the device computes everything, and no link is used."""
        return len(self.stages) == 1

    def hop_of(self, node: str) -> int:
        """Position of the node's stage.

        Raises:
            PlanError: the node has no stage in this plan.
        """
        for hop, stage in enumerate(self.stages):
            if stage.node == node:
                return hop
        raise PlanError(self.label, f"node {node} has no stage in it")

    def span(self, hop: int, graph: ModelGraph) -> tuple[Cut, Cut]:
        """The cuts between which stage number `hop` computes.

        Raises:
            UnknownCut: the plan names a cut that the model does not have.
            PlanError: the cuts are not nested.
        """
        start = graph.cut(self.stages[hop - 1].until if hop else INPUT)
        end = graph.cut(self.stages[hop].until)
        if not start.before(end):
            raise PlanError(self.label, f"cut {start.name} is not before {end.name}")
        return start, end

    def check(self, graph: ModelGraph) -> None:
        """Raise where the plan does not fit `graph`.

        Raises:
            PlanError: another model, or cuts that are not nested.
            UnknownCut: a cut that the model does not have.
        """
        if self.model != graph.fingerprint:
            raise PlanError(
                self.label,
                f"made for model {self.model[:12]}, not {graph.fingerprint[:12]}",
                "start all nodes with the same model and weights",
            )
        for hop in range(len(self.stages)):
            self.span(hop, graph)


Signature = tuple[tuple[Stage, ...], tuple[Link, ...], TilePlan | None]
"""See `signature`."""


def device_only(stream: str, node: str, model: str, epoch: int = 0) -> Plan:
    """The plan that always works: the whole network, whose fingerprint is `model`, on the device."""
    return Plan(epoch, stream, model, (Stage(Tier.DEVICE, node, OUTPUT),))


def same(first: Plan, second: Plan) -> bool:
    """Whether two plans do the same, whatever their epochs."""
    return msgspec.structs.replace(first, epoch=second.epoch) == second


def signature(plan: Plan) -> Signature:
    """What makes two plans of a stream the same choice, whatever their epochs."""
    return plan.stages, plan.links, plan.tiles
