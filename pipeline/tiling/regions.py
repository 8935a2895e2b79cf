"""Intervals and regions of feature maps, and how one axis of an operator's output reaches back to its input.

The reverse tile calculation (D3, vertical separation module) is done for each axis by itself: an operator is,
for each map that it reads, a pair of *axis maps*, one for rows and one for columns. An axis map takes an interval
of the output axis to the interval of the input axis that it needs, clipped to the map. `docs/tiling.md` has the
derivation. Intervals are half-open, as slices are.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from pipeline.errors import PlanError


@dataclass(frozen=True, slots=True, order=True)
class Interval:
    """The positions `start` .. `stop - 1` of an axis; never empty.

    Raises:
        PlanError: `stop` is not behind `start`.
    """

    start: int
    stop: int

    def __post_init__(self) -> None:
        if self.stop <= self.start:
            raise PlanError(f"interval [{self.start}, {self.stop})", "empty", "use fewer tiles on this axis")

    @property
    def size(self) -> int:
        """Number of positions."""
        return self.stop - self.start

    def union(self, other: Interval) -> Interval:
        """The smallest interval that holds both."""
        return Interval(min(self.start, other.start), max(self.stop, other.stop))

    def holds(self, other: Interval) -> bool:
        """Whether every position of `other` is in here."""
        return self.start <= other.start and other.stop <= self.stop


@dataclass(frozen=True, slots=True, order=True)
class Region:
    """A rectangle of a feature map, in the map's own rows and columns; all channels."""

    rows: Interval
    columns: Interval

    @property
    def area(self) -> int:
        """Number of positions."""
        return self.rows.size * self.columns.size

    def union(self, other: Region) -> Region:
        """The smallest rectangle that holds both."""
        return Region(self.rows.union(other.rows), self.columns.union(other.columns))

    def holds(self, other: Region) -> bool:
        """Whether every position of `other` is in here."""
        return self.rows.holds(other.rows) and self.columns.holds(other.columns)


def whole(height: int, width: int) -> Region:
    """The region of a complete map."""
    return Region(Interval(0, height), Interval(0, width))


class AxisMap(Protocol):
    """How one axis of an operator's output reaches back to the same axis of one of its inputs."""

    @property
    def size(self) -> int:
        """Positions of the input axis."""
        ...

    def needed(self, out: Interval) -> Interval:
        """Input positions that the output positions `out` depend on; never empty, never outside the map."""
        ...


@dataclass(frozen=True, slots=True)
class Window:
    """A sliding window: convolution and pooling; with a kernel of one also padding, cropping and strided slices.

    Output position o reads input positions o*stride - before + dilation*j for j in 0 .. kernel-1; those outside
    of the map are padding.
    """

    size: int
    kernel: int = 1
    stride: int = 1
    before: int = 0
    """Padding at the low end; negative where the window starts inside of the map."""
    dilation: int = 1

    @property
    def extent(self) -> int:
        """Positions from the first to the last element of the window, both counted."""
        return self.dilation * (self.kernel - 1) + 1

    def reach(self, out: Interval) -> tuple[int, int]:
        """First input position and the one behind the last, padding included: may lie outside of the map."""
        first = out.start * self.stride - self.before
        return first, (out.stop - 1) * self.stride - self.before + self.extent

    def needed(self, out: Interval) -> Interval:
        """See `AxisMap`; a window that lies wholly in the padding is given the nearest position of the map."""
        first, behind = self.reach(out)
        start = min(max(first, 0), self.size - 1)
        return Interval(start, max(min(behind, self.size), start + 1))

    def padding(self, out: Interval, held: Interval) -> tuple[int, int]:
        """Positions to add below and above `held` so that the windows of `out` fit exactly; negative: to drop."""
        first, behind = self.reach(out)
        return held.start - first, behind - held.stop


@dataclass(frozen=True, slots=True)
class Fixed:
    """An axis on which the operator reads the same positions for every output: broadcasting, or the whole axis."""

    size: int = 1

    def needed(self, out: Interval) -> Interval:
        """See `AxisMap`."""
        return Interval(0, self.size)


@dataclass(frozen=True, slots=True)
class Mirror:
    """A flipped axis."""

    size: int

    def needed(self, out: Interval) -> Interval:
        """See `AxisMap`."""
        return Interval(self.size - out.stop, self.size - out.start)


@dataclass(frozen=True, slots=True)
class Lookup:
    """An axis with its first and last source position tabulated for each output: resampling. Both never fall."""

    size: int
    first: tuple[int, ...]
    last: tuple[int, ...]

    def needed(self, out: Interval) -> Interval:
        """See `AxisMap`."""
        return Interval(self.first[out.start], self.last[out.stop - 1] + 1)


def same(size: int) -> Window:
    """The map of an element-wise axis."""
    return Window(size)


def boundaries(shares: Sequence[float], size: int) -> tuple[Interval, ...]:
    """Cut an axis by shares; every part gets at least one position, and the parts cover the axis.

    A boundary is the rounded running sum of the shares times the size, so that it depends on the shares before it
    only, and all nodes agree on it.

    Raises:
        PlanError: a share is not positive, they do not sum to 1, or there are more shares than positions.
    """
    if any(share <= 0 for share in shares) or abs(sum(shares) - 1) > 1e-6:
        raise PlanError(f"tile shares {tuple(shares)}", "not positive numbers that sum to 1")
    if len(shares) > size:
        raise PlanError(f"{len(shares)} tiles", f"the axis has {size} positions only", "use fewer tiles on this axis")
    edges = [round(total * size) for total in itertools.accumulate(shares)]
    edges[-1] = size
    for index in range(len(edges) - 2, -1, -1):
        edges[index] = min(edges[index], edges[index + 1] - 1)
    for index, edge in enumerate(edges):
        edges[index] = max(edge, (edges[index - 1] if index else 0) + 1)
    return tuple(Interval(a, b) for a, b in itertools.pairwise([0, *edges]))


def grid(rows: Iterable[Interval], columns: Iterable[Interval]) -> tuple[Region, ...]:
    """The tiles of a grid, row-major."""
    return tuple(Region(row, column) for row, column in itertools.product(rows, columns))


def equal_shares(count: int) -> tuple[float, ...]:
    """Shares of `count` equal parts."""
    return (1 / count,) * count


def shares_of(intervals: Sequence[Interval], size: int) -> tuple[float, ...]:
    """Shares that `boundaries` turns into exactly these intervals again."""
    return tuple(interval.size / size for interval in intervals)
