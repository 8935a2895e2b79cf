"""Random small networks and problems, and the brute force that planners are held against."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pipeline.model.graph import INPUT, Block, Cut, ModelGraph, TensorSpec
from pipeline.plan import Link, Plan, Stage, Tier, TilePlan, TileStack
from scheduler.bounds import bounds_of, figures_of, measure_of
from scheduler.cost import evaluate, violations
from scheduler.objective import Objective
from scheduler.problem import (
    DEVICE_CLOUD,
    DEVICE_EDGE,
    EDGE_CLOUD,
    HOPS,
    Cost,
    LinkEstimate,
    LoadEstimate,
    Power,
    Problem,
)
from scheduler.tables import PackingTable, SegmentTimes
from scheduler.tiles import Grid, TileTable, mask_words, waists

SLACK = 1 + 1e-9
NODES = {Tier.DEVICE: "camera", Tier.EDGE: "edge-1", Tier.CLOUD: "cloud"}


def network(rng: np.random.Generator, blocks: int) -> ModelGraph:
    """A random DAG of blocks with one output tensor each; what nobody reads is an output of the network."""
    tensors = {INPUT: TensorSpec(INPUT, (1, 3, 8, 8), "uint8")}
    made: list[Block] = []
    for index in range(blocks):
        earlier = list(tensors)
        # Mostly chains with some branches, as networks are.
        near = earlier[-1] if rng.random() < 0.6 else str(rng.choice(earlier))
        inputs = tuple(dict.fromkeys([near, *rng.choice(earlier, int(rng.integers(0, 2))).tolist()]))
        name = f"t{index}"
        tensors[name] = TensorSpec(name, (1, int(rng.integers(1, 9)), 4, 4))
        made.append(Block(index, f"b{index}", "conv", (f"op{index}",), inputs, (name,), int(rng.integers(1, 1000)), 64))
    read = {name for block in made for name in block.inputs}
    return ModelGraph(
        "random", f"f{rng.integers(2**40)}", tuple(made), tensors, tuple(n for n in tensors if n not in read | {INPUT})
    )


def times(rng: np.random.Generator, graph: ModelGraph, unit_s: float) -> SegmentTimes:
    """Additive block times with random costs of starting and ending."""
    block_s = unit_s * rng.integers(1, 20, len(graph.blocks)).astype(np.float64)
    potential = np.array([sum(block_s[i] for i in range(len(block_s)) if cut.mask >> i & 1) for cut in graph.cuts])
    return SegmentTimes(
        enter_s=potential - rng.integers(0, 3, len(potential)) * unit_s,
        leave_s=potential + rng.integers(0, 3, len(potential)) * unit_s,
        block_s=block_s,
        memory_bytes=np.sort(rng.integers(1, 100, len(potential)).astype(float)),
        packing_scale=float(rng.choice([0.5, 1.0, 3.0])),
        contention=float(rng.choice([0.0, 0.0, 0.5])),
    )


def packing(rng: np.random.Generator, graph: ModelGraph, codecs: int) -> PackingTable:
    """A lossless codec everywhere, others here and there, with measured pairs."""
    shape = len(graph.cuts), codecs
    raw = np.array([graph.cut_bytes(cut) for cut in graph.cuts], dtype=float)
    shrink = np.concatenate([[1.0], rng.uniform(0.1, 0.9, codecs - 1)])
    nbytes = np.ceil(raw[:, None] * shrink)
    nbytes[:, 1:][rng.random((shape[0], codecs - 1)) < 0.2] = np.inf
    drop = rng.integers(0, 5, shape) / 100
    drop[rng.random(shape) < 0.1] = np.nan
    drop[:, 0] = 0.0
    where = [shape[0] - 1, codecs] * 2
    pairs = {
        (int(a), int(b), int(c), int(d)): 0.01 * int(rng.integers(0, 5))
        for a, b, c, d in rng.integers(0, where, (4, 4))
    }
    return PackingTable(
        ("fp32", "q4", "jpeg80", "q8")[:codecs],
        nbytes,
        drop,
        1e-3 * rng.integers(0, 4, shape).astype(np.float64),
        1e-3 * rng.integers(0, 4, shape).astype(np.float64),
        pairs,
    )


def tile_table(rng: np.random.Generator, graph: ModelGraph) -> TileTable:
    """Random savings of two grids."""
    where = waists(mask_words(graph))
    gain = 1e-3 * rng.integers(-3, 8, (2, len(where), len(where))).astype(np.float64)
    grids = Grid((0.5, 0.5)), Grid((0.5, 0.5), (0.5, 0.5))
    return TileTable(where, grids, gain, ("edge-1", "tile-1"))


@dataclass(frozen=True)
class Size:
    """How large a random problem is."""

    blocks: int = 5
    codecs: int = 3
    tiled: bool = False


def problem(rng: np.random.Generator, size: Size, objective: Objective) -> Problem:
    """A random problem; links and tiers may be missing."""
    graph = network(rng, size.blocks)
    nodes = {tier: name for tier, name in NODES.items() if tier is Tier.DEVICE or rng.random() < 0.9}
    rates = 10.0 ** rng.uniform(3.5, 6.5, 3)
    links = {
        hop: LinkEstimate(float(rate), float(rng.integers(0, 3)) * 1e-3, float(rng.choice([0.0, 0.3])))
        for hop, rate in zip(HOPS, rates, strict=True)
        if rng.random() < 0.9
    }
    units = {Tier.DEVICE: 4e-3, Tier.EDGE: 1e-3, Tier.CLOUD: 3e-4}
    return Problem(
        graph=graph,
        stream="camera",
        nodes=nodes,
        times={name: times(rng, graph, units[tier]) for tier, name in nodes.items()},
        packing=packing(rng, graph, size.codecs),
        links=links,
        loads={nodes[Tier.DEVICE]: LoadEstimate(float(rng.choice([1.0, 1.5])), 0.1)},
        objective=objective,
        tiles=tile_table(rng, graph) if size.tiled and Tier.EDGE in nodes else None,
        power=Power(4.0, 1.5),
        fills_up=objective.fills_up and rng.random() < 0.5,
        hedges=objective.hedges and rng.random() < 0.5,
        fps=None if objective.max_bytes_per_s is None and rng.random() < 0.5 else float(rng.choice([5.0, 50.0, 500.0])),
    )


def every_plan(problem: Problem) -> Iterator[Plan]:
    """All plans of a problem, the slow and certain way."""
    cuts, last = problem.graph.cuts, problem.graph.cuts[-1]
    yield _plan(problem, [(Tier.DEVICE, last)], [])
    for first in cuts[:-1]:
        for codec in _codecs(problem, first):
            if problem.has(DEVICE_CLOUD):
                yield _plan(problem, [(Tier.DEVICE, first), (Tier.CLOUD, last)], [codec])
            if problem.has(DEVICE_EDGE):
                yield from _tiled(problem, _plan(problem, [(Tier.DEVICE, first), (Tier.EDGE, last)], [codec]))
                if problem.has(EDGE_CLOUD):
                    yield from _three(problem, first, codec)


def _three(problem: Problem, first: Cut, codec: str) -> Iterator[Plan]:
    for second in problem.graph.cuts[:-1]:
        if first.before(second):
            for other in _codecs(problem, second):
                ends = [(Tier.DEVICE, first), (Tier.EDGE, second), (Tier.CLOUD, problem.graph.cuts[-1])]
                yield from _tiled(problem, _plan(problem, ends, [codec, other]))


def _codecs(problem: Problem, cut: Cut) -> list[str]:
    offered = np.isfinite(problem.packing.bytes[cut.index])
    return [name for name, here in zip(problem.packing.codecs, offered, strict=True) if here]


def _plan(problem: Problem, ends: list[tuple[Tier, Cut]], codecs: list[str]) -> Plan:
    stages = tuple(Stage(tier, problem.nodes[tier], cut.name) for tier, cut in ends)
    return Plan(0, "camera", problem.graph.fingerprint, stages, tuple(Link(codec) for codec in codecs))


def _tiled(problem: Problem, plan: Plan) -> Iterator[Plan]:
    yield plan
    if problem.tiles is None:
        return
    start, end = plan.span(1, problem.graph)
    inside = [c for c in (problem.graph.cuts[i] for i in problem.tiles.waists) if start.before(c) and c.before(end)]
    for count in range(2, len(inside) + 1):
        for ends in itertools.combinations(inside, count):
            for grids in itertools.product([Grid(), *problem.tiles.grids], repeat=count - 1):
                stacks = [TileStack(ends[0].name)]
                stacks += [TileStack(c.name, g.rows, g.columns) for c, g in zip(ends[1:], grids, strict=True)]
                tiles = TilePlan(tuple(stacks), problem.tiles.workers)
                yield Plan(plan.epoch, plan.stream, plan.model, plan.stages, plan.links, tiles)


@dataclass(frozen=True)
class Optimum:
    """What brute force finds."""

    violated: str | None
    """The bound that is given up; "several" where one is not enough."""
    excess: float
    limits: tuple[float, ...]
    """What the best plans are at most, by level of the objective."""


def excess(problem: Problem, plan: Plan, cost: Cost) -> float:
    """The largest excess over a bound."""
    return max(violations(problem, plan, cost).values(), default=0.0)


def merits(problem: Problem, cost: Cost) -> tuple[float, ...]:
    """Values of the objective's levels."""
    figures = figures_of(problem, cost)
    return tuple(float(measure_of(problem, level.goal)(figures)) for level in problem.objective.levels)


def brute_force(problem: Problem) -> Optimum:
    """The optimum over `every_plan`."""
    plans = list(every_plan(problem))
    costs = [evaluate(problem, plan) for plan in plans]
    broken = [violations(problem, plan, cost) for plan, cost in zip(plans, costs, strict=True)]
    violated, least = _given_up(problem, broken)
    allowed = {violated} if violated != "several" else set().union(*broken)
    left = [
        merits(problem, cost)
        for cost, own in zip(costs, broken, strict=True)
        if set(own) <= allowed and max(own.values(), default=0.0) <= least * SLACK + 1e-12
    ]
    limits = []
    for rank, level in enumerate(problem.objective.levels):
        limits.append(min(values[rank] for values in left) * (1 + level.tolerance) * SLACK + 1e-15)
        left = [values for values in left if values[rank] <= limits[-1]]
    return Optimum(violated, least, tuple(limits))


def _given_up(problem: Problem, broken: list[dict[str, float]]) -> tuple[str | None, float]:
    """The bound that is missed by the least while all others are kept, and by how much."""
    if not all(broken):
        return None, 0.0
    best: tuple[str, float] | None = None
    for bound in bounds_of(problem):
        alone = min((own[bound.name] for own in broken if set(own) == {bound.name}), default=np.inf)
        if alone < (best[1] if best else np.inf):
            best = bound.name, alone
    return best or ("several", min(max(own.values()) for own in broken))


__all__ = ["Optimum", "Size", "brute_force", "every_plan", "excess", "merits", "network", "problem"]
