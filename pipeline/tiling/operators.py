"""What tiling knows of one operator of the captured graph: where rows and columns are, and what each map reads."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from torch import fx

from pipeline.model.operators import flops as flops_of
from pipeline.model.operators import op, spec_of
from pipeline.tiling.regions import AxisMap, Region, whole


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the rows and columns of a map lie among the axes of its tensor.

    They need not be the last two: a channel shuffle or a local response normalisation makes five axes for a while,
    and a network may permute channels to the end.
    """

    row_axis: int
    column_axis: int
    height: int
    width: int

    @property
    def region(self) -> Region:
        """The complete map."""
        return whole(self.height, self.width)

    @property
    def spatial(self) -> bool:
        """Whether there is anything to cut: more than one position."""
        return self.height * self.width > 1


@dataclass(frozen=True, slots=True)
class Read:
    """How an operator reads one of its inputs."""

    node: fx.Node
    rows: AxisMap
    columns: AxisMap
    row_axis: int | None = 2
    """Axis of the input that holds rows; None where it has none (broadcast from the right)."""
    column_axis: int | None = 3

    def needed(self, region: Region) -> Region:
        """Region of the input that the output region depends on."""
        return Region(self.rows.needed(region.rows), self.columns.needed(region.columns))


class Kind(Enum):
    """How an operator is written into the program of a tile; see `pipeline.tiling.program`."""

    PLAIN = auto()
    """The same operator with the same arguments, on the same region of each input."""
    RESHAPE = auto()
    """A view; the sizes of the result follow the tile."""
    CONVOLUTION = auto()
    MAX_POOL = auto()
    AVERAGE_POOL = auto()
    PAD = auto()
    SLICE = auto()
    FLIP = auto()
    RESAMPLE = auto()
    PIXEL_SHUFFLE = auto()


@dataclass(frozen=True)
class Operator:
    """One node of the captured graph, as tiling sees it."""

    node: fx.Node
    kind: Kind = Kind.PLAIN
    layout: Layout | None = None
    """Of the result; None where the result has no rows and columns."""
    reads: tuple[Read, ...] = ()
    """Inputs that are read by region; other inputs (weights) are read whole."""
    barrier: str = ""
    """Why the result cannot be computed in tiles; empty where it can."""

    @functools.cached_property
    def work(self) -> float:
        """Floating-point operations for each position of the result; a multiply-add counts as two."""
        if self.node.op != "call_function":
            return 0.0
        return flops_of(self.node) / (self.layout.region.area if self.layout else 1)

    def flops(self, region: Region) -> float:
        """Operations for a region of the result."""
        return self.work * (region.area if self.layout else 1)


Layouts = Mapping[fx.Node, "Layout | None"]
"""Layout of each node before the one at hand."""

Rule = Callable[[fx.Node, Layouts], Operator]
"""Describes the operators of one family."""


def name_of(node: fx.Node) -> str:
    """The operator's bare name without leading underscores: `conv2d`, `relu`, `getitem`, ..."""
    return op(node).strip("_")


def shape_of(node: fx.Node) -> tuple[int, ...] | None:
    """Shape of the node's result; None where it is not one tensor."""
    return spec_of(node).shape if "spec" in node.meta else None


def arguments(node: fx.Node) -> dict[str, Any]:
    """The arguments of an ATen operator by name, defaults filled in; empty for Python functions."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return {}
    bound = {each.name: each.default_value for each in schema.arguments}
    bound.update(zip((each.name for each in schema.arguments), node.args, strict=False))
    return {**bound, **node.kwargs}


def pair(value: Any, default: tuple[int, int]) -> tuple[int, int]:
    """An int list of one or two elements as (rows, columns); `default` where it is empty or missing."""
    if isinstance(value, int):
        return value, value
    if not value:
        return default
    return (int(value[0]), int(value[0])) if len(value) == 1 else (int(value[0]), int(value[1]))


def fresh_layout(node: fx.Node) -> Layout | None:
    """The layout of a map that comes from outside, or from an operator that is not followed: N, C, rows, columns."""
    shape = shape_of(node)
    return Layout(2, 3, shape[2], shape[3]) if shape is not None and len(shape) == 4 else None


def blocked(node: fx.Node, why: str) -> Operator:
    """An operator that cannot be tiled."""
    return Operator(node, layout=fresh_layout(node), barrier=why)
