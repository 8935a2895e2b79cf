"""DADS (INFOCOM'19) [read in the abstract; construction recalled]: min-cut of a DAG over two tiers.

**Light load**: least Te + Tt + Tc, by a minimum cut. Source and sink are the two tiers; cutting an arc from a block to
the sink pays its time on the device, one from the source to it its time on the server; a tensor with several readers
gets an auxiliary vertex, so that it is paid once. Arcs against the stream are infinite, so that no block on the server
feeds one on the device.

**Heavy load**: least max(Te, Tt, Tc). The published algorithm is a 3-approximation; ours, which keeps that bound, is a
search over weightings: the min-cut of a*Te + b*Tt + c*Tc with equal weights is within 3 of the optimum (the sum of
three is at most three times their maximum, and the maximum at most the sum), and of the cuts for other weightings the
best is taken. Heavy load is planned where throughput is the first priority.

Times are summed layer times, tensors travel raw; the edge may be the server where that is better. SciPy's maximum flow
works on integers, so times are rounded to `TICK_S`; networkx is used by the benchmark for comparison only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order, maximum_flow

from pipeline.model.graph import INPUT, bits
from pipeline.plan import Plan, Tier
from scheduler.objective import Goal
from scheduler.packing import RAW
from scheduler.planners.build import ALONE, build, decide
from scheduler.planners.simple import two_tier_links
from scheduler.planners.two_tier import one_link
from scheduler.problem import Decision, Hop, Problem

TICK_S = 1e-6
"""Resolution of the flow's integers."""

INFINITE = 2**30
"""An arc that is never cut; 17 minutes in ticks."""

WEIGHTS = ((1, 1, 1), (4, 1, 1), (1, 4, 1), (1, 1, 4), (4, 4, 1), (4, 1, 4), (1, 4, 4))
"""Of device, transfer and server, tried under heavy load."""


class Dads:
    """Min-cut over two tiers; see the module."""

    name = "dads"

    def plan(self, problem: Problem, alternatives: int = 0) -> Decision:
        """See `Planner.plan`; bounds are only reported, for DADS knows none."""
        heavy = problem.objective.priorities[0].goal is Goal.THROUGHPUT
        plans: list[Plan] = [build(problem, (len(problem.graph.cuts) - 1, ALONE, ALONE, ALONE))]
        for hop in two_tier_links(problem):
            for weights in WEIGHTS if heavy else WEIGHTS[:1]:
                mask = min_cut(network(problem, hop, weights))
                cut = problem.graph.cut_of(mask).index
                if cut < len(problem.graph.cuts) - 1:
                    plans.append(build(problem, one_link(problem, hop, cut, problem.packing.codec(RAW))))
        decisions = [decide(problem, self.name, [plan]) for plan in plans]
        if heavy:
            return min(decisions, key=lambda decision: decision.cost.period_s)
        return min(decisions, key=lambda decision: decision.cost.latency_s)


@dataclass(frozen=True)
class FlowNetwork:
    """Arcs with capacities in seconds; vertices are blocks, then the source, the sink, and auxiliary ones."""

    blocks: int
    tails: list[int]
    heads: list[int]
    capacity_s: list[float]
    """Infinite where the arc is never cut."""

    @property
    def source(self) -> int:
        """The device."""
        return self.blocks

    @property
    def sink(self) -> int:
        """The server."""
        return self.blocks + 1

    def arc(self, tail: int, head: int, capacity_s: float) -> None:
        """Add an arc."""
        self.tails.append(tail)
        self.heads.append(head)
        self.capacity_s.append(capacity_s)


def network(problem: Problem, hop: Hop, weights: tuple[float, float, float] = (1, 1, 1)) -> FlowNetwork:
    """The flow network of a problem whose server is at the other end of `hop`."""
    graph = problem.graph
    device = problem.times_of(Tier.DEVICE).block_s * problem.load_of(Tier.DEVICE) * weights[0]
    server = problem.times_of(hop[1]).block_s * problem.load_of(hop[1]) * weights[2]
    s_per_byte = 8.0 / problem.links[hop].bps_at(problem.objective.quantile) * weights[1]
    found = FlowNetwork(len(graph.blocks), [], [], [])
    for block in graph.blocks:
        found.arc(block.index, found.sink, float(device[block.index]))
        found.arc(found.source, block.index, float(server[block.index]))
    auxiliary = found.sink + 1
    for name, readers in graph.consumers.items():
        tail = found.source if name == INPUT else graph.producer[name]
        transfer = graph.tensors[name].nbytes * s_per_byte
        hub = _add_tensor(found, tail, list(bits(readers)), transfer, auxiliary)
        auxiliary += hub
    return found


def _add_tensor(found: FlowNetwork, tail: int, readers: list[int], transfer_s: float, auxiliary: int) -> int:
    """Arcs of one tensor; returns the number of auxiliary vertices (0 or 1)."""
    for reader in readers:
        if tail != found.source:
            found.arc(reader, tail, np.inf)
    if len(readers) == 1:
        found.arc(tail, readers[0], transfer_s)
    if len(readers) < 2:
        return 0
    found.arc(tail, auxiliary, transfer_s)
    for reader in readers:
        found.arc(auxiliary, reader, np.inf)
    return 1


def min_cut(found: FlowNetwork) -> int:
    """The mask of the blocks on the source's side of a minimum cut, by SciPy's maximum flow (Dinic)."""
    size = 1 + max(*found.tails, *found.heads)
    ticks = np.minimum(np.asarray(found.capacity_s) / TICK_S, INFINITE).round().astype(np.int32)
    capacity = csr_array((ticks, (found.tails, found.heads)), shape=(size, size), dtype=np.int32)
    capacity.sum_duplicates()
    capacity.data = np.minimum(capacity.data, INFINITE)
    residual = capacity - maximum_flow(capacity, found.source, found.sink).flow
    residual.data = np.maximum(residual.data, 0)
    residual.eliminate_zeros()
    reached: NDArray[np.int32] = breadth_first_order(residual, found.source, return_predecessors=False)
    return sum(1 << int(vertex) for vertex in reached if vertex < found.blocks)
