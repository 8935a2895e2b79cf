"""The one cost model: what a plan takes in time, bytes, accuracy, memory and energy.

- A stage decodes, computes and encodes in three threads, on successive frames; a link transfers beside them. The
  *period* is the slowest of all of these, the *latency* their sum, with half of each link's round trip and the result's
  straight way home.
- A tensor that several later blocks need crosses a link once (it is in the cut once).
- Packing beside compute slows it by `contention` of its time; a node's load scales all its times.
- Uncertain links and loads count at the objective's quantile.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from pipeline.model.graph import INPUT
from pipeline.plan import Plan, Stage, Tier
from scheduler.bounds import bounds_of, faster, figures_of, leaves_device, leaves_edge
from scheduler.problem import Cost, Hop, LinkCost, Problem, StageCost
from scheduler.tables import Floats, Ints, PackingTable


@dataclass(frozen=True)
class Packed:
    """What packing takes, unscaled: rows of the packing table, of one shape."""

    bytes: Floats
    encode_s: Floats
    decode_s: Floats

    @classmethod
    def of(cls, packing: PackingTable, cut: Ints | int, codec: Ints | int) -> Packed:
        """The entries of cuts and codecs (indices, broadcast)."""
        return cls(packing.bytes[cut, codec], packing.encode_s[cut, codec], packing.decode_s[cut, codec])


@dataclass(frozen=True)
class Crossing:
    """What packing for a link takes on both sides: of one choice, or of many (arrays of one shape)."""

    encode_s: Floats
    decode_s: Floats
    encode_drag_s: Floats
    """By which packing slows the sender's compute."""
    decode_drag_s: Floats


def crossing(problem: Problem, hop: Hop, packed: Packed) -> Crossing:
    """Packing and unpacking on the nodes at the ends of `hop`, at their loads."""
    sender, receiver = (problem.times_of(tier) for tier in hop)
    encode = packed.encode_s * (sender.packing_scale * problem.load_of(hop[0]))
    decode = packed.decode_s * (receiver.packing_scale * problem.load_of(hop[1]))
    return Crossing(encode, decode, encode * sender.contention, decode * receiver.contention)


def evaluate(problem: Problem, plan: Plan) -> Cost:
    """What `plan` costs.

    Raises:
        PlanError: the plan is for another model, or names cuts that are not nested.
        UnknownCut: a cut that the model does not have.
        ConfigError: a codec that the packing table does not have.
        KeyError: a link or tier that the problem does not have.
    """
    plan.check(problem.graph)
    return with_links(problem, plan, stage_costs(problem, plan))


def stage_costs(problem: Problem, plan: Plan) -> tuple[StageCost, ...]:
    """The part of a plan's cost that no link changes."""
    crossings = _crossings(problem, plan, _choices(problem, plan))
    return tuple(_stage_cost(problem, plan, number, crossings) for number in range(len(plan.stages)))


def with_links(problem: Problem, plan: Plan, stages: tuple[StageCost, ...]) -> Cost:
    """The whole cost, with the links as they are."""
    choices = _choices(problem, plan)
    links = tuple(_link_cost(problem, plan, number, choice) for number, choice in enumerate(choices))
    return _total(problem, choices, stages, links)


def violations(problem: Problem, plan: Plan, cost: Cost) -> dict[str, float]:
    """The bounds that a plan breaks, with the excess of each as a share (infinite for privacy or unknown accuracy)."""
    figures = figures_of(problem, cost)
    found = {bound.name: float(bound.excess(figures)) for bound in bounds_of(problem) if not bool(bound.keeps(figures))}
    asked, graph = problem.objective, problem.graph
    for stage, following in itertools.pairwise(plan.stages):
        index = graph.cut(stage.until).index
        if stage.tier is Tier.DEVICE and not leaves_device(graph, asked.private_until)[index]:
            found["private_until"] = np.inf
        if following.tier is Tier.CLOUD and not leaves_edge(graph, asked.pictures_stay_at_edge)[index]:
            found["pictures_stay_at_edge"] = np.inf
    return found


def _crossings(problem: Problem, plan: Plan, choices: list[tuple[int, int]]) -> tuple[Crossing, ...]:
    hops = [(a.tier, b.tier) for a, b in itertools.pairwise(plan.stages)]
    return tuple(
        crossing(problem, hop, Packed.of(problem.packing, *where)) for hop, where in zip(hops, choices, strict=True)
    )


def _choices(problem: Problem, plan: Plan) -> list[tuple[int, int]]:
    """For each link, the indices of its cut and codec."""
    return [
        (problem.graph.cut(stage.until).index, problem.packing.codec(link.codec))
        for stage, link in zip(plan.stages, plan.links, strict=False)
    ]


def _link_cost(problem: Problem, plan: Plan, number: int, choice: tuple[int, int]) -> LinkCost:
    source, target = plan.stages[number].tier, plan.stages[number + 1].tier
    nbytes = float(problem.packing.bytes[choice])
    link = problem.links[source, target]
    return LinkCost(
        source=source,
        target=target,
        codec=plan.links[number].codec,
        bytes=nbytes,
        transfer_s=nbytes * (8.0 / link.bps_at(problem.objective.quantile)),
        rtt_s=link.rtt_s,
    )


def _stage_cost(problem: Problem, plan: Plan, number: int, crossings: tuple[Crossing, ...]) -> StageCost:
    stage = plan.stages[number]
    before = crossings[number - 1] if number else None
    behind = crossings[number] if number < len(crossings) else None
    drag = float(before.decode_drag_s if before else 0.0) + float(behind.encode_drag_s if behind else 0.0)
    return StageCost(
        tier=stage.tier,
        node=stage.node,
        until=stage.until,
        decode_s=float(before.decode_s) if before else 0.0,
        compute_s=_compute_s(problem, plan, number, stage) + drag,
        encode_s=float(behind.encode_s) if behind else 0.0,
    )


def _compute_s(problem: Problem, plan: Plan, number: int, stage: Stage) -> float:
    graph = problem.graph
    start = graph.cut(plan.stages[number - 1].until if number else INPUT)
    end = graph.cut(stage.until)
    seconds = problem.times_of(stage.tier).seconds(start.index, end.index)
    if stage.tier is Tier.EDGE and plan.tiles is not None and problem.tiles is not None:
        seconds = max(seconds - problem.tiles.saved_by(graph, plan.tiles, start), 0.0)
    return seconds * problem.load_of(stage.tier)


def _total(
    problem: Problem, choices: list[tuple[int, int]], stages: tuple[StageCost, ...], links: tuple[LinkCost, ...]
) -> Cost:
    parts = {f"{s.tier} {part}": getattr(s, f"{part}_s") for s in stages for part in ("decode", "compute", "encode")}
    parts |= {f"{link.source}-{link.target} link": link.transfer_s for link in links}
    home = problem.way_home(stages[-1].tier)
    if links:
        parts["way home"] = home.transfer_s
    bottleneck = max(parts, key=lambda name: parts[name])
    drop = problem.packing.drop_of(*choices)
    device, cloud = stages[0], stages[-1]
    busy = device.compute_s + device.encode_s
    energy = None
    if problem.power is not None:
        sending = links[0].transfer_s if links else 0.0
        energy = problem.power.compute_w * busy + problem.power.transmit_w * sending
    return Cost(
        latency_s=sum(parts.values()) + sum(link.rtt_s for link in links) / 2 + home.delay_s,
        pipeline_s=parts[bottleneck],
        bytes=sum(link.bytes for link in links),
        accuracy_drop=None if np.isnan(drop) else drop,
        device_busy_s=busy,
        device_memory_bytes=float(problem.times_of(Tier.DEVICE).memory_bytes[problem.graph.cut(device.until).index]),
        cloud_busy_s=cloud.decode_s + cloud.compute_s if cloud.tier is Tier.CLOUD else 0.0,
        energy_j=energy,
        stages=stages,
        links=links,
        home=home,
        bottleneck=bottleneck,
        faster=faster(problem),
        alone_s=problem.alone_s,
        hedge_s=problem.hedge_s,
    )
