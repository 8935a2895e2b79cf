"""Which fused stacks to cut a span into: the deeper a stack, the fewer meetings, and the more halo is computed twice.

The best row of stacks is the shortest path over the span's *waists* (cuts that are comparable with every other):
from one to the next either untiled on the edge node, or as one fused stack in one of the grids with a merge behind it,
or as a link of a chain, whose strips stay with the workers (`search` has the path). The choices of others are paths in
the same graph, computed with the same costs: `fuse_everything` (DeepThings: as deep as it goes), `merge_every_layer`
(MoDNN: a merge behind each block), `equal_strips` (D3: tiles of equal size, and merges).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from pipeline.errors import PlanError
from pipeline.model.capture import CapturedModel
from pipeline.model.graph import Cut
from pipeline.plan import TileStack
from pipeline.tiling.analysis import analysis_of
from pipeline.tiling.crew import Crew, stack_time
from pipeline.tiling.halo import StackCosts, StackReach
from pipeline.tiling.regions import Interval, boundaries, equal_shares, shares_of
from pipeline.tiling.shares import strips_for

EVEN = 0.05
"""Speeds that differ by less than this share count as equal: only then is a 2-D grid of equal tiles a candidate."""

Parts = tuple[Interval, ...]
"""Cuts of one axis."""


@dataclass(frozen=True)
class Piece:
    """A run of blocks between two waists, untiled (one tile, on the edge node) or one fused stack."""

    start: Cut
    end: Cut
    stack: TileStack
    seconds: float
    halo: float = 0.0
    """Work computed twice, as a share of the untiled work."""

    @property
    def tiles(self) -> int:
        """Number of tiles; 1 where untiled."""
        return len(self.stack.rows) * len(self.stack.columns)


@dataclass(frozen=True)
class StackChoice:
    """A way to compute a span, and the time that it is expected to take."""

    pieces: tuple[Piece, ...]

    @property
    def seconds(self) -> float:
        """From the span's inputs to its outputs, on the edge node."""
        return sum(piece.seconds for piece in self.pieces)

    @property
    def stacks(self) -> tuple[TileStack, ...]:
        """For a `TilePlan`; untiled runs in between are stacks of one tile, one at the end is left out."""
        tiled = [index for index, piece in enumerate(self.pieces) if piece.tiles > 1]
        return tuple(piece.stack for piece in self.pieces[: tiled[-1] + 1]) if tiled else ()


class SpanCosts:
    """The costs of all pieces of a span for one crew, computed when they are asked for."""

    def __init__(self, captured: CapturedModel, start: Cut, end: Cut, crew: Crew) -> None:
        self.captured, self.crew = captured, crew
        self.analysis = analysis_of(captured)
        self.cuts = waists_between(captured, start, end)
        steps_s = (self._alone_s(first, last) for first, last in itertools.pairwise(self.cuts))
        self._until_s = [0.0, *itertools.accumulate(steps_s)]
        self._reach: dict[int, StackReach] = {}
        self._pieces: dict[tuple[int, int, bool], Piece | None] = {}
        self._costs: dict[tuple[int, int], StackCosts | None] = {}

    def untiled_s(self, first: int, last: int) -> float:
        """Seconds from waist `first` to waist `last` on the edge node alone."""
        return self._until_s[last] - self._until_s[first]

    def untiled(self, first: int, last: int) -> Piece:
        """The same as a piece."""
        start, end = self.cuts[first], self.cuts[last]
        return Piece(start, end, TileStack(end.name), self.untiled_s(first, last))

    def tiled(self, first: int, last: int, fitted: bool = True) -> Piece | None:
        """The fastest grid for one fused stack; None where the blocks are no stack.

        Args:
            first: waist where it begins.
            last: waist where it ends.
            fitted: strips fitted to the workers, and 2-D grids; otherwise equal strips for all workers only.
        """
        key = (first, last, fitted)
        if key not in self._pieces:
            self._pieces[key] = self._best_grid(first, last, fitted)
        return self._pieces[key]

    def _alone_s(self, start: Cut, end: Cut) -> float:
        return self.crew.untiled_s([block.name for block in self.captured.graph.between(start, end)])

    def costs(self, first: int, last: int) -> StackCosts | None:
        """What tiles from waist `first` to waist `last` cost; None where the blocks are no stack."""
        key = (first, last)
        if key not in self._costs:
            start, end = self.cuts[first], self.cuts[last]
            is_stack = self.analysis.why_no_stack(start, end) is None
            self._costs[key] = (
                self._reach_of(last).costs(start, self.crew.block_s, self.crew.fixed_s) if is_stack else None
            )
        return self._costs[key]

    def _best_grid(self, first: int, last: int, fitted: bool) -> Piece | None:
        start, end, costs = self.cuts[first], self.cuts[last], self.costs(first, last)
        if costs is None:
            return None
        timed = [(stack_time(costs, self.crew, *grid).total_s, grid) for grid in self._grids(costs, fitted)]
        if not timed:
            return None
        seconds, (rows, columns) = min(timed, key=lambda each: each[0])
        stack = TileStack(end.name, shares_of(rows, costs.size[0]), shares_of(columns, costs.size[1]))
        return Piece(start, end, stack, seconds, costs.halo(rows, columns))

    def _reach_of(self, last: int) -> StackReach:
        if last not in self._reach:
            end = self.cuts[last]
            earliest = next(cut for cut in self.cuts if self.analysis.why_no_stack(cut, end) is None)
            self._reach[last] = StackReach(self.analysis, end, earliest)
        return self._reach[last]

    def _grids(self, costs: StackCosts, fitted: bool) -> list[tuple[Parts, Parts]]:
        """Candidates: equal strips for all workers; fitted strips for some or all; 2-D grids of equal tiles."""
        (height, width), speeds = costs.size, self.crew.speeds
        count, all_columns = len(speeds), (Interval(0, width),)
        grids: list[tuple[Parts, Parts]] = []
        if count <= height:
            grids.append((boundaries(equal_shares(count), height), all_columns))
        if fitted:
            most = min(count, height)
            grids.extend((strips_for(costs, self.crew, workers), all_columns) for workers in range(2, most + 1))
        if fitted and max(speeds) <= min(speeds) * (1 + EVEN):
            grids.extend(
                (boundaries(equal_shares(rows), height), boundaries(equal_shares(count // rows), width))
                for rows in range(1, count)
                if count % rows == 0 and rows <= height and count // rows <= width
            )
        return grids


def map_bytes(captured: CapturedModel, cut: Cut) -> int:
    """Of all maps that cross a cut."""
    analysis = analysis_of(captured)
    return sum(captured.graph.tensors[name].nbytes for name in cut.tensors if analysis.layout(name) is not None)


def waists_between(captured: CapturedModel, start: Cut, end: Cut) -> tuple[Cut, ...]:
    """The cuts from `start` to `end` that every other cut between these two lies before or behind.

    Raises:
        PlanError: `start` is not before `end`.
    """
    if not start.before(end):
        raise PlanError(f"span {start.name}..{end.name}", "the first cut is not before the second")
    cuts = [cut for cut in captured.graph.cuts if start.before(cut) and cut.before(end)]
    below: list[int] = []
    above: list[int] = []
    for cut in cuts:
        below.append(cut.mask | (below[-1] if below else 0))
    for cut in reversed(cuts):
        above.append(cut.mask & (above[-1] if above else cut.mask))
    return tuple(cut for cut, low, high in zip(cuts, below, reversed(above), strict=True) if low == cut.mask == high)


def equal_strips(captured: CapturedModel, start: Cut, end: Cut, crew: Crew) -> StackChoice:
    """The shortest path with one strip of equal height for each worker, and merges (D3).

    The halo of a stack grows with its depth. So once a stack computes more than untiled is done in, those that end
    there and begin even earlier need not be looked at.

    Raises:
        PlanError: `start` is not before `end`.
    """
    costs = SpanCosts(captured, start, end, crew)
    best: list[StackChoice] = [StackChoice(())]
    for last in range(1, len(costs.cuts)):
        found = [joined(best[last - 1], costs.untiled(last - 1, last))]
        for first in range(last - 1, -1, -1):
            piece = costs.tiled(first, last, False)
            if piece is not None:
                found.append(joined(best[first], piece))
                if piece.seconds > 2 * costs.untiled_s(first, last) and last - first > 3:
                    break
        best.append(min(found, key=lambda choice: choice.seconds))
    return best[-1]


def joined(before: StackChoice, piece: Piece) -> StackChoice:
    """A path with one more piece; untiled runs that follow each other become one."""
    if before.pieces and piece.tiles == 1 == before.pieces[-1].tiles:
        last = before.pieces[-1]
        merged = Piece(last.start, piece.end, piece.stack, last.seconds + piece.seconds)
        return StackChoice((*before.pieces[:-1], merged))
    return StackChoice((*before.pieces, piece))


def fuse_everything(captured: CapturedModel, start: Cut, end: Cut, crew: Crew) -> StackChoice:
    """Stacks as deep as they go, one strip or tile for each worker (DeepThings)."""
    costs = SpanCosts(captured, start, end, crew)
    return _greedy(costs, deepest=True)


def merge_every_layer(captured: CapturedModel, start: Cut, end: Cut, crew: Crew) -> StackChoice:
    """A stack for each step from waist to waist, with a merge behind it (MoDNN)."""
    return _greedy(SpanCosts(captured, start, end, crew), deepest=False)


def _greedy(costs: SpanCosts, deepest: bool) -> StackChoice:
    choice, first = StackChoice(()), 0
    while first < len(costs.cuts) - 1:
        candidates = range(len(costs.cuts) - 1, first, -1) if deepest else [first + 1]
        tiled = (piece for last in candidates if (piece := costs.tiled(first, last, False)) is not None)
        piece = next(tiled, None) or costs.untiled(first, first + 1)
        choice = joined(choice, piece)
        first = costs.cuts.index(piece.end)
    return choice
