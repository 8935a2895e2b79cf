"""Random stacks of random operators, as the flat graphs that capture makes, without torch.export.

`torch.export` takes a second a network; a graph written by hand takes milliseconds, so that the property tests can
look at hundreds. `test_networks` goes through the real capture.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from hypothesis import strategies as st
from torch import Tensor, fx

from pipeline.model.graph import TensorSpec
from pipeline.model.operators import spec_of
from pipeline.tiling.analysis import demand
from pipeline.tiling.operators import Layout, Operator
from pipeline.tiling.program import TileProgram
from pipeline.tiling.regions import Interval, Region
from pipeline.tiling.rules import describe
from pipeline.tiling.writers import write_tile

_aten = torch.ops.aten

ROOM = 4000
"""Most positions that a random map may have."""


@dataclass
class Flat:
    """A flat graph in double precision."""

    weights: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.program = TileProgram({}, lambda node: self.weights[str(node.target)])
        self.generator = torch.Generator().manual_seed(1)

    def input(self, *shape: int) -> fx.Node:
        node = self.program.graph.placeholder("input")
        node.meta["meta"] = torch.empty(shape, dtype=torch.float64, device="meta")
        node.meta["spec"] = TensorSpec("input", shape, "float64")
        return node

    def weight(self, *shape: int) -> fx.Node:
        name = f"weight_{len(self.weights)}"
        self.weights[name] = torch.randn(shape, generator=self.generator, dtype=torch.float64)
        node = self.program.graph.get_attr(name)
        node.meta["meta"] = self.weights[name].to("meta")
        node.meta["spec"] = TensorSpec(name, shape, "float64")
        return node

    def call(self, target: Callable[..., Tensor], *args: object) -> fx.Node:
        return self.program.call(target, *args)

    def shape(self, node: fx.Node) -> tuple[int, ...]:
        return spec_of(node).shape

    def drop_behind(self, last: fx.Node) -> None:
        """Erase what was written behind `last`, and all that it does not need."""
        graph = self.program.graph
        needed = {last}
        for node in reversed(list(graph.nodes)):
            if node in needed:
                needed.update(node.all_input_nodes)
            elif node.op != "placeholder":
                graph.erase_node(node)

    def describe(self) -> dict[fx.Node, Operator]:
        operators: dict[fx.Node, Operator] = {}
        layouts: dict[fx.Node, Layout | None] = {}
        for node in self.program.graph.nodes:
            operators[node] = describe(node, layouts)
            layouts[node] = operators[node].layout
        return operators

    def run(self, last: fx.Node, x: Tensor) -> Tensor:
        """The whole map, untiled."""
        env: dict[fx.Node, Tensor] = {}
        for node in self.program.graph.nodes:
            if node.op == "placeholder":
                env[node] = x
            elif node.op == "get_attr":
                env[node] = self.weights[node.target].to(x.dtype)
            else:
                args, kwargs = fx.node.map_arg((node.args, node.kwargs), env.__getitem__)
                env[node] = node.target(*args, **kwargs)
        return env[last]

    def run_tile(self, operators: dict[fx.Node, Operator], last: fx.Node, region: Region, x: Tensor) -> Tensor:
        """One tile, from the crop of the input that the reverse calculation asks for."""
        members = [node for node in self.program.graph.nodes if node.op == "call_function"]
        source = next(node for node in self.program.graph.nodes if node.op == "placeholder")
        regions = demand(operators, members, {last: region})
        tile = TileProgram(operators, self.program.constant)
        outputs = write_tile(tile, members, regions, {last: region})
        tile.graph.output(outputs[last])
        tensors = {**self.weights, **tile.tensors}
        attributes = {name: each.to(x.dtype) if each.is_floating_point() else each for name, each in tensors.items()}
        needed = regions[source]
        made: Tensor = fx.GraphModule(attributes, tile.graph)(crop(x, needed))
        return made


def crop(x: Tensor, region: Region) -> Tensor:
    """Rows and columns of the last two axes."""
    return x[..., region.rows.start : region.rows.stop, region.columns.start : region.columns.stop]


Grow = Callable[[st.DrawFn, Flat, fx.Node], fx.Node | None]
"""Adds an operator behind a map; None where the map is too small or large for it."""


def convolution(draw: st.DrawFn, flat: Flat, x: fx.Node) -> fx.Node | None:
    _, channels, height, width = flat.shape(x)
    groups = draw(st.sampled_from([1, 1, channels]))
    kernel = [draw(st.integers(1, 7)), draw(st.integers(1, 5))]
    stride = [draw(st.integers(1, 3)), draw(st.integers(1, 3))]
    dilation = [draw(st.integers(1, 2)), draw(st.integers(1, 3))]
    padding = [draw(st.integers(0, size)) for size in kernel]
    for size, k, p, d in zip((height, width), kernel, padding, dilation, strict=True):
        if size + 2 * p < d * (k - 1) + 1:
            return None
    out = channels if groups > 1 else draw(st.sampled_from([2, 4]))
    weight, bias = flat.weight(out, channels // groups, *kernel), flat.weight(out)
    return flat.call(_aten.conv2d.default, x, weight, bias, stride, padding, dilation, groups)


def max_pool(draw: st.DrawFn, flat: Flat, x: fx.Node) -> fx.Node | None:
    kernel, stride, padding, ceil = _pooling(draw)
    dilation = [draw(st.integers(1, 2)), 1]
    extents = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    if any(size + 2 * p < e for size, p, e in zip(flat.shape(x)[2:], padding, extents, strict=True)):
        return None
    return flat.call(_aten.max_pool2d.default, x, kernel, stride, padding, dilation, ceil)


def average_pool(draw: st.DrawFn, flat: Flat, x: fx.Node) -> fx.Node | None:
    kernel, stride, padding, ceil = _pooling(draw)
    if any(size + 2 * p < k for size, p, k in zip(flat.shape(x)[2:], padding, kernel, strict=True)):
        return None
    counts, divisor = draw(st.booleans()), draw(st.sampled_from([None, None, 3]))
    return flat.call(_aten.avg_pool2d.default, x, kernel, stride, padding, ceil, counts, divisor)


def _pooling(draw: st.DrawFn) -> tuple[list[int], list[int], list[int], bool]:
    kernel = [draw(st.integers(1, 4)), draw(st.integers(1, 4))]
    stride = [draw(st.integers(1, 3)), draw(st.integers(1, 3))]
    return kernel, stride, [draw(st.integers(0, size // 2)) for size in kernel], draw(st.booleans())


def element_wise(draw: st.DrawFn, flat: Flat, x: fx.Node) -> fx.Node | None:
    kind = draw(st.sampled_from(["relu", "scale", "where", "norm"]))
    if kind == "relu":
        return flat.call(_aten.leaky_relu.default, x, 0.1)
    if kind == "scale":
        return flat.call(_aten.mul.Tensor, x, flat.weight(flat.shape(x)[1], 1, 1))
    if kind == "where":  # a learned map, of the size of the picture
        return flat.call(_aten.add.Tensor, x, flat.weight(1, *flat.shape(x)[2:]))
    return flat.call(_aten.mul.Tensor, flat.call(_aten.sigmoid.default, x), x)


def residual(draw: st.DrawFn, flat: Flat, x: fx.Node) -> fx.Node | None:
    """A sum of branches with different receptive fields."""
    channels, half = flat.shape(x)[1], draw(st.integers(0, 2))
    weight = flat.weight(channels, channels, 2 * half + 1, 3)
    branch = flat.call(_aten.conv2d.default, x, weight, None, [1, 1], [half, 1], [1, 1], 1)
    return flat.call(_aten.add.Tensor, branch, x)


def concatenation(draw: st.DrawFn, flat: Flat, x: fx.Node) -> fx.Node | None:
    """Branches of 1x7, 7x1, average pooling and nothing, side by side."""
    channels = flat.shape(x)[1]
    if channels > 8:
        return None
    across = (x, flat.weight(2, channels, 1, 7), None, [1, 1], [0, 3], [1, 1], 1)
    down = (x, flat.weight(2, channels, 7, 1), None, [1, 1], [3, 0], [1, 1], 1)
    pooled = (x, [3, 3], [1, 1], [1, 1], False, draw(st.booleans()), None)
    branches = [
        flat.call(_aten.conv2d.default, *across),
        flat.call(_aten.conv2d.default, *down),
        flat.call(_aten.avg_pool2d.default, *pooled),
        x,
    ]
    return flat.call(_aten.cat.default, branches[draw(st.integers(0, 2)) :], 1)


def resize(draw: st.DrawFn, flat: Flat, x: fx.Node) -> fx.Node | None:
    height, width = flat.shape(x)[2:]
    size = draw(st.sampled_from([[2 * height, 3 * width], [height + 3, 2 * width], [max(height // 2, 1), width + 1]]))
    if size[0] * size[1] > ROOM:
        return None
    kind = draw(st.sampled_from(["nearest", "exact", "bilinear", "corners"]))
    if kind == "nearest":
        return flat.call(_aten.upsample_nearest2d.default, x, size, None, None)
    if kind == "exact":
        return flat.call(_aten._upsample_nearest_exact2d.default, x, size, None, None)
    return flat.call(_aten.upsample_bilinear2d.default, x, size, kind == "corners", None, None)


def rearrange(draw: st.DrawFn, flat: Flat, x: fx.Node) -> fx.Node | None:
    _, channels, height, width = flat.shape(x)
    kind = draw(st.sampled_from(["shuffle", "split", "pad", "slice", "flip", "crop", "pixels", "permute"]))
    if kind == "shuffle" and channels % 2 == 0:
        parts = flat.call(_aten.reshape.default, x, [-1, 2, channels // 2, height, width])
        return flat.call(_aten.reshape.default, flat.call(_aten.transpose.int, parts, 1, 2), [-1, *flat.shape(x)[1:]])
    if kind == "split" and channels % 2 == 0:
        return flat.call(_aten.slice.Tensor, x, 1, channels // 2, channels, 1)
    if kind == "pad":
        return flat.call(_aten.constant_pad_nd.default, x, [0, 2, 3, 1, 1, 0], 0.5)
    if kind == "crop" and min(height, width) > 3:
        return flat.call(_aten.constant_pad_nd.default, x, [-1, 1, 0, -2], 0.0)
    if kind == "slice" and height > 4:
        return flat.call(_aten.slice.Tensor, x, 2, 1, height - 1, 2)
    if kind == "flip":
        return flat.call(_aten.flip.default, x, [2, 3])
    if kind == "pixels" and channels % 4 == 0 and 4 * height * width <= ROOM:
        return flat.call(_aten.pixel_shuffle.default, x, 2)
    if kind == "permute":
        last = flat.call(_aten.permute.default, x, [0, 2, 3, 1])
        scaled = flat.call(_aten.linear.default, last, flat.weight(4, channels), flat.weight(4))
        return flat.call(_aten.permute.default, scaled, [0, 3, 1, 2])
    return None


GROWTHS: tuple[Grow, ...] = (
    convolution, convolution, max_pool, average_pool, element_wise, residual, concatenation, resize, rearrange,
)  # fmt: skip


@st.composite
def stacks(draw: st.DrawFn, most: int = 7) -> tuple[Flat, fx.Node]:
    """A random stack, and its last map."""
    flat = Flat()
    x = flat.input(1, 4, draw(st.integers(5, 24)), draw(st.integers(5, 24)))
    for grow in draw(st.lists(st.sampled_from(GROWTHS), min_size=1, max_size=most)):
        grown = grow(draw, flat, x)
        x = x if grown is None or flat.shape(grown)[2:] == (1, 1) else grown
    flat.drop_behind(x)
    if x.op == "placeholder":
        x = flat.call(_aten.constant_pad_nd.default, x, [1, 1, 1, 1], 0.0)
    return flat, x


@st.composite
def regions(draw: st.DrawFn, height: int, width: int) -> Region:
    """Any rectangle of a map."""
    top, left = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
    bottom, right = draw(st.integers(top + 1, height)), draw(st.integers(left + 1, width))
    return Region(Interval(top, bottom), Interval(left, right))
