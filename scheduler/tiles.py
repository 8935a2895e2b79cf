"""What tiling the edge stage saves, as a table over the cuts at which tiled runs may begin and end.

A run of blocks between two *waists* (cuts that every other cut lies before or behind: one tensor crosses, as a rule)
saves `gain_s[grid, i, j]` seconds when the workers compute it in that grid instead of the edge node alone, scatter,
halo and merge included. An edge stage from cut a to cut b may tile any runs inside it, so the best saving depends
only on the first waist behind a and the last one before b: two look-ups, whatever the number of cut pairs.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ConfigError
from pipeline.model.graph import Cut, ModelGraph
from pipeline.plan import TilePlan, TileStack, in_chains
from scheduler.tables import Floats, Ints


@dataclass(frozen=True)
class Grid:
    """How a map is divided among workers: shares of its height and width."""

    rows: tuple[float, ...] = (1.0,)
    columns: tuple[float, ...] = (1.0,)

    @property
    def tiles(self) -> int:
        """Number of tiles."""
        return len(self.rows) * len(self.columns)


@dataclass(frozen=True, eq=False)
class TileTable:
    """Savings of tiled runs on one edge node with its workers; compared by identity.

    Raises:
        ConfigError: shapes that do not fit, or waists out of order.
    """

    waists: Ints
    """Shape (n,): indices of cuts that are comparable with every cut, ascending (see `waists`)."""
    grids: tuple[Grid, ...]
    gain_s: Floats
    """Shape (grids, n, n): seconds saved by one fused stack, or one chain of them, from waist i to waist j; at most 0
    where not tileable."""
    workers: tuple[str, ...]
    """Node names; the edge node is the first."""
    codec: str = "fp32"
    stacks: Mapping[tuple[int, int], tuple[TileStack, ...]] = field(default_factory=dict)
    """The stack, or the chain of stacks, that is fitted to a run, by positions of waists; they win over the grids."""

    def __post_init__(self) -> None:
        count = len(self.waists)
        if self.gain_s.shape != (len(self.grids), count, count) or np.any(np.diff(self.waists) <= 0):
            raise ConfigError("tile table", f"gains of shape {self.gain_s.shape} for {count} waists")

    @functools.cached_property
    def stack_s(self) -> Floats:
        """Shape (n, n): the most that one fused stack or chain saves, 0 where it saves nothing."""
        best = np.triu(np.max(self.gain_s, axis=0, initial=0.0), 1)
        return np.where(np.isfinite(best), best, 0.0)

    @functools.cached_property
    def best_s(self) -> Floats:
        """Shape (n, n): the most that any row of stacks between two waists saves (longest path over the waists)."""
        forward = np.triu(np.ones(self.stack_s.shape, dtype=np.bool_))
        best = np.where(forward, self.stack_s, -np.inf)
        for middle in range(len(self.waists)):
            np.maximum(best, best[:, middle, None] + best[None, middle, :], out=best)
        return np.where(forward, best, 0.0)

    def behind(self, cut: Ints | int) -> Ints:
        """Position of the first waist at or behind each cut; n where there is none."""
        return np.searchsorted(self.waists, cut, "left")

    def ahead(self, cut: Ints | int) -> Ints:
        """Position of the last waist at or before each cut; -1 where there is none."""
        return np.searchsorted(self.waists, cut, "right") - 1

    @functools.cached_property
    def padded_s(self) -> Floats:
        """`best_s` with a last row and column of zeros, for positions n and -1."""
        return np.pad(self.best_s, ((0, 1), (0, 1)))

    def saved_s(self, start: Ints | int, end: Ints | int) -> Floats:
        """The most that tiling saves in segments, by indices of cuts (broadcast)."""
        return np.asarray(self.padded_s[self.behind(start), self.ahead(end)])

    def choose(self, graph: ModelGraph, start: int, end: int) -> TilePlan | None:
        """The stacks that save the most between two cuts; None where none saves anything."""
        first, last = int(self.behind(start)), int(self.ahead(end))
        if first >= last or self.best_s[first, last] <= 0:
            return None
        stacks = self._stacks(graph, first, last)
        while len(stacks[-1].rows) * len(stacks[-1].columns) == 1:
            stacks.pop()
        if self.waists[first] != start and stacks[0].rows + stacks[0].columns != (1.0, 1.0):
            stacks = [TileStack(graph.cuts[self.waists[first]].name), *stacks]
        return TilePlan(tuple(stacks), self.workers, self.codec)

    def saved_by(self, graph: ModelGraph, tiles: TilePlan, start: Cut) -> float:
        """Seconds that a given tile plan saves (or, where negative, costs) from cut `start` on.

        A grid that the table does not have counts as the one with as many tiles, or else as no tiling; a chain as the
        best run of blocks that begins and ends with it.
        """
        saved = 0.0
        for chain in in_chains(tiles.stacks, lambda _, stack: stack.chained):
            end = graph.cut(chain[-1].until)
            first, last = int(self.behind(start.index)), int(self.ahead(end.index))
            number = self._grid(chain[0])
            if number is not None and first < last:
                saved += float(self.gain_s[number, first, last])
            start = end
        return saved

    def _grid(self, stack: TileStack) -> int | None:
        tiles = len(stack.rows) * len(stack.columns)
        if tiles == 1:
            return None
        exact = Grid(stack.rows, stack.columns)
        if exact in self.grids:
            return self.grids.index(exact)
        if self.stacks:
            return 0
        return next((number for number, grid in enumerate(self.grids) if grid.tiles == tiles), None)

    def _stacks(self, graph: ModelGraph, first: int, last: int) -> list[TileStack]:
        name = graph.cuts[self.waists[last]].name
        saved = self.best_s[first, last]
        if saved <= 0:
            return [TileStack(name)]
        if self.stack_s[first, last] >= saved:
            if (first, last) in self.stacks:
                return list(self.stacks[first, last])
            grid = self.grids[int(np.argmax(self.gain_s[:, first, last]))]
            return [TileStack(name, grid.rows, grid.columns)]
        through = self.best_s[first, first + 1 : last] + self.best_s[first + 1 : last, last]
        middle = first + 1 + int(np.argmax(through))
        return self._stacks(graph, first, middle) + self._stacks(graph, middle, last)


def waists(words: NDArray[np.uint64]) -> Ints:
    """Indices of the cuts that every other cut lies before or behind.

    Args:
        words: shape (cuts, words), masks of all cuts (`mask_words`), ordered by size, so that a cut is a waist where
            the union of all masks up to it, and the intersection of all from it on, are the cut itself.
    """
    below = np.bitwise_or.accumulate(words, axis=0)
    above = np.bitwise_and.accumulate(words[::-1], axis=0)[::-1]
    return np.flatnonzero(np.all((below == words) & (above == words), axis=1))


def mask_words(graph: ModelGraph) -> NDArray[np.uint64]:
    """The masks of all cuts of a network, shape (cuts, ceil(blocks / 64)), least significant word first."""
    width = 8 * max(1, -(-len(graph.blocks) // 64))
    packed = b"".join([cut.mask.to_bytes(width, "little") for cut in graph.cuts])
    return np.frombuffer(packed, dtype="<u8").reshape(len(graph.cuts), -1)
