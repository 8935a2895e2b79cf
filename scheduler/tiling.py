"""Tile tables from the tiling's own costs: what the planner expects is what the edge node will choose."""

from __future__ import annotations

import numpy as np

from pipeline.model.capture import CapturedModel
from pipeline.tiling.crew import Crew
from pipeline.tiling.fuse import SpanCosts
from scheduler.tiles import Grid, TileTable


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
