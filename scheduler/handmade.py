"""A plan written down by hand: where the device's part ends, where the edge's does, and how the links are packed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from pipeline.errors import PlanError
from pipeline.model.graph import INPUT, OUTPUT, Cut, ModelGraph, bits
from pipeline.packing.sessions import open_encoder
from pipeline.plan import Link, Plan, Stage, Tier, TilePlan, TileStack


@dataclass(frozen=True)
class Tiling:
    """What `--tiles` and its kin say."""

    count: int = 0
    """Machines that compute the edge stage, the edge node among them; 0: no tiles."""
    stacks: str = ""
    """Cuts at which fused stacks end, comma-separated; empty: the edge node chooses."""
    codec: str = "fp32"

    def plan(self, graph: ModelGraph, edge: str) -> TilePlan | None:
        """The tile plan for an edge node; open to workers that are not named.

        Raises:
            UnknownCut: a cut that the model does not have.
            CodecError: a codec that does not exist.
        """
        if not self.count:
            return None
        open_encoder(self.codec)
        ends = [graph.cut(name.strip()).name for name in self.stacks.split(",")] if self.stacks else []
        rows = (1 / max(2, self.count),) * max(2, self.count)
        workers = (edge, *(worker_name(number) for number in range(1, self.count)))
        stacks = tuple(TileStack(end, rows, chained=number > 0) for number, end in enumerate(ends))
        return TilePlan(stacks, workers, self.codec, open=True)


def worker_name(number: int) -> str:
    """Name of the tile workers that `anabranch run` starts, from 1 on."""
    return f"tile-{number}"


def tiled(plan: Plan, graph: ModelGraph, tiling: Tiling) -> Plan:
    """`plan` with its edge stage in tiles, as `--tiles` says.

    Raises:
        UnknownCut: a cut that the model does not have.
        CodecError: a codec that does not exist.
        PlanError: there is no edge stage, or a fused stack does not end inside of it.
    """
    edge = next((stage for stage in plan.stages if stage.tier is Tier.EDGE), None)
    if not tiling.count:
        return plan
    if edge is None:
        raise PlanError(plan.label, "tiles without an edge stage", "let the edge take part")
    tiles = tiling.plan(graph, edge.node)
    start, end = plan.span(plan.stages.index(edge), graph)
    for stack in tiles.stacks if tiles is not None else ():
        cut = graph.cut(stack.until)
        if not start.before(cut) or not cut.before(end):
            raise PlanError(plan.label, f"stack end {cut.name} is not between {start.name} and {end.name}")
        start = cut
    return msgspec.structs.replace(plan, tiles=tiles)


def plan_of(
    graph: ModelGraph, stream: str, nodes: Mapping[Tier, str], cut: str = "", codec: str = "fp32", epoch: int = 1
) -> Plan:
    """The plan that `--cut` and `--codec` describe.

    Args:
        graph: the network.
        stream: the plan's stream.
        nodes: the node of each tier that takes part; a tier that is absent is skipped.
        cut: one cut name per link, comma-separated; empty divides the work evenly.
        codec: one codec for all links, or one per link, comma-separated.
        epoch: the plan's epoch.

    Raises:
        UnknownCut: a cut that the model does not have.
        CodecError: a codec that does not exist.
        PlanError: the numbers of cuts, codecs and links do not match, or the cuts are not nested.
    """
    tiers = [tier for tier in Tier if tier in nodes]
    links = len(tiers) - 1
    cuts = [graph.cut(name.strip()) for name in cut.split(",")] if cut else even_cuts(graph, links)
    codecs = [name.strip() for name in codec.split(",")]
    codecs = codecs * links if len(codecs) == 1 else codecs
    if len(cuts) != links or len(codecs) != links:
        raise PlanError(
            f"plan for {' -> '.join(tiers)}", f"{len(cuts)} cuts and {len(codecs)} codecs for {links} links",
            "give one cut per link, and one codec for all links or one per link",
        )  # fmt: skip
    for name in codecs:
        open_encoder(name)
    ends = [*(each.name for each in cuts), OUTPUT]
    stages = tuple(Stage(tier, nodes[tier], until) for tier, until in zip(tiers, ends, strict=True))
    plan = Plan(epoch, stream, graph.fingerprint, stages, tuple(Link(name) for name in codecs))
    plan.check(graph)
    return plan


def even_cuts(graph: ModelGraph, count: int, shares: Sequence[float] = ()) -> list[Cut]:
    """Cuts that divide the work as wanted, each chosen for the fewest bytes near its place.

    Args:
        graph: the network.
        count: number of cuts.
        shares: for each cut, the share of all work before it; empty for even parts.
    """
    inner = [each for each in graph.cuts if each.name not in (INPUT, OUTPUT)]
    done = {each.index: sum(graph.blocks[index].flops for index in bits(each.mask)) for each in inner}
    slack = graph.flops / (4 * (count + 1))
    chosen: list[Cut] = []
    for number in range(count):
        target = graph.flops * (shares[number] if shares else (number + 1) / (count + 1))
        behind = [each for each in inner if not chosen or chosen[-1].before(each)]
        nearest = min(abs(done[each.index] - target) for each in behind)
        near = [each for each in behind if abs(done[each.index] - target) <= max(slack, nearest)]
        chosen.append(min(near, key=graph.cut_bytes))
    return chosen
