"""Tile tables from the tiling's own costs: what the planner expects is what the edge node will choose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pipeline.model.capture import CapturedModel
from pipeline.model.graph import ModelGraph
from pipeline.tiling.crew import MEETING_S, Crew
from pipeline.tiling.fuse import SpanCosts
from pipeline.tiling.search import Runs
from scheduler.tables import SegmentTimes
from scheduler.tiles import Grid, TileTable
from scheduler.tracker import stepped

SPEED_STEP, LINK_STEP = 0.1, 0.25
"""Logarithms of speeds and of links' figures are rounded to these: for nearly the same crew there is one table."""

LEAST_RTT_S = 4e-4
"""Two small messages between idle processes."""

WEIGHTS_BYTES_S = 1e10
"""Bytes per second at which a tile's weights are read, which it has as many of as the map: the edge node measures that,
and the planner knows no more than their size. 5 to 14 GB/s of VGG-16's and Darknet-53's on this project's machine."""

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
            fixed_s={block.name: block.weight_bytes / WEIGHTS_BYTES_S for block in graph.blocks},
            meeting_s=MEETING_S / self.edge_slowdown,
        )


def tile_table(captured: CapturedModel, crew: Crew, workers: tuple[str, ...], codec: str = "fp32") -> TileTable:
    """What the crew saves on every run of blocks between two waists, with the stack or chain that is fastest for it.

    Args:
        captured: the network.
        crew: speeds of the workers, the edge node first, times of the blocks there, and the network between them.
        workers: names, in the crew's order.
        codec: of the tiles' tensors.
    """
    cuts = captured.graph.cuts
    runs = Runs(SpanCosts(captured, cuts[0], cuts[-1], crew))
    gain = np.where(np.isfinite(runs.seconds), runs.untiled_s - runs.seconds, 0.0)[None]
    stacks = {
        (int(first), int(last)): tuple(piece.stack for piece in runs.pieces(first, last))
        for first, last in np.argwhere(gain[0] > 0)
    }
    waists = np.array([cut.index for cut in runs.costs.cuts], dtype=np.intp)
    return TileTable(waists, (Grid(),), gain, workers, codec, stacks)
