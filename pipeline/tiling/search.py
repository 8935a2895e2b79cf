"""The fastest way to compute a span with several workers: what to fuse, what to chain, what to leave untiled.

Between two waists a run of blocks is untiled, one fused stack with a merge behind it, or a *chain* of stacks
(`resident`). The strips in which a chain's maps stay at a waist depend on the waist alone, so that they follow each
other and a link's seconds do not depend on the links before it: the shortest path over the waists is exact again.
"""

from __future__ import annotations

import itertools

import numpy as np

from pipeline.model.capture import CapturedModel
from pipeline.model.graph import Cut
from pipeline.plan import TileStack
from pipeline.tiling.crew import ChainTime, Crew, stack_time
from pipeline.tiling.fuse import Parts, Piece, SpanCosts, StackChoice, joined, map_bytes
from pipeline.tiling.halo import StackCosts
from pipeline.tiling.regions import Interval, shares_of
from pipeline.tiling.shares import resident_strips

WINDOW = 0.1
"""Strips at a waist are fitted to the blocks before it that make up so much of the span's time: single ones, which may
take next to no time, would have boundaries wander."""

SHALLOW = 3
"""Stacks of no more steps are looked at in any case."""

NEARLY = 0.95
"""Of the rows of a map: who needs so many needs all."""


class ResidentStrips:
    """The strips in which maps stay with workers, by where they are in a span."""

    def __init__(self, captured: CapturedModel, start: Cut, end: Cut, crew: Crew) -> None:
        self.crew = crew
        self._blocks = captured.graph.between(start, end)
        self._least_s = WINDOW * sum(crew.block_s[block.name] for block in self._blocks)

    def at(self, end: Cut, height: int, count: int) -> Parts:
        """Of maps of that height behind `end`, for the first `count` workers.

        Raises:
            PlanError: there are more workers than rows.
        """
        total_s = fixed_s = 0.0
        for block in reversed(self._blocks):
            if end.mask >> block.index & 1 and total_s <= self._least_s:
                total_s += self.crew.block_s[block.name]
                fixed_s += min(self.crew.fixed_s.get(block.name, 0.0), self.crew.block_s[block.name])
        return resident_strips(height, (total_s - fixed_s, fixed_s), self.crew, count)


class Chains:
    """What chains of one number of workers take, from waist to waist of a span."""

    def __init__(self, costs: SpanCosts, resident: ResidentStrips, workers: int) -> None:
        count = len(costs.cuts)
        self._costs, self._resident, self._workers = costs, resident, workers
        self.strips: list[Parts] = [()] * count
        """In which maps stay at each waist; none where there are fewer rows than workers, or no stack ends."""
        self.first_s = np.full((count, count), np.inf)
        """The stack from waist i to waist j as the first link of a chain; infinite where it is none."""
        self.next_s = np.full((count, count), np.inf)
        """As a link behind others."""
        self.last_s = np.full(count, np.inf)
        """Merging the maps at a waist."""
        self._split_s = [np.inf] * count
        """Edges first at a waist: of the shallowest stack that ends there, which whichever link it is ends with."""
        self.best_s, self.back = self.first_s, np.full((count, count), -1, dtype=np.int64)

    def add(self, first: int, last: int, costs: StackCosts) -> None:
        """Price one stack; none where there are fewer rows than workers."""
        height = costs.size[0]
        if height < self._workers:
            return
        end, crew = self._costs.cuts[last], self._costs.crew
        if not self.strips[last]:
            self.strips[last] = self._resident.at(end, height, self._workers)
            self.last_s[last] = ChainTime(crew, costs).last_s(self.strips[last], map_bytes(self._costs.captured, end))
            self._split_s[last] = ChainTime(crew, costs).split_s(self.strips[last])
        time, rows = ChainTime(crew, costs), self.strips[last]
        self.first_s[first, last] = time.first_s(rows)
        if held := self.strips[first]:
            self.next_s[first, last] = time.exchange(held, rows, self._split_s[first]).next_s

    def solve(self) -> None:
        """Find the shortest chain of at least two links between any two waists, and where its last link begins."""
        best = self.first_s.copy()
        for last in range(1, len(best)):
            through = best[:, :last] + self.next_s[None, :last, last]
            chosen = np.argmin(through, axis=1)
            shorter = through[np.arange(len(best)), chosen]
            longer = shorter < best[:, last]
            best[longer, last], self.back[longer, last] = shorter[longer], chosen[longer]
        self.best_s = np.where(self.back < 0, np.inf, best + self.last_s)

    def pieces(self, first: int, last: int) -> tuple[Piece, ...]:
        """The links of the shortest chain."""
        stops = [last]
        while stops[0] != first:
            before = int(self.back[first, stops[0]])
            stops.insert(0, first if before < 0 else before)
        return tuple(self._piece(i, j, i == first, j == last) for i, j in itertools.pairwise(stops))

    def _piece(self, first: int, last: int, begins: bool, ends: bool) -> Piece:
        costs, start, end = self._costs.costs(first, last), self._costs.cuts[first], self._costs.cuts[last]
        assert costs is not None
        rows, (height, width) = self.strips[last], costs.size
        seconds = (self.first_s if begins else self.next_s)[first, last] + (self.last_s[last] if ends else 0.0)
        stack = TileStack(end.name, shares_of(rows, height), chained=not begins)
        return Piece(start, end, stack, float(seconds), costs.halo(rows, [Interval(0, width)]))


class Runs:
    """The fastest tiled run of blocks between any two waists of a span: one fused stack, or one chain."""

    def __init__(self, costs: SpanCosts) -> None:
        self.costs, count = costs, len(costs.cuts)
        resident = ResidentStrips(costs.captured, costs.cuts[0], costs.cuts[-1], costs.crew)
        self.chains = [Chains(costs, resident, workers) for workers in range(2, len(costs.crew.speeds) + 1)]
        """Of two workers, of three, and so on."""
        self._stack_s = np.full((count, count), np.inf)
        for last in range(1, count):
            self._look_back(last)
        for chain in self.chains:
            chain.solve()
        self.seconds = np.min([self._stack_s, *(chain.best_s for chain in self.chains)], axis=0)
        """Shape (n, n): of the fastest run from waist i to waist j; infinite where there is none."""
        steps = range(count)
        self.untiled_s = np.array([[costs.untiled_s(first, last) for last in steps] for first in steps])
        """The same untiled on the edge node."""

    def pieces(self, first: int, last: int) -> tuple[Piece, ...]:
        """The pieces of the fastest run; one fused stack has its strips fitted to what crosses, too."""
        alone = self.costs.tiled(first, last) if self._stack_s[first, last] <= self.seconds[first, last] else None
        if alone is not None:
            return (alone,)
        return min(self.chains, key=lambda chain: float(chain.best_s[first, last])).pieces(first, last)

    def _look_back(self, last: int) -> None:
        """All stacks that end at a waist, the shallowest first, until none that begins earlier can gain anything."""
        for first in range(last - 1, -1, -1):
            costs = self.costs.costs(first, last)
            if costs is None:
                continue
            for chain in self.chains:
                chain.add(first, last, costs)
            grids = [chain.strips[last] for chain in self.chains if chain.strips[last]]
            self._stack_s[first, last] = self._alone_s(first, last, costs, grids)
            if last - first > SHALLOW and all(_needs_nearly_all(costs, rows) for rows in grids):
                break

    def _alone_s(self, first: int, last: int, costs: StackCosts, grids: list[Parts]) -> float:
        """One fused stack, in strips that are not fitted to what crosses."""
        across = (Interval(0, costs.size[1]),)
        found = [stack_time(costs, self.costs.crew, rows, across).total_s for rows in grids]
        equal = self.costs.tiled(first, last, fitted=False)
        return min([*found, equal.seconds if equal else np.inf])


def _needs_nearly_all(costs: StackCosts, rows: Parts) -> bool:
    """Whether the tallest strip of a stack needs its input nearly whole: the halo grows with the depth, and what is
    before such a stack would be computed as if untiled."""
    needed = costs.bytes_in.of(rows, [Interval(0, costs.size[1])]).max()
    whole = costs.bytes_in.of([Interval(0, costs.size[0])], [Interval(0, costs.size[1])]).max()
    return bool(needed >= NEARLY * whole)


def choose_stacks(captured: CapturedModel, start: Cut, end: Cut, crew: Crew) -> StackChoice:
    """The fastest way to compute the blocks between two cuts, by shortest path over the waists.

    Raises:
        PlanError: `start` is not before `end`.
    """
    costs = SpanCosts(captured, start, end, crew)
    runs = Runs(costs)
    best: list[StackChoice] = [StackChoice(())]
    for last in range(1, len(costs.cuts)):
        before = np.array([choice.seconds for choice in best])
        first = int(np.argmin(before + runs.seconds[:last, last]))
        found = [joined(best[last - 1], costs.untiled(last - 1, last))]
        if np.isfinite(runs.seconds[first, last]):
            found.append(StackChoice((*best[first].pieces, *runs.pieces(first, last))))
        best.append(min(found, key=lambda choice: choice.seconds))
    return best[-1]
