"""D3's horizontal partition algorithm (arXiv 2101.05952) [recalled], with its partial re-partition at run time.

The problem it solves: give each block a tier, never upstream of a predecessor's, so that the sum of block times and of
transfers between tiers is least. Its method is greedy, and so is this:

1. Blocks are visited by their longest distance from the input. A block's potential tiers are those at or downstream of
   all its direct predecessors'.
2. The tier of least own time plus transfers from the predecessors' tiers is taken. A tensor that is on a tier already
   is not paid again.
3. *SIS update*: blocks that share the same direct predecessors are looked at again, in turn, once one of them has moved
   downstream, until none moves.
4. *Partial re-partition*: where a monitored time or bandwidth has left its threshold band, only the blocks that it
   concerns, their SIS blocks and their successors are decided again, and on from those whose tier changed.

Our reading, where the full rules are not known to us: (a) where a block's output is larger than its input, its value at
a tier includes the least that its largest successor can add from there (one look ahead), and this is done for all
blocks, not only before moving downstream; (b) the threshold band is 20 % around what the last decision was made with;
(c) after the greedy pass, the assignment with everything on one tier is taken if that is better. Transfers are raw
fp32, times are sums of layer times, and what the edge gets is tiled by the tile table where there is one (D3's vertical
separation).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from pipeline.model.graph import INPUT, ModelGraph, bits
from pipeline.plan import Plan, Tier
from scheduler.packing import RAW
from scheduler.planners.build import ALONE, build, decide
from scheduler.planners.prepared import Choice
from scheduler.problem import DEVICE_CLOUD, DEVICE_EDGE, EDGE_CLOUD, Decision, Problem

BAND = 0.2
"""Relative change of a block time or bandwidth that has its blocks decided again."""

Tiers = list[int]
"""Rank of the tier of each block."""


@dataclass(frozen=True)
class Prices:
    """What HPA looks at: seconds of each block on each tier, and seconds per byte and message between tiers."""

    block_s: dict[int, list[float]]
    s_per_byte: dict[tuple[int, int], float]
    delay_s: dict[tuple[int, int], float]

    @classmethod
    def of(cls, problem: Problem) -> Prices:
        """Prices at the present links and loads; a pair of tiers without a link is not in them."""
        block_s = {
            tier.rank: [float(s) for s in problem.times_of(tier).block_s * problem.load_of(tier)]
            for tier in problem.nodes
        }
        speed, delay = {}, {}
        for hop in (DEVICE_EDGE, EDGE_CLOUD, DEVICE_CLOUD):
            if problem.has(hop):
                pair = hop[0].rank, hop[1].rank
                speed[pair] = 8.0 / problem.links[hop].bps_at(problem.objective.quantile)
                delay[pair] = problem.links[hop].rtt_s / 2
        if (0, 2) not in speed and {(0, 1), (1, 2)} <= set(speed):
            speed[0, 2] = speed[0, 1] + speed[1, 2]
            delay[0, 2] = delay[0, 1] + delay[1, 2]
        reachable = {0} | {there for here, there in speed if here == 0}
        return cls({rank: times for rank, times in block_s.items() if rank in reachable}, speed, delay)

    def transfer_s(self, source: int, target: int, nbytes: float) -> float:
        """Seconds for a tensor; infinite where there is no way."""
        if source == target:
            return 0.0
        if (source, target) not in self.s_per_byte:
            return np.inf
        return nbytes * self.s_per_byte[source, target] + self.delay_s[source, target]

    def moved(self, before: Prices) -> set[int] | None:
        """Blocks whose time left its band; None where a bandwidth did, or a tier came or went (all are concerned)."""
        if self.s_per_byte.keys() != before.s_per_byte.keys() or self.block_s.keys() != before.block_s.keys():
            return None
        if any(_left_band(now, before.s_per_byte[pair]) for pair, now in self.s_per_byte.items()):
            return None
        return {
            index
            for rank, times in self.block_s.items()
            for index, now in enumerate(times)
            if _left_band(now, before.block_s[rank][index])
        }


def _left_band(now: float, before: float) -> bool:
    return abs(now - before) > BAND * before


class Hpa:
    """Greedy three-way partition; see the module. Keeps the last assignment for the partial re-partition."""

    name = "hpa"

    def __init__(self) -> None:
        self._last: tuple[str, Prices, Tiers] | None = None

    def plan(self, problem: Problem, alternatives: int = 0) -> Decision:
        """See `Planner.plan`; bounds are only reported, for HPA knows none."""
        prices, fingerprint = Prices.of(problem), problem.graph.fingerprint
        partition = Partition(problem.graph, prices)
        if self._last is not None and self._last[0] == fingerprint:
            tiers = partition.adjust(self._last[2], prices.moved(self._last[1]))
        else:
            tiers = partition.full()
        self._last = fingerprint, prices, tiers
        plans = [plan_of(problem, each) for each in (tiers, *([rank] * len(tiers) for rank in prices.block_s))]
        return _least_latency(problem, [plan for plan in plans if _has_links(problem, plan)])


def _least_latency(problem: Problem, plans: list[Plan]) -> Decision:
    decisions = [decide(problem, Hpa.name, [plan]) for plan in plans]
    return min(decisions, key=lambda decision: decision.cost.latency_s)


def _has_links(problem: Problem, plan: Plan) -> bool:
    return problem.has(*itertools.pairwise(stage.tier for stage in plan.stages))


def plan_of(problem: Problem, tiers: Tiers) -> Plan:
    """The plan of an assignment (ranks that never fall along an edge of the graph)."""
    return build(problem, choice_of(problem, tiers))


def choice_of(problem: Problem, tiers: Tiers) -> Choice:
    """Cuts and raw codecs of an assignment."""
    graph, raw = problem.graph, problem.packing.codec(RAW)
    device = sum(1 << index for index, rank in enumerate(tiers) if rank == Tier.DEVICE.rank)
    near = sum(1 << index for index, rank in enumerate(tiers) if rank <= Tier.EDGE.rank)
    last = len(graph.cuts) - 1
    first, second = graph.cut_of(device).index, graph.cut_of(near).index
    if first == last:
        return last, ALONE, ALONE, ALONE
    if second == last:
        return first, raw, last, ALONE
    if first == second and problem.has(DEVICE_CLOUD):
        return first, raw, ALONE, ALONE
    return first, raw, second, raw


class Partition:
    """The greedy pass over one graph at given prices."""

    def __init__(self, graph: ModelGraph, prices: Prices) -> None:
        self._graph, self._prices = graph, prices
        self._siblings: dict[tuple[str, ...], list[int]] = {}
        for block in graph.blocks:
            self._siblings.setdefault(tuple(sorted(block.inputs)), []).append(block.index)

    def full(self) -> Tiers:
        """Decide every block."""
        tiers = [0] * len(self._graph.blocks)
        decided: set[int] = set()
        for index in self._by_distance():
            self._decide(index, tiers, decided)
            decided.add(index)
            self._update_siblings(index, tiers, decided)
        return tiers

    def adjust(self, tiers: Tiers, concerned: set[int] | None) -> Tiers:
        """Decide again only what is concerned, and what follows from it."""
        if concerned is None:
            return self.full()
        tiers, everything = list(tiers), set(range(len(tiers)))
        waiting = set(concerned)
        for index in self._by_distance():
            if index not in waiting:
                continue
            before = tiers[index]
            self._decide(index, tiers, everything)
            moved = set(self._update_siblings(index, tiers, everything))
            if tiers[index] != before:
                moved.add(index)
            for changed in moved | {index} & concerned:
                waiting |= set(self._successors(changed))
        return self._repaired(tiers)

    def _repaired(self, tiers: Tiers) -> Tiers:
        """No block upstream of a predecessor."""
        for block in self._graph.blocks:
            tiers[block.index] = max(tiers[block.index], self._floor(block.index, tiers))
            if tiers[block.index] not in self._prices.block_s:
                tiers[block.index] = max(self._prices.block_s)
        return tiers

    def _by_distance(self) -> list[int]:
        """Blocks by longest distance from the input (graph layers Z_1, Z_2, ...)."""
        distance: list[int] = []
        for block in self._graph.blocks:
            above = bits(self._graph.predecessors[block.index])
            distance.append(1 + max((distance[index] for index in above), default=0))
        return sorted(range(len(distance)), key=lambda index: (distance[index], index))

    def _floor(self, index: int, tiers: Tiers) -> int:
        return max((tiers[above] for above in bits(self._graph.predecessors[index])), default=0)

    def _decide(self, index: int, tiers: Tiers, decided: set[int]) -> None:
        floor = self._floor(index, tiers)
        possible = [rank for rank in self._prices.block_s if rank >= floor] or [max(self._prices.block_s)]
        tiers[index] = min(possible, key=lambda rank: (self._value(index, rank, tiers, decided), rank))

    def _value(self, index: int, rank: int, tiers: Tiers, decided: set[int]) -> float:
        block = self._graph.blocks[index]
        value = self._prices.block_s[rank][index]
        for name in block.inputs:
            if not self._is_there(name, rank, index, tiers, decided):
                value += self._prices.transfer_s(self._source(name, tiers), rank, self._nbytes(name))
        if self._output_bytes(index) > sum(self._nbytes(name) for name in block.inputs):
            value += self._ahead(index, rank)
        return value

    def _ahead(self, index: int, rank: int) -> float:
        """The least that the largest successor adds, from this tier on."""
        after = self._successors(index)
        if not after:
            return 0.0
        largest = max(after, key=lambda block: self._graph.blocks[block].flops)
        nbytes = self._output_bytes(index)
        return min(
            times[largest] + self._prices.transfer_s(rank, there, nbytes)
            for there, times in self._prices.block_s.items()
            if there >= rank
        )

    def _is_there(self, name: str, rank: int, index: int, tiers: Tiers, decided: set[int]) -> bool:
        """Whether another reader has brought the tensor to that tier."""
        others = (reader for reader in bits(self._graph.consumers[name]) if reader != index)
        return any(reader in decided and tiers[reader] == rank for reader in others)

    def _update_siblings(self, index: int, tiers: Tiers, decided: set[int]) -> list[int]:
        """The SIS update; returns the blocks that moved."""
        group = [block for block in self._siblings[tuple(sorted(self._graph.blocks[index].inputs))] if block in decided]
        moved: list[int] = []
        # Each round moves a block downstream or ends, so there are no more rounds than blocks times tiers.
        while True:
            for block in group:
                before = tiers[block]
                self._decide(block, tiers, decided)
                tiers[block] = max(tiers[block], before)
                if tiers[block] != before:
                    moved.append(block)
                    break
            else:
                return moved

    def _source(self, name: str, tiers: Tiers) -> int:
        return 0 if name == INPUT else tiers[self._graph.producer[name]]

    def _nbytes(self, name: str) -> int:
        return self._graph.tensors[name].nbytes

    def _output_bytes(self, index: int) -> int:
        return sum(self._nbytes(name) for name in self._graph.blocks[index].outputs)

    def _successors(self, index: int) -> list[int]:
        readers = 0
        for name in self._graph.blocks[index].outputs:
            readers |= self._graph.consumers[name]
        return list(bits(readers))
