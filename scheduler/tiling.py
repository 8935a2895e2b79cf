"""Tile tables from the tiling's own costs: what the planner expects is what the edge node will choose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pipeline.model.capture import CapturedModel
from pipeline.model.graph import ModelGraph
from pipeline.tiling.crew import Crew
from pipeline.tiling.fuse import SpanCosts
from scheduler.estimate import stepped
from scheduler.tables import SegmentTimes
from scheduler.tiles import Grid, TileTable

SPEED_STEP, LINK_STEP = 0.1, 0.25
"""Logarithms of speeds and of links' figures are rounded to these: for nearly the same crew there is one table."""

LEAST_RTT_S = 4e-4
"""Two small messages between idle processes."""

Tiler = Callable[[Crew, tuple[str, ...]], TileTable]
"""`tile_table` of one network."""


@dataclass(frozen=True)
class Workers:
    """An edge node's tile workers, as they are measured now."""

    edge: str
    names: tuple[str, ...]
    speeds: tuple[float, ...]
    """Of each, as a multiple of the edge node's, the loads of both counted in."""
    goodput_bps: float
    """Of the slowest link between the edge node and one of them."""
    rtt_s: float
    edge_slowdown: float = 1.0
    """Seconds that the edge node takes over those of its profile."""

    def rounded(self) -> Workers:
        """The same for crews that differ by less than the planner's estimates do."""
        return Workers(
            self.edge,
            self.names,
            tuple(stepped(speed, SPEED_STEP) for speed in self.speeds),
            stepped(self.goodput_bps, LINK_STEP),
            stepped(max(self.rtt_s, LEAST_RTT_S), LINK_STEP),
            stepped(self.edge_slowdown, SPEED_STEP),
        )

    def crew(self, graph: ModelGraph, times: SegmentTimes) -> Crew:
        """In the seconds of the edge node's profile `times`: the planner multiplies what is saved by the slowdown."""
        return Crew(
            speeds=(1.0, *self.speeds),
            block_s={block.name: float(times.block_s[block.index]) for block in graph.blocks},
            goodput_bps=self.goodput_bps * self.edge_slowdown,
            latency_s=self.rtt_s / 2 / self.edge_slowdown,
        )


def tile_table(captured: CapturedModel, crew: Crew, workers: tuple[str, ...], codec: str = "fp32") -> TileTable:
    """What the crew saves on every run of blocks between two waists, with the grid that is fastest for it.

    Runs so deep that they compute twice as much as untiled are not looked into any deeper: their halo only grows.

    Args:
        captured: the network.
        crew: speeds of the workers, the edge node first, times of the blocks there, and the network between them.
        workers: names, in the crew's order.
        codec: of the tiles' tensors.
    """
    cuts = captured.graph.cuts
    costs = SpanCosts(captured, cuts[0], cuts[-1], crew)
    count = len(costs.cuts)
    gain, stacks = np.zeros((1, count, count)), {}
    for last in range(1, count):
        for first in range(last - 1, -1, -1):
            piece = costs.tiled(first, last)
            if piece is None:
                continue
            untiled_s = costs.untiled(first, last).seconds
            if piece.tiles > 1:
                gain[0, first, last] = untiled_s - piece.seconds
                stacks[first, last] = piece.stack
            if piece.seconds > 2 * untiled_s and last - first > 3:
                break
    waists = np.array([cut.index for cut in costs.cuts], dtype=np.intp)
    return TileTable(waists, (Grid(),), gain, workers, codec, stacks)
