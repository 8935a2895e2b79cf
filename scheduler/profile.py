"""A node's profile: how long any segment of one network takes there, fitted to measured segments.

The time of a run of blocks is not the sum of the times of each block alone (QDMP [read]): a block by itself pays for
starting, for cold caches and for a change of memory format. So whole segments are measured, and the model

    seconds(start, end) = sum of block_s over the segment + run_s + enter * bytes(start) + leave * bytes(end)

is fitted to them (`scheduler.fitting`). It is a difference of potentials over the cuts, which is what the exact search
needs, and how well it predicts segments that it was not fitted to is part of the file.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np

from pipeline import tablefile
from pipeline.errors import ModelMismatch
from pipeline.model.graph import ITEM_BYTES, ModelGraph
from scheduler.tables import Bools, Floats, SegmentTimes
from scheduler.tiles import mask_words

VERSION = 1
"""Version of the file; a file of another version is refused."""


class HeldOut(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Relative error |predicted - measured| / measured on segments that had no part in the fit."""

    segments: int
    median: float
    p95: float
    p95_long: float | None = None
    """Of segments of at least a twentieth of the longest one's time: what plans are made of."""


class Timing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The fitted model of segment times."""

    block_s: tuple[float, ...]
    """Seconds of each block inside a run of blocks, in graph order."""
    run_s: float = 0.0
    """Seconds that every segment costs, however short."""
    enter_s_per_byte: float = 0.0
    """Of the tensors that the segment starts from."""
    leave_s_per_byte: float = 0.0
    """Of the tensors that it ends with."""


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, dict=True):
    """One network on one node."""

    fingerprint: str
    """Of the network (`ModelGraph.fingerprint`)."""
    model: str
    node: str
    timing: Timing
    error: HeldOut
    torch_device: str = "cpu"
    torch_threads: int = 1
    segments: int = 0
    """Segments measured; 0 for a profile that was predicted by `scheduler.regression`."""
    packing_s_per_byte: float = 0.0
    """Seconds to quantise and pack one fp32 byte to four bits on one core; 0 where not measured."""
    contention: float = 0.0
    """Seconds by which one second of packing slows the compute beside it."""
    memory_scale: float = 1.0
    """Largest measured working memory of a segment from the input on, over that by arithmetic."""
    memory_error: float | None = None
    """Median of |scaled - measured| / measured; None where not measured."""
    version: int = VERSION

    def save(self, path: Path) -> None:
        """Write the profile; a reader never sees half of it."""
        tablefile.write(self, path)

    def bind(self, graph: ModelGraph, reference: Profile | None = None) -> SegmentTimes:
        """Predicted times of every segment of the network.

        Args:
            graph: the network.
            reference: profile of the machine that calibrated the packing, to scale packing times by.

        Raises:
            ModelMismatch: the profile is another network's.
        """
        self.check(graph)
        inside = blocks_before(graph)
        potential = inside @ np.asarray(self.timing.block_s)
        nbytes = cut_bytes(graph)
        scale = 1.0
        if reference is not None and reference.packing_s_per_byte > 0 and self.packing_s_per_byte > 0:
            scale = self.packing_s_per_byte / reference.packing_s_per_byte
        return SegmentTimes(
            enter_s=potential - self.timing.run_s - self.timing.enter_s_per_byte * nbytes,
            leave_s=potential + self.timing.leave_s_per_byte * nbytes,
            block_s=np.asarray(self.timing.block_s),
            memory_bytes=weight_bytes(graph, inside) + self.memory_scale * working_bytes(graph, inside),
            packing_scale=scale,
            contention=self.contention,
        )

    def check(self, graph: ModelGraph) -> None:
        """Raise where the profile does not fit `graph`.

        Raises:
            ModelMismatch: it is another network's.
        """
        if self.fingerprint != graph.fingerprint or len(self.timing.block_s) != len(graph.blocks):
            raise ModelMismatch(
                f"profile of node {self.node}",
                f"made for model {self.fingerprint[:12]}, not {graph.fingerprint[:12]}",
                "profile this network with `anabranch profile`",
            )


def load(path: Path, graph: ModelGraph | None = None) -> Profile:
    """Read a profile.

    Args:
        path: JSON file that `Profile.save` wrote.
        graph: the network that it shall be used for.

    Raises:
        ConfigError: unreadable, damaged, or of another version.
        ModelMismatch: made for another network.
    """
    profile = tablefile.read(path, Profile, "profile", VERSION, "anabranch profile")
    if graph is not None:
        profile.check(graph)
    return profile


def cut_bytes(graph: ModelGraph) -> Floats:
    """Shape (cuts,): raw bytes of what crosses each cut."""
    nbytes = {name: spec.nbytes for name, spec in graph.tensors.items()}
    return np.array([sum([nbytes[name] for name in cut.tensors]) for cut in graph.cuts], dtype=np.float64)


def blocks_before(graph: ModelGraph) -> Floats:
    """Shape (cuts, blocks): 1 where the block lies before the cut."""
    words = np.ascontiguousarray(mask_words(graph))
    found = np.unpackbits(words.view(np.uint8), axis=1, bitorder="little")
    return np.asarray(found[:, : len(graph.blocks)], dtype=np.float64)


def weight_bytes(graph: ModelGraph, inside: Floats) -> Floats:
    """Shape (cuts,): weights of the segments from the input to each cut; `inside` is `blocks_before`."""
    return np.asarray(inside @ np.array([block.weight_bytes for block in graph.blocks], dtype=np.float64))


def working_bytes(graph: ModelGraph, inside: Floats) -> Floats:
    """Largest activations of the segments from the input to each cut, by arithmetic.

    They count as if blocks ran in graph order, each tensor freed behind its last use; what the caller or the next stage
    reads stays. Real runs take more: scratch memory, changes of layout, gaps between blocks of the allocator.

    Args:
        graph: the network.
        inside: `blocks_before`.
    """
    live = np.array(_live_bytes(graph), dtype=np.float64)
    within: Bools = inside > 0
    return np.asarray(np.where(within, live[None, :], 0.0).max(axis=1, initial=float(graph.tensors["input"].nbytes)))


def _live_bytes(graph: ModelGraph) -> list[int]:
    """Bytes of the tensors that are alive while each block runs."""
    last_use = {name: len(graph.blocks) for name in graph.outputs}
    for block in graph.blocks:
        for name in block.inputs:
            last_use[name] = max(last_use.get(name, 0), block.index)
    found = []
    for block in graph.blocks:
        made = (name for name in graph.tensors if graph.producer.get(name, -1) <= block.index)
        alive = (name for name in made if last_use.get(name, -1) >= block.index or name in block.outputs)
        found.append(sum(graph.tensors[name].numel * ITEM_BYTES[graph.tensors[name].dtype] for name in alive))
    return found
