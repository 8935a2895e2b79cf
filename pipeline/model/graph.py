"""The block graph of a model, and the cuts through it: pure data, no torch module in here.

A *block* is the smallest part of a network that can be placed on a machine: a convolution with its folded
batch norm and the element-wise operators behind it, a pooling, a sum, a concatenation, a linear layer.
A *cut* is a set of blocks that is closed under predecessors; what crosses it may be several tensors.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from pipeline.errors import ModelError, UnknownCut

INPUT = "input"
"""Name of the cut before the first block, and of the network's input tensor."""

OUTPUT = "output"
"""Name of the cut behind the last block."""

MAX_CUTS = 50_000
"""A graph with more convex cuts than this is cut along one topological order only."""

ITEM_BYTES = {
    "float32": 4, "float16": 2, "bfloat16": 2, "float64": 8,
    "int64": 8, "int32": 4, "int16": 2, "int8": 1, "uint8": 1, "bool": 1,
}  # fmt: skip
"""Bytes of one element, by dtype name."""


@dataclass(frozen=True)
class TensorSpec:
    """What is known of a tensor before any frame: enough to check, allocate and pack it."""

    name: str
    shape: tuple[int, ...]
    """Sizes, batch dimension included (1 unless frames are batched)."""
    dtype: str = "float32"
    unsigned: bool = False
    """True where no element can be negative (behind ReLU, ReLU6, sigmoid, softmax or a pooling of one)."""

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the raw tensor."""
        return self.numel * ITEM_BYTES[self.dtype]


@dataclass(frozen=True)
class Block:
    """One placeable part of the network."""

    index: int
    """Position in topological order."""
    name: str
    """Unique; the module path of the block's main operator, such as `layer1.0.conv1`."""
    kind: str
    """Main operator in the field's words: conv, linear, max_pool, avg_pool, add, concat, activation, ..."""
    operators: tuple[str, ...]
    """Names of the graph nodes that the block runs, in order (see `CapturedModel.module`)."""
    inputs: tuple[str, ...]
    """Tensors that it reads: `input` or outputs of earlier blocks."""
    outputs: tuple[str, ...]
    """Tensors that it makes and that a later block, or the caller, reads."""
    flops: int
    """Floating-point operations for one frame; a multiply-add counts as two."""
    weight_bytes: int
    attributes: dict[str, int | float | str | tuple[int, ...]] = field(default_factory=dict)
    """Layer configuration (kernel, stride, padding, dilation, groups, channels): for regression and display."""


@dataclass(frozen=True)
class Cut:
    """A set of blocks closed under predecessors, by which a network is divided in before and behind."""

    index: int
    """Position in `ModelGraph.cuts`, which is ordered by number of blocks, then by mask."""
    name: str
    """`input`, `output`, or the maximal blocks of the set joined by `+`; unique in the graph."""
    mask: int
    """Bit i is set where block i lies before the cut."""
    tensors: tuple[str, ...]
    """What crosses: made before the cut (or the input), read behind it or by the caller. In graph order."""

    def before(self, other: Cut) -> bool:
        """Whether every block of this cut is also before `other` (equality counts)."""
        return self.mask & ~other.mask == 0


@dataclass(frozen=True)
class ModelGraph:
    """A captured network as blocks, tensors and cuts.

    Raises:
        ModelError: the blocks are not in topological order, or two share a name.
    """

    name: str
    fingerprint: str
    """Hex digest over structure and weights: equal if and only if two nodes hold the same network."""
    blocks: tuple[Block, ...]
    tensors: dict[str, TensorSpec]
    """Every tensor that a block reads or makes, by name; contains `input`."""
    outputs: tuple[str, ...]
    """Tensors that the caller reads."""

    def __post_init__(self) -> None:
        known = {INPUT}
        for position, block in enumerate(self.blocks):
            missing = [name for name in block.inputs if name not in known]
            if missing or block.index != position:
                raise ModelError(f"block {block.name}", f"not in topological order (needs {missing})")
            known.update(block.outputs)
        if len({block.name for block in self.blocks}) != len(self.blocks):
            raise ModelError(f"model {self.name}", "two blocks share a name")

    @functools.cached_property
    def producer(self) -> dict[str, int]:
        """Index of the block that makes each tensor; the input has none."""
        return {name: block.index for block in self.blocks for name in block.outputs}

    @functools.cached_property
    def predecessors(self) -> tuple[int, ...]:
        """For each block, the mask of its direct predecessors."""
        return tuple(sum({1 << self.producer[name] for name in block.inputs if name != INPUT}) for block in self.blocks)

    @functools.cached_property
    def consumers(self) -> dict[str, int]:
        """For each tensor, the mask of the blocks that read it."""
        readers = dict.fromkeys(self.tensors, 0)
        for block in self.blocks:
            for name in block.inputs:
                readers[name] |= 1 << block.index
        return readers

    @functools.cached_property
    def result_bytes(self) -> int:
        """Raw bytes of the network's outputs."""
        return sum(self.tensors[name].nbytes for name in self.outputs)

    @functools.cached_property
    def full_mask(self) -> int:
        """The mask of all blocks."""
        return (1 << len(self.blocks)) - 1

    @functools.cached_property
    def cuts(self) -> tuple[Cut, ...]:
        """All convex cuts, `input` first and `output` last (see `MAX_CUTS`)."""
        masks = self._down_sets()
        return tuple(Cut(index, self._cut_name(mask), mask, self.crossing(mask)) for index, mask in enumerate(masks))

    @functools.cached_property
    def cuts_complete(self) -> bool:
        """False where the graph has too many convex cuts and only one order's prefixes are offered."""
        return self._all_down_sets() is not None

    @property
    def flops(self) -> int:
        """Floating-point operations of the whole network for one frame."""
        return sum(block.flops for block in self.blocks)

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights."""
        return sum(block.weight_bytes for block in self.blocks)

    def cut(self, name: str) -> Cut:
        """The cut of that name.

        Raises:
            UnknownCut: there is none; the message offers close names.
        """
        found = self._cuts_by_name.get(name)
        if found is None:
            raise UnknownCut(f"cut {name!r}", f"model {self.name} has none of that name", self._suggest(name))
        return found

    def cut_of(self, mask: int) -> Cut:
        """The cut of that mask.

        Raises:
            UnknownCut: the mask is not closed under predecessors, or not offered.
        """
        found = self._cuts_by_mask.get(mask)
        if found is None:
            raise UnknownCut(f"cut {mask:#x}", f"not a convex cut of model {self.name}")
        return found

    def between(self, start: Cut, end: Cut) -> tuple[Block, ...]:
        """The blocks behind `start` and before `end`, in topological order.

        Raises:
            ModelError: `start` is not before `end`.
        """
        if not start.before(end):
            raise ModelError(f"segment {start.name}..{end.name}", "the first cut is not before the second")
        return tuple(self.blocks[index] for index in bits(end.mask & ~start.mask))

    def pieces(self, most: int) -> tuple[Cut, ...]:
        """Cuts, `input` and `output` among them, between which lie parts of about equal arithmetic, `most` of them."""
        found, done, total = [self.cut_of(0)], 0, max(1, self.flops)
        for number, block in enumerate(self.blocks, start=1):
            done += block.flops
            if done * most >= len(found) * total and number < len(self.blocks):
                found.append(self.cut_of((1 << number) - 1))
        return (*found, self.cut_of(self.full_mask))

    def crossing(self, mask: int) -> tuple[str, ...]:
        """Tensors made before the cut `mask` and needed behind it, in graph order."""
        behind = self.full_mask & ~mask
        return tuple(name for name in self.tensors if self._is_made(name, mask) and self._is_needed(name, behind))

    def cut_bytes(self, cut: Cut) -> int:
        """Raw bytes of the tensors that cross `cut`."""
        return sum(self.tensors[name].nbytes for name in cut.tensors)

    def _is_made(self, name: str, mask: int) -> bool:
        return name == INPUT or bool(mask >> self.producer[name] & 1)

    def _is_needed(self, name: str, behind: int) -> bool:
        return name in self.outputs or bool(self.consumers[name] & behind)

    @functools.cached_property
    def _cuts_by_name(self) -> dict[str, Cut]:
        return {cut.name: cut for cut in self.cuts}

    @functools.cached_property
    def _cuts_by_mask(self) -> dict[int, Cut]:
        return {cut.mask: cut for cut in self.cuts}

    def _down_sets(self) -> list[int]:
        every = self._all_down_sets()
        if every is None:
            return [(1 << count) - 1 for count in range(len(self.blocks) + 1)]
        return every

    def _all_down_sets(self) -> list[int] | None:
        """Every predecessor-closed set of blocks, by growing each by one block; None beyond `MAX_CUTS`."""
        level, found = {0}, [0]
        while level:
            level = {mask | 1 << index for mask in level for index in self._addable(mask)}
            found.extend(sorted(level))
            if len(found) > MAX_CUTS:
                return None
        return found

    def _addable(self, mask: int) -> Iterator[int]:
        for index, needed in enumerate(self.predecessors):
            if not mask >> index & 1 and needed & ~mask == 0:
                yield index

    def _cut_name(self, mask: int) -> str:
        if mask == 0:
            return INPUT
        if mask == self.full_mask:
            return OUTPUT
        inner = 0
        for index in bits(mask):
            inner |= self.predecessors[index]
        return "+".join(self.blocks[index].name for index in bits(mask & ~inner))

    def _suggest(self, name: str) -> str:
        import difflib

        close = difflib.get_close_matches(name, self._cuts_by_name, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(close)}? " if close else ""
        return f"{hint}`anabranch model show SPEC` lists all {len(self.cuts)}"


def bits(mask: int) -> Sequence[int]:
    """The indices of the set bits of `mask`, ascending."""
    found = []
    while mask:
        low = mask & -mask
        found.append(low.bit_length() - 1)
        mask ^= low
    return found
