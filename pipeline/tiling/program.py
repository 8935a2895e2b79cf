"""The program of one tile, under construction: a flat graph in which every crop, pad and size is a constant.

Values are kept in *buffers*, which may be larger than the region that is right in them (see `windows`): whoever
reads a value takes the right part; element-wise operators work on the whole buffer and leave the crop to those
behind them. `writers` has the operators; this module has what they are written with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from pipeline.model.graph import TensorSpec
from pipeline.model.operators import dtype_name, spec_of
from pipeline.tiling.operators import Layout, Operator, Read
from pipeline.tiling.regions import Interval, Region, Window, whole
from pipeline.tiling.windows import Fits

_aten = torch.ops.aten

UNIT = whole(1, 1)
"""The region of values without rows and columns."""


@dataclass(frozen=True, slots=True)
class Value:
    """A map in the program: the node that holds it, and what is where."""

    node: fx.Node
    region: Region
    """The part of the map that is right."""
    buffer: Region
    """The positions that the tensor covers; beyond the map, or wrong, outside of `region`."""

    @property
    def exact(self) -> bool:
        """Whether the tensor is the region, with nothing to drop."""
        return self.region == self.buffer


@dataclass
class TileProgram:
    """The graph of a tile and the values in it.

    Nodes carry `meta["spec"]` with the sizes of the tile, `meta["meta"]`, the result without data, and
    `meta["origin"]`, the captured node they stand for.
    """

    operators: Mapping[fx.Node, Operator]
    constant: Callable[[fx.Node], Tensor]
    """Gives the tensor of a `get_attr` node of the captured graph."""
    graph: fx.Graph = field(default_factory=fx.Graph)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    """Tables that only this tile has, by attribute name."""
    values: dict[fx.Node, Value] = field(default_factory=dict)

    def add_input(self, node: fx.Node, region: Region) -> None:
        """Add a placeholder for the region of a map from outside."""
        layout, spec = self.operators[node].layout, spec_of(node)
        shape = list(spec.shape)
        if layout is not None:
            shape[layout.row_axis], shape[layout.column_axis] = region.rows.size, region.columns.size
        new = self.graph.placeholder(node.name)
        _note(new, torch.empty(shape, dtype=getattr(torch, spec.dtype), device="meta"), node)
        self.values[node] = Value(new, region, region)

    def call(self, target: Any, *args: Any, origin: fx.Node | None = None, **kwargs: Any) -> fx.Node:
        """Add an operator; its result is worked out without data, so that every node knows its sizes."""
        new = self.graph.call_function(target, args, kwargs)
        on_meta, named = fx.node.map_arg((args, kwargs), lambda node: node.meta["meta"])
        _note(new, target(*on_meta, **named), origin)
        return new

    def weight(self, node: fx.Node, user: fx.Node) -> fx.Node:
        """A `get_attr` node for one use of a weight."""
        new = self.graph.create_node("get_attr", str(node.target))
        _note(new, torch.empty_like(self.constant(node), device="meta"), user)
        return new

    def table(self, tensor: Tensor) -> fx.Node:
        """A `get_attr` node for a table of this tile."""
        name = f"tile_table_{len(self.tensors)}"
        self.tensors[name] = tensor
        new = self.graph.create_node("get_attr", name)
        _note(new, torch.empty_like(tensor, device="meta"), None)
        return new

    def crop(self, value: Value, region: Region, layout: Layout | None) -> fx.Node:
        """The region of a value, as a view."""
        if layout is None:
            return value.node
        node = self.narrow(value.node, layout.row_axis, value.buffer.rows, region.rows)
        return self.narrow(node, layout.column_axis, value.buffer.columns, region.columns)

    def narrow(self, node: fx.Node, axis: int, held: Interval, wanted: Interval) -> fx.Node:
        """The positions `wanted` of an axis of which the tensor holds `held`."""
        if held == wanted:
            return node
        return self.call(_aten.slice.Tensor, node, axis, wanted.start - held.start, wanted.stop - held.start, 1)

    def fetch(self, read: Read, region: Region) -> fx.Node:
        """The part of an input that the output region needs."""
        needed = read.needed(region)
        if read.node in self.values:
            return self.crop(self.values[read.node], needed, self.operators[read.node].layout)
        node = self.weight(read.node, read.node)
        for axis, map_, interval in (
            (read.row_axis, read.rows, needed.rows),
            (read.column_axis, read.columns, needed.columns),
        ):
            if axis is not None:
                node = self.narrow(node, axis, Interval(0, map_.size), interval)
        return node

    def other(self, node: fx.Node, user: fx.Node) -> fx.Node:
        """An input without rows and columns: a weight, or a vector."""
        return self.values[node].node if node in self.values else self.weight(node, user)

    def same(self, operator: Operator, maps: Mapping[fx.Node, fx.Node]) -> fx.Node:
        """The captured operator, on other inputs."""
        node = operator.node
        args, kwargs = fx.node.map_arg(
            (node.args, dict(node.kwargs)), lambda source: maps.get(source) or self.other(source, node)
        )
        return self.call(node.target, *args, origin=node, **kwargs)

    def pad_uneven(self, node: fx.Node, read: Read, region: Region, fits: Fits, value: float) -> fx.Node:
        """The input of a window with padding written out, at the true border only, on the axes that have no fit."""
        needed = read.needed(region)
        windows, outs, helds = windows_of(read), (region.rows, region.columns), (needed.rows, needed.columns)
        down, across = (
            (0, 0) if each else window.padding(out, held)
            for each, window, out, held in zip(fits, windows, outs, helds, strict=True)
        )
        return self.pad(node, (2, 3), (down, across), value)

    def pad(
        self, node: fx.Node, axes: tuple[int, int], amounts: tuple[tuple[int, int], tuple[int, int]], value: float
    ) -> fx.Node:
        """Pad two axes, each (below, above), where an amount is positive; then crop where one is negative."""
        rank = len(spec_of(node).shape)
        written = [0] * (2 * rank)
        for axis, (below, above) in zip(axes, amounts, strict=True):
            place = 2 * (rank - 1 - axis)
            written[place : place + 2] = [max(below, 0), max(above, 0)]
        while written and written[-2:] == [0, 0]:
            del written[-2:]
        if written:
            node = self.call(_aten.constant_pad_nd.default, node, written, value)
        for axis, (below, above) in zip(axes, amounts, strict=True):
            size = spec_of(node).shape[axis]
            node = self.narrow(node, axis, Interval(0, size), Interval(max(-below, 0), size - max(-above, 0)))
        return node


def _note(new: fx.Node, meta: Any, origin: fx.Node | None) -> None:
    new.meta["meta"], new.meta["origin"] = meta, origin
    if isinstance(meta, Tensor):
        new.meta["spec"] = TensorSpec(new.name, tuple(meta.shape), dtype_name(meta.dtype))


def windows_of(read: Read) -> tuple[Window, Window]:
    """The windows of both axes."""
    if not isinstance(read.rows, Window) or not isinstance(read.columns, Window):
        raise TypeError(f"{read.node.name} is not read through windows")
    return read.rows, read.columns
