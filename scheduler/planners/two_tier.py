"""Planners of two tiers: Neurosurgeon (ASPLOS'17) and DynO (arXiv 2104.09949).

**Neurosurgeon** [read in the abstract]: try every cut of a chain at the present bandwidth and load; least latency or
energy. Our reading: the cuts of one topological order (for a chain these are all); the time of a segment is the sum of
its layers' times, as its per-layer regressions give; tensors travel as they are.

**DynO** [recalled]: enumerate (split, bit-width), everything on the device and on the server included; drop what breaks
a hard constraint; rank by the soft objectives in order of priority; compute, packing and transfer overlap. Our reading:
it may use every convex cut and our measured segments, and any codec that quantises linearly; it looks one cut at a
time, has no third tier, and no picture codec.

Both may take the edge for their server where that is better, and Neurosurgeon's part there is tiled where there are
tile workers: both are better here than as published.
"""

from __future__ import annotations

import dataclasses
import re

import numpy as np

from pipeline.plan import Tier
from scheduler.objective import Goal
from scheduler.packing import RAW
from scheduler.planners.build import ALONE, build, decide
from scheduler.planners.joint import Joint
from scheduler.planners.prepared import Choice
from scheduler.planners.simple import two_tier_links
from scheduler.problem import DEVICE_CLOUD, Decision, Hop, Problem
from scheduler.tables import Floats, Ints, PackingTable

QUANTISED = re.compile(r"fp16|fp32|q[2-8]")
"""DynO's bit-widths, among the names of codecs."""


class Neurosurgeon:
    """Best cut of one order by summed layer times; see the module."""

    name = "neurosurgeon"

    def plan(self, problem: Problem, alternatives: int = 0) -> Decision:
        """See `Planner.plan`."""
        order, raw = prefixes(problem), problem.packing.codec(RAW)
        by_energy = problem.objective.priorities[0].goal is Goal.ENERGY and problem.power is not None
        plans = [build(problem, (len(problem.graph.cuts) - 1, ALONE, ALONE, ALONE))]
        for hop in two_tier_links(problem):
            value = _energy(problem, hop, order) if by_energy else _latency(problem, hop, order)
            best = int(np.argmin(value))
            if best < len(order) - 1:
                plans.append(build(problem, one_link(problem, hop, int(order[best]), raw)))
        return decide(problem, self.name, plans)


class Dyno:
    """Best (split, bit-width) by enumeration; see the module."""

    name = "dyno"

    def __init__(self) -> None:
        self._search = Joint()
        self._tables: dict[int, tuple[PackingTable, PackingTable]] = {}

    def plan(self, problem: Problem, alternatives: int = 0) -> Decision:
        """See `Planner.plan`."""
        links = {hop: problem.links[hop] for hop in two_tier_links(problem)}
        own = dataclasses.replace(problem, links=links, packing=self._quantised(problem.packing), tiles=None)
        found = self._search.plan(own)
        return dataclasses.replace(decide(problem, self.name, [found.plan]), considered=found.considered)

    def _quantised(self, packing: PackingTable) -> PackingTable:
        kept = self._tables.get(id(packing))
        if kept is None:
            others = [n for n, name in enumerate(packing.codecs) if not QUANTISED.fullmatch(name)]
            nbytes = packing.bytes.copy()
            nbytes[:, others] = np.inf
            # The given table is kept along, so that its identity stays its own.
            self._tables.clear()
            kept = self._tables[id(packing)] = packing, dataclasses.replace(packing, bytes=nbytes, pair_drop={})
        return kept[1]


def prefixes(problem: Problem) -> Ints:
    """Indices of the cuts along the topological order of the blocks, the whole network last."""
    graph = problem.graph
    return np.array([graph.cut_of((1 << count) - 1).index for count in range(len(graph.blocks) + 1)], dtype=np.intp)


def one_link(problem: Problem, hop: Hop, cut: int, codec: int) -> Choice:
    """A plan of the device and one server at the other end of `hop`."""
    return cut, codec, ALONE if hop == DEVICE_CLOUD else len(problem.graph.cuts) - 1, ALONE


def _latency(problem: Problem, hop: Hop, order: Ints) -> Floats:
    """Summed layer times and transfer of each prefix; the last one needs no link."""
    device = np.concatenate(([0.0], np.cumsum(problem.times_of(Tier.DEVICE).block_s))) * problem.load_of(Tier.DEVICE)
    server = np.concatenate(([0.0], np.cumsum(problem.times_of(hop[1]).block_s))) * problem.load_of(hop[1])
    return np.asarray(device + _transfer(problem, hop, order) + server[-1] - server)


def _energy(problem: Problem, hop: Hop, order: Ints) -> Floats:
    if problem.power is None:
        raise ValueError("energy needs power figures")
    device = np.concatenate(([0.0], np.cumsum(problem.times_of(Tier.DEVICE).block_s))) * problem.load_of(Tier.DEVICE)
    return np.asarray(problem.power.compute_w * device + problem.power.transmit_w * _sending(problem, hop, order))


def _transfer(problem: Problem, hop: Hop, order: Ints) -> Floats:
    """There and back; nothing for everything on the device."""
    seconds = _sending(problem, hop, order) + problem.links[hop].rtt_s / 2 + problem.way_home(hop[1]).seconds
    seconds[-1] = 0.0
    return seconds


def _sending(problem: Problem, hop: Hop, order: Ints) -> Floats:
    nbytes = problem.packing.bytes[order, problem.packing.codec(RAW)]
    seconds = nbytes * (8.0 / problem.links[hop].bps_at(problem.objective.quantile))
    seconds[-1] = 0.0
    return np.asarray(seconds)
