"""What the cost model looks up by cut: segment times of a node, packing per codec, what tiling saves.

Arrays in these tables are indexed by `Cut.index`. Tables are compared by identity, since planners keep what they
have prepared for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ConfigError

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class SegmentTimes:
    """Predicted time of every segment of one network on one node: `leave_s[end] - enter_s[start]`.

    That form (a potential over the cuts, with what starting at `start` and ending at `end` costs worked in) is what
    `Profile` fits to measured segments; the exact search relies on it.
    """

    enter_s: Floats
    """Shape (cuts,)."""
    leave_s: Floats
    """Shape (cuts,)."""
    block_s: Floats
    """Shape (blocks,): seconds of each block by itself, for planners that know no segments."""
    memory_bytes: Floats
    """Shape (cuts,): weights and largest activations of the segment from the input to each cut."""
    packing_scale: float = 1.0
    """Time of encoding and decoding here over that of the machine that calibrated."""
    contention: float = 0.0
    """Seconds by which one second of packing slows the compute beside it: 0 on cores of its own, 1 on one core."""

    @property
    def whole_s(self) -> float:
        """Predicted seconds of the whole network."""
        return self.seconds(0, len(self.leave_s) - 1)

    def segment_s(self, start: Ints | int, end: Ints | int) -> Floats:
        """Predicted seconds of the segments; 0 for empty ones.

        Args:
            start: indices of cuts.
            end: indices of cuts behind them; broadcasts with `start`.
        """
        return np.where(np.equal(start, end), 0.0, np.maximum(self.leave_s[end] - self.enter_s[start], 0.0))

    def seconds(self, start: int, end: int) -> float:
        """`segment_s` of one segment, without the arrays' overhead."""
        return 0.0 if start == end else max(float(self.leave_s[end]) - float(self.enter_s[start]), 0.0)


@dataclass(frozen=True, eq=False)
class PackingTable:
    """What each codec costs at each cut.

    Raises:
        ConfigError: an array is not of shape (cuts, codecs).
    """

    codecs: tuple[str, ...]
    bytes: Floats
    """Shape (cuts, codecs): median packed bytes of one frame; infinite where the codec is not offered."""
    drop: Floats
    """Shape (cuts, codecs): accuracy drop as the only lossy link; NaN where unknown."""
    encode_s: Floats
    """Shape (cuts, codecs): on one core of the calibrating machine."""
    decode_s: Floats
    pair_drop: Mapping[tuple[int, int, int, int], float] = field(default_factory=dict)
    """Measured drop of two lossy links, by (cut, codec, cut, codec) indices; elsewhere the sum of both is taken."""

    def __post_init__(self) -> None:
        shapes = {array.shape for array in (self.bytes, self.drop, self.encode_s, self.decode_s)}
        if len(shapes) != 1 or self.bytes.shape[1] != len(self.codecs):
            raise ConfigError("packing table", f"arrays of shapes {sorted(shapes)} for {len(self.codecs)} codecs")

    def codec(self, name: str) -> int:
        """Index of a codec.

        Raises:
            ConfigError: the table has none of that name.
        """
        if name not in self.codecs:
            raise ConfigError(f"codec {name!r}", "not in the packing table", f"it has {', '.join(self.codecs)}")
        return self.codecs.index(name)

    def drop_of(self, *links: tuple[int, int]) -> float:
        """Accuracy drop of one or two links, given as (cut, codec) indices: as measured, or the sum; NaN if unknown."""
        if len(links) == 2:
            measured = self.pair_drop.get((*links[0], *links[1]))
            if measured is not None:
                return measured
        return float(sum(self.drop[link] for link in links))
