"""What the halo costs: the exact work of any tile of any fused stack that ends at a given cut.

Rows and columns of a tile reach back independently of each other, and the first position that is needed depends on
the first one wanted only, the last on the last only. So one backward pass with arrays over all rows, and one over
all columns, gives the work of every tile of every grid (and for every cut at which the stack may begin): the sum
over the operators of their work for each position times needed rows times needed columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import fx

from pipeline.model.capture import CapturedModel
from pipeline.model.graph import Cut
from pipeline.model.operators import spec_of
from pipeline.tiling.analysis import TileAnalysis, require_stack
from pipeline.tiling.operators import Read
from pipeline.tiling.regions import AxisMap, Fixed, Interval, Lookup, Window, boundaries

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Span:
    """For each position of the stack's output axis, the first and last position needed of another axis.

    Of several maps where the arrays have a first dimension for them.
    """

    first: Ints
    last: Ints

    def union(self, other: Span | None) -> Span:
        """What either needs."""
        if other is None:
            return self
        return Span(np.minimum(self.first, other.first), np.maximum(self.last, other.last))

    def through(self, map_: AxisMap) -> Span:
        """What an operator's input axis must hold. A mirrored axis counts as if it were not: its sizes are the same."""
        if isinstance(map_, Window):
            low, top = map_.before, map_.size - 1
            return Span(
                np.minimum(np.maximum(self.first * map_.stride - low, 0), top),
                np.minimum(np.maximum(self.last * map_.stride - low + map_.extent - 1, 0), top),
            )
        if isinstance(map_, Fixed):
            return Span(np.zeros_like(self.first), np.full_like(self.last, map_.size - 1))
        if isinstance(map_, Lookup):
            return Span(np.asarray(map_.first)[self.first], np.asarray(map_.last)[self.last])
        return self

    def sizes(self, parts: Sequence[Interval]) -> Ints:
        """Positions needed for each part of the output axis, shape (..., parts)."""
        starts, stops = ([part.start for part in parts], [part.stop - 1 for part in parts])
        found: Ints = self.last[..., stops] - self.first[..., starts] + 1
        return found


@dataclass(frozen=True, eq=False)
class Terms:
    """A sum over maps of weight x needed rows x needed columns, such as operations or bytes."""

    weight: Floats
    """Shape (maps,)."""
    rows: Span
    """Arrays of shape (maps, height of the stack's output)."""
    columns: Span
    """Arrays of shape (maps, width of the stack's output)."""

    def of(self, rows: Sequence[Interval], columns: Sequence[Interval]) -> Floats:
        """The sum for each tile of a grid, shape (rows, columns)."""
        total: Floats = (self.rows.sizes(rows) * self.weight[:, None]).T @ self.columns.sizes(columns)
        return total

    def strips(self, width: int) -> tuple[list[float], list[float]]:
        """Lists `first`, `last` such that rows [a, b) at full width cost last[b-1] - first[a]."""
        scale = self.weight * self.columns.sizes([Interval(0, width)])[:, 0]
        return (scale @ self.rows.first).tolist(), (scale @ (self.rows.last + 1)).tolist()


@dataclass(frozen=True, eq=False)
class StackCosts:
    """What any tile of one stack costs."""

    seconds: Terms
    """On a node of speed 1; what grows with the tile."""
    fixed_s: float
    """On a node of speed 1; what every tile takes, however small it is."""
    flops: Terms
    bytes_in: Terms
    bytes_out: Terms
    size: tuple[int, int]
    """Height and width of the maps at the end."""
    heights: Ints
    """Of the maps of `bytes_in`; 1 where a tensor has no rows."""
    blocks: int
    weight_bytes: int

    def halo(self, rows: Sequence[Interval], columns: Sequence[Interval]) -> float:
        """Work that the tiles of a grid do beyond the untiled stack's, as a share of that: 0.25 is a quarter more."""
        height, width = (Interval(0, size) for size in self.size)
        untiled = float(self.flops.of([height], [width]).sum())
        return float(self.flops.of(rows, columns).sum()) / untiled - 1 if untiled else 0.0


class StackReach:
    """Everything that tiles of stacks ending at `end` can cost.

    Args:
        analysis: of the model.
        end: where the stacks end.
        earliest: where the earliest of them begins; from there to `end` must be a valid stack.
    """

    def __init__(self, analysis: TileAnalysis, end: Cut, earliest: Cut) -> None:
        self.analysis, self.end = analysis, end
        self.blocks = analysis.captured.graph.between(earliest, end)
        members = analysis.nodes(self.blocks)
        layout = analysis.layout(analysis.makes(earliest, end)[0])
        self.height, self.width = (layout.height, layout.width) if layout else (1, 1)
        self._down, self._across = _identity(self.height), _identity(self.width)
        spans = {analysis.node(name): (self._down, self._across) for name in end.tensors}
        for node in reversed(members):
            if node in spans:
                for read in self._reads(node):
                    spans[read.node] = _reach(spans[node], read, spans.get(read.node))
        self._spans = spans
        self._block_of = {node: block for block in self.blocks for node in analysis.members[block.name]}
        self._nodes = [node for node in members if node in spans and analysis.operators[node].layout is not None]
        self._all = _terms([(*spans[node], 1.0) for node in self._nodes], self._down, self._across)
        self._index = np.array([self._block_of[node].index for node in self._nodes], dtype=np.int64)
        self._flops = np.array([analysis.operators[node].work for node in self._nodes], dtype=np.float64)
        self._timed: tuple[Mapping[str, float], Mapping[str, float], Floats] | None = None

    def _reads(self, node: fx.Node) -> Iterable[Read]:
        return (read for read in self.analysis.operators[node].reads if read.node.op != "get_attr")

    def work(self, start: Cut) -> Terms:
        """The operations of a tile of the stack from `start`."""
        return self._behind(start, self._flops)

    def _behind(self, start: Cut, weight: Floats) -> Terms:
        blocks = range(int(self._index.max(initial=-1)) + 1)
        crossed = np.array([start.mask >> block & 1 for block in blocks], dtype=bool)
        return Terms(np.where(crossed[self._index], 0.0, weight), self._all.rows, self._all.columns)

    def _seconds(self, block_s: Mapping[str, float], fixed_s: Mapping[str, float]) -> Floats:
        """What each operator takes for each position of its result, beyond what is fixed; kept for the next start."""
        if self._timed is None or self._timed[0] is not block_s or self._timed[1] is not fixed_s:
            rates = [self._rate(node, block_s, fixed_s) for node in self._nodes]
            self._timed = (block_s, fixed_s, np.array(rates, dtype=np.float64))
        return self._timed[2]

    def _rate(self, node: fx.Node, block_s: Mapping[str, float], fixed_s: Mapping[str, float]) -> float:
        operator, block = self.analysis.operators[node], self._block_of[node]
        seconds = max(0.0, block_s[block.name] - fixed_s.get(block.name, 0.0))
        if block.flops:
            return operator.work * seconds / block.flops
        area = operator.layout.region.area if operator.layout else 1
        return seconds / len(self.analysis.members[block.name]) / area

    def costs(self, start: Cut, block_s: Mapping[str, float], fixed_s: Mapping[str, float]) -> StackCosts:
        """What any tile of the stack from `start` costs.

        Args:
            start: where the stack begins.
            block_s: seconds of each block, untiled.
            fixed_s: the part of these seconds that does not shrink with the tile (starting, reading weights).
        """
        blocks = [block for block in self.blocks if not start.mask >> block.index & 1]
        bytes_in, heights = self._read_at(start)
        return StackCosts(
            self._behind(start, self._seconds(block_s, fixed_s)),
            sum(min(fixed_s.get(block.name, 0.0), block_s[block.name]) for block in blocks),
            self.work(start),
            bytes_in,
            self.bytes_out(start),
            (self.height, self.width),
            heights,
            len(blocks),
            sum(block.weight_bytes for block in blocks),
        )

    def bytes_in(self, start: Cut) -> Terms:
        """Bytes that a tile needs of what crosses `start`."""
        return self._read_at(start)[0]

    def _read_at(self, start: Cut) -> tuple[Terms, Ints]:
        """The same, and the heights of the maps."""
        found, heights = [], []
        for name in start.tensors:
            source = self.analysis.node(name)
            span: tuple[Span, Span] | None = None
            for reader in source.users:
                block = self._block_of.get(reader)
                if block is None or start.mask >> block.index & 1 or reader not in self._spans:
                    continue
                for read in self._reads(reader):
                    if read.node is source:
                        span = _reach(self._spans[reader], read, span)
            if span is not None:
                layout = self.analysis.layout(name)
                found.append((*span, self._bytes(name)))
                heights.append(layout.height if layout else 1)
        return _terms(found, self._down, self._across), np.array(heights, dtype=np.int64)

    def bytes_out(self, start: Cut) -> Terms:
        """Bytes that a tile gives."""
        names = self.analysis.makes(start, self.end)
        return _terms([(self._down, self._across, self._bytes(name)) for name in names], self._down, self._across)

    def _bytes(self, name: str) -> float:
        layout = self.analysis.layout(name)
        return spec_of(self.analysis.node(name)).nbytes / (layout.region.area if layout else 1)


def _identity(size: int) -> Span:
    return Span(np.arange(size), np.arange(size))


def _reach(out: tuple[Span, Span], read: Read, known: tuple[Span, Span] | None) -> tuple[Span, Span]:
    """What a read needs, joined to what is known to be needed."""
    rows, columns = out[0].through(read.rows), out[1].through(read.columns)
    return (rows, columns) if known is None else (rows.union(known[0]), columns.union(known[1]))


def _terms(found: Sequence[tuple[Span, Span, float]], down: Span, across: Span) -> Terms:
    """Stack spans of single maps; `down` and `across` give the lengths where there is none."""
    return Terms(
        np.array([weight for _, _, weight in found], dtype=np.float64),
        _stacked([rows for rows, _, _ in found], down),
        _stacked([columns for _, columns, _ in found], across),
    )


def _stacked(spans: Sequence[Span], like: Span) -> Span:
    size = len(like.first)
    first = np.array([span.first for span in spans], dtype=np.int64).reshape(-1, size)
    return Span(first, np.array([span.last for span in spans], dtype=np.int64).reshape(-1, size))


def tile_flops(
    captured: CapturedModel, start: Cut, end: Cut, rows: Sequence[float], columns: Sequence[float]
) -> Floats:
    """FLOPs of each tile of a grid, halo included, shape (rows, columns).

    Raises:
        PlanError: the blocks between the cuts are no stack, or the shares do not fit.
    """
    reach = StackReach(require_stack(captured, start, end), end, start)
    return reach.work(start).of(boundaries(rows, reach.height), boundaries(columns, reach.width))


def halo_overhead(
    captured: CapturedModel, start: Cut, end: Cut, rows: Sequence[float], columns: Sequence[float]
) -> float:
    """Work that the tiles of a grid do beyond the untiled stack's, as a share of that: 0.25 is a quarter more.

    Raises:
        PlanError: the blocks between the cuts are no stack, or the shares do not fit.
    """
    untiled = float(tile_flops(captured, start, end, (1.0,), (1.0,)).sum())
    return float(tile_flops(captured, start, end, rows, columns).sum()) / untiled - 1 if untiled else 0.0
