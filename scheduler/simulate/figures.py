"""Figures to simulate with where nothing was measured: analytic profiles, assumed picture sizes and accuracy drops.

They are stated assumptions, not measurements: `anabranch profile` and `anabranch calibrate` replace them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from pipeline.model.graph import INPUT, ITEM_BYTES, Block, ModelGraph
from pipeline.plan import Tier
from scheduler.packing import arithmetic
from scheduler.profile import HeldOut, Profile, Timing
from scheduler.tables import PackingTable, SegmentTimes

FLOPS_PER_BYTE = 5.0
"""Balance of a machine: floating-point operations per byte of memory traffic. It decides that a linear layer at
batch 1 is bound by its weights' bytes, not by its arithmetic."""

BLOCK_S = 20e-6
"""Dispatch of one block."""

SEGMENT_S = 200e-6
"""Start of a segment."""

SPEEDS = {Tier.DEVICE: 20e9, Tier.EDGE: 200e9, Tier.CLOUD: 2e12}
"""Effective FLOP/s of the tiers where none are given: a single-board computer, a desktop's CPU, a server's
accelerator at batch 1."""

PIXEL_BYTES = {
    "jpeg95": 0.42, "jpeg90": 0.29, "jpeg85": 0.24, "jpeg75": 0.18, "jpeg60": 0.14, "jpeg40": 0.11,
    "webp90": 0.22, "webp75": 0.12, "webp60": 0.10,
}  # fmt: skip
"""Bytes per pixel of small photographs (224 pixels a side), by picture codec."""

DROPS = {
    "fp16": 0.0, "q8": 0.0, "q7": 0.0005, "q6": 0.001, "q5": 0.003, "q4": 0.008, "q3": 0.05, "q2": 0.40,
    "jpeg95": 0.001, "jpeg90": 0.002, "jpeg85": 0.003, "jpeg75": 0.006, "jpeg60": 0.010, "jpeg40": 0.018,
    "webp90": 0.003, "webp75": 0.007, "webp60": 0.011,
}  # fmt: skip
"""Assumed accuracy drops of lossy codecs, everywhere in the network."""

MAX_DROP = 0.01
"""Bound on the accuracy drop where the objective has none: one percentage point."""


@dataclass(frozen=True)
class Machine:
    """A node by two figures."""

    flops_per_s: float
    bytes_per_s: float = 0.0
    """Memory traffic; 0 for `flops_per_s / FLOPS_PER_BYTE`."""

    def block_s(self, graph: ModelGraph, block: Block) -> float:
        """Time of a block: the slower of arithmetic and memory (the roofline), and its dispatch."""
        tensors = [graph.tensors[name] for name in (*block.inputs, *block.outputs)]
        moved = block.weight_bytes + sum(each.numel * ITEM_BYTES[each.dtype] for each in tensors)
        memory_s = moved / (self.bytes_per_s or self.flops_per_s / FLOPS_PER_BYTE)
        return max(block.flops / self.flops_per_s, memory_s) + BLOCK_S

    def profile(self, graph: ModelGraph, node: str) -> Profile:
        """The analytic profile of this machine."""
        timing = Timing(tuple(self.block_s(graph, block) for block in graph.blocks), run_s=SEGMENT_S)
        return Profile(graph.fingerprint, graph.name, node, timing, HeldOut(0, 0.0, 0.0))

    def times(self, graph: ModelGraph, node: str = "analytic") -> SegmentTimes:
        """Segment times of this machine; packing is as slow as its arithmetic is, beside the edge's."""
        scale = SPEEDS[Tier.EDGE] / min(self.flops_per_s, 4.0 * SPEEDS[Tier.EDGE])
        return replace(self.profile(graph, node).bind(graph), packing_scale=scale)


def assumed_packing(graph: ModelGraph) -> PackingTable:
    """The arithmetic packing table with picture codecs and assumed drops."""
    shape = graph.tensors[INPUT].shape
    is_picture = graph.tensors[INPUT].dtype == "uint8"
    pixels = shape[-1] * shape[-2]
    pictures = {name: (pixels * each, DROPS[name]) for name, each in PIXEL_BYTES.items()} if is_picture else {}
    table = arithmetic(graph, pictures)
    drop = table.drop.copy()
    for codec, name in enumerate(table.codecs):
        if name in DROPS:
            drop[:, codec] = np.where(np.isfinite(table.bytes[:, codec]), DROPS[name], np.nan)
    return replace(table, drop=drop)
