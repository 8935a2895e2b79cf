"""The families of operators: how the result's rows and columns reach back to each input (reverse tile calculation).

`describe` gives the rule of a node. An operator without a rule is a barrier as soon as it reads a map: what is not
known to be local must be taken to need the whole map.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from torch import fx

from pipeline.model.operators import ELEMENTWISE
from pipeline.tiling.operators import (
    Kind,
    Layout,
    Layouts,
    Operator,
    Read,
    Rule,
    arguments,
    blocked,
    fresh_layout,
    name_of,
    pair,
    shape_of,
)
from pipeline.tiling.regions import AxisMap, Fixed, Lookup, Mirror, Window, same
from pipeline.tiling.resample import axes_of

_ELEMENT_WISE = ELEMENTWISE - {"batch_norm"} | frozenset(
    "alias clone contiguous erf expm1 log1p log2 sin cos sign trunc threshold logical_and logical_or lerp".split()
)

REASONS = {
    "conv_transpose2d": "transposed convolution",
    "linear": "fully connected: each output needs the whole map",
    "addmm": "fully connected: each output needs the whole map",
    "mm": "matrix product: each output needs the whole map",
    "bmm": "attention or matrix product: each output needs the whole map",
    "matmul": "attention or matrix product: each output needs the whole map",
    "scaled_dot_product_attention": "attention: each output needs the whole map",
    "adaptive_avg_pool2d": "global pooling: each output needs the whole map",
    "adaptive_max_pool2d": "global pooling: each output needs the whole map",
}
"""Words for the barriers that networks have most; others are named by their operator."""


def describe(node: fx.Node, layouts: Layouts) -> Operator:
    """What tiling knows of `node`, given the layouts of the nodes before it."""
    if node.op == "placeholder":
        return Operator(node, layout=fresh_layout(node))
    if node.op != "call_function":
        return Operator(node)
    maps = [source for source in node.all_input_nodes if _spatial(layouts, source)]
    if not maps:
        return _without_map(node)
    rule = RULES.get(name_of(node))
    return rule(node, layouts) if rule else blocked(node, _reason(node))


def _spatial(layouts: Layouts, node: fx.Node) -> bool:
    layout = layouts.get(node)
    return layout is not None and layout.spatial


def _reason(node: fx.Node) -> str:
    name = name_of(node)
    return REASONS.get(name, f"{name}: not known to be local, may need the whole map")


def _without_map(node: fx.Node) -> Operator:
    """No input has rows or columns: weights and single positions, computed whole in every tile that needs them."""
    layout = fresh_layout(node)
    if layout is None or not layout.spatial:
        return Operator(node, layout=layout)
    if all(source.op == "get_attr" for source in node.all_input_nodes):
        return Operator(node)
    return blocked(node, f"{name_of(node)}: makes a map out of a vector")


def element_wise(node: fx.Node, layouts: Layouts) -> Operator:
    """Element-wise operators with broadcasting: axes are aligned from the right."""
    shape = shape_of(node) or ()
    layout = _aligned_layout(node, layouts, shape)
    if layout is None:
        return blocked(node, f"{name_of(node)}: its inputs hold rows and columns on different axes")
    reads = tuple(_aligned_read(source, layout, len(shape)) for source in node.all_input_nodes if shape_of(source))
    return Operator(node, layout=layout, reads=reads)


def _aligned_layout(node: fx.Node, layouts: Layouts, shape: tuple[int, ...]) -> Layout | None:
    found = set()
    for source in node.all_input_nodes:
        layout = layouts.get(source)
        if layout is not None and layout.spatial:
            shift = len(shape) - len(shape_of(source) or ())
            found.add((layout.row_axis + shift, layout.column_axis + shift))
    if len(found) != 1:
        return None
    row_axis, column_axis = found.pop()
    return Layout(row_axis, column_axis, shape[row_axis], shape[column_axis])


def _aligned_read(source: fx.Node, layout: Layout, rank: int) -> Read:
    shape = shape_of(source) or ()
    shift = rank - len(shape)

    def axis(at: int, size: int) -> tuple[AxisMap, int | None]:
        if at < shift:
            return Fixed(), None
        return (same(size) if shape[at - shift] == size else Fixed()), at - shift

    rows, row_axis = axis(layout.row_axis, layout.height)
    columns, column_axis = axis(layout.column_axis, layout.width)
    return Read(source, rows, columns, row_axis, column_axis)


def _unary(node: fx.Node, layouts: Layouts, layout: Layout, kind: Kind = Kind.PLAIN) -> Operator:
    """An operator that keeps rows and columns, though perhaps on other axes."""
    reads = tuple(
        Read(source, same(found.height), same(found.width), found.row_axis, found.column_axis)
        for source in node.all_input_nodes
        if (found := layouts.get(source)) is not None
    )
    return Operator(node, kind, layout, reads)


def _source(node: fx.Node, layouts: Layouts) -> tuple[fx.Node, Layout]:
    """The first input that is a map, and its layout."""
    for source in node.all_input_nodes:
        layout = layouts.get(source)
        if layout is not None and layout.spatial:
            return source, layout
    raise LookupError(f"node {node.name} reads no map")


def reshape(node: fx.Node, layouts: Layouts) -> Operator:
    """Views: rows and columns survive where an axis of the same size has the same number of elements before it."""
    source, layout = _source(node, layouts)
    before, after = shape_of(source) or (), shape_of(node) or ()
    column_axis = _same_axis(before, layout.column_axis, after)
    row_axis = _same_axis(before, layout.row_axis, after[:column_axis])
    if row_axis is None or column_axis is None:
        return blocked(node, "flatten: joins rows and columns with other axes")
    return _unary(node, layouts, Layout(row_axis, column_axis, layout.height, layout.width), Kind.RESHAPE)


def _same_axis(before: tuple[int, ...], axis: int, after: tuple[int, ...]) -> int | None:
    """The last that fits: an axis of one row has others of size 1 before it that would fit as well."""
    for candidate in reversed(range(len(after))):
        if after[candidate] == before[axis] and math.prod(after[:candidate]) == math.prod(before[:axis]):
            return candidate
    return None


def permute(node: fx.Node, layouts: Layouts) -> Operator:
    """Permutations and transpositions of axes."""
    source, layout = _source(node, layouts)
    bound, rank = arguments(node), len(shape_of(source) or ())
    order = list(range(rank))
    if "dims" in bound:
        order = [axis % rank for axis in bound["dims"]]
    else:
        first, second = bound["dim0"] % rank, bound["dim1"] % rank
        order[first], order[second] = order[second], order[first]
    moved = Layout(order.index(layout.row_axis), order.index(layout.column_axis), layout.height, layout.width)
    return _unary(node, layouts, moved)


def _touches(axes: Iterable[int], rank: int, layout: Layout) -> bool:
    return bool({axis % rank for axis in axes} & {layout.row_axis, layout.column_axis})


def along_axis(node: fx.Node, layouts: Layouts) -> Operator:
    """Concatenation, splitting and softmax along an axis that holds neither rows nor columns."""
    source, layout = _source(node, layouts)
    shape = shape_of(source) or ()
    if any(_spatial(layouts, other) and layouts[other] != layout for other in node.all_input_nodes):
        return blocked(node, f"{name_of(node)}: its inputs hold rows and columns on different axes")
    if _touches([arguments(node)["dim"]], len(shape), layout):
        return blocked(node, f"{name_of(node)}: runs along rows or columns")
    return _unary(node, layouts, layout)


def getitem(node: fx.Node, layouts: Layouts) -> Operator:
    """One tensor of an operator that makes several."""
    return _unary(node, layouts, _source(node, layouts)[1])


def reduction(node: fx.Node, layouts: Layouts) -> Operator:
    """Mean, sum and the like over axes that hold neither rows nor columns."""
    source, layout = _source(node, layouts)
    bound, rank = arguments(node), len(shape_of(source) or ())
    dims = bound.get("dim")
    axes = [dims] if isinstance(dims, int) else list(dims or range(rank))
    if _touches(axes, rank, layout):
        return blocked(node, f"global pooling ({name_of(node)}): each output needs the whole map")
    gone = [] if bound.get("keepdim") else [axis % rank for axis in axes]

    def moved(axis: int) -> int:
        return axis - len([other for other in gone if other < axis])

    kept = Layout(moved(layout.row_axis), moved(layout.column_axis), layout.height, layout.width)
    return _unary(node, layouts, kept)


def last_axes(node: fx.Node, layouts: Layouts) -> Operator:
    """Linear layers and layer norms over trailing axes that hold neither rows nor columns."""
    source, layout = _source(node, layouts)
    bound, shape = arguments(node), shape_of(source) or ()
    count = len(bound.get("normalized_shape") or (0,))
    if _touches(range(-count, 0), len(shape), layout):
        return blocked(node, _reason(node))
    return _unary(node, layouts, layout)


def batch_norm(node: fx.Node, layouts: Layouts) -> Operator:
    """A batch norm that capture could not fold: one factor and one summand for each channel."""
    return _unary(node, layouts, _source(node, layouts)[1])


def select(node: fx.Node, layouts: Layouts) -> Operator:
    """One element of an axis that holds neither rows nor columns; the axis goes."""
    source, layout = _source(node, layouts)
    rank = len(shape_of(source) or ())
    axis = int(arguments(node)["dim"]) % rank
    if _touches([axis], rank, layout):
        return blocked(node, "select: takes a single row or column")
    moved = [at - (axis < at) for at in (layout.row_axis, layout.column_axis)]
    return _unary(node, layouts, Layout(moved[0], moved[1], layout.height, layout.width))


def slice_axis(node: fx.Node, layouts: Layouts) -> Operator:
    """A slice, along any axis: along rows or columns it is a window of one position."""
    source, layout = _source(node, layouts)
    bound, shape = arguments(node), shape_of(source) or ()
    axis = bound["dim"] % len(shape)
    if not _touches([axis], len(shape), layout):
        return _unary(node, layouts, layout)
    start, step = bound["start"] or 0, bound["step"] or 1
    first = max(start + shape[axis] if start < 0 else start, 0)
    window = Window(shape[axis], stride=step, before=-first)
    return _windowed(node, source, layout, Kind.SLICE, axis, window)


def _windowed(node: fx.Node, source: fx.Node, layout: Layout, kind: Kind, axis: int, map_: AxisMap) -> Operator:
    """An operator that changes one axis and keeps the other."""
    shape = shape_of(node) or ()
    after = Layout(layout.row_axis, layout.column_axis, shape[layout.row_axis], shape[layout.column_axis])
    rows = map_ if axis == layout.row_axis else same(layout.height)
    columns = map_ if axis == layout.column_axis else same(layout.width)
    return Operator(node, kind, after, (Read(source, rows, columns, layout.row_axis, layout.column_axis),))


def pad(node: fx.Node, layouts: Layouts) -> Operator:
    """Padding with a constant, also negative (cropping)."""
    source, layout = _source(node, layouts)
    bound, shape = arguments(node), shape_of(node) or ()
    if bound.get("mode", "constant") != "constant":
        return blocked(node, f"{bound['mode']} padding: reads rows and columns from elsewhere in the map")
    amounts = list(bound["pad"])
    before = {len(shape) - 1 - index // 2: amounts[index] for index in range(0, len(amounts), 2)}
    read = Read(
        source,
        Window(layout.height, before=before.get(layout.row_axis, 0)),
        Window(layout.width, before=before.get(layout.column_axis, 0)),
        layout.row_axis,
        layout.column_axis,
    )
    after = Layout(layout.row_axis, layout.column_axis, shape[layout.row_axis], shape[layout.column_axis])
    return Operator(node, Kind.PAD, after, (read,))


def flip(node: fx.Node, layouts: Layouts) -> Operator:
    """A mirrored map."""
    source, layout = _source(node, layouts)
    axes = {axis % len(shape_of(source) or ()) for axis in arguments(node)["dims"]}
    rows: AxisMap = Mirror(layout.height) if layout.row_axis in axes else same(layout.height)
    columns: AxisMap = Mirror(layout.width) if layout.column_axis in axes else same(layout.width)
    read = Read(source, rows, columns, layout.row_axis, layout.column_axis)
    return Operator(node, Kind.FLIP, layout, (read,))


def resample(node: fx.Node, layouts: Layouts) -> Operator:
    """Nearest and bilinear resizing."""
    source, layout = _source(node, layouts)
    after = fresh_layout(node)
    if after is None or (layout.row_axis, layout.column_axis) != (2, 3):
        return blocked(node, f"{name_of(node)}: rows and columns are not the last two axes")
    axes = axes_of(node, layout.height, layout.width, after.height, after.width)
    if axes is None:
        return blocked(node, _reason(node))
    read = Read(source, axes[0].lookup, axes[1].lookup)
    return Operator(node, Kind.RESAMPLE, after, (read,))


def pixel_shuffle(node: fx.Node, layouts: Layouts) -> Operator:
    """Channels to space: `factor` rows and columns out of each."""
    source, layout = _source(node, layouts)
    after, factor = fresh_layout(node), int(arguments(node)["upscale_factor"])
    if after is None or (layout.row_axis, layout.column_axis) != (2, 3):
        return blocked(node, "pixel_shuffle: rows and columns are not the last two axes")
    down, across = (tuple(at // factor for at in range(size)) for size in (after.height, after.width))
    read = Read(source, Lookup(layout.height, down, down), Lookup(layout.width, across, across))
    return Operator(node, Kind.PIXEL_SHUFFLE, after, (read,))


def convolution(node: fx.Node, layouts: Layouts) -> Operator:
    """Convolutions of any stride, padding, dilation, groups and kernel. (Capture writes `same` in numbers.)"""
    source, layout = _source(node, layouts)
    bound, after = arguments(node), fresh_layout(node)
    weight = shape_of(bound["weight"]) or ()
    if after is None or (layout.row_axis, layout.column_axis) != (2, 3) or bound["input"] is not source:
        return blocked(node, "convolution: rows and columns are not the last two axes")
    stride, dilation = pair(bound["stride"], (1, 1)), pair(bound["dilation"], (1, 1))
    before = pair(bound["padding"], (0, 0))
    windows = [
        Window(size, kernel, step, low, spread)
        for size, kernel, step, low, spread in zip(
            (layout.height, layout.width), weight[2:], stride, before, dilation, strict=True
        )
    ]
    return Operator(node, Kind.CONVOLUTION, after, (Read(source, windows[0], windows[1]),))


def pooling(node: fx.Node, layouts: Layouts) -> Operator:
    """Max and average pooling in two dimensions."""
    source, layout = _source(node, layouts)
    bound, after = arguments(node), fresh_layout(node)
    if after is None or (layout.row_axis, layout.column_axis) != (2, 3):
        return blocked(node, f"{name_of(node)}: rows and columns are not the last two axes")
    if not after.spatial:
        return blocked(node, "global pooling: each output needs the whole map")
    kernel = pair(bound["kernel_size"], (1, 1))
    stride, before = pair(bound["stride"], kernel), pair(bound["padding"], (0, 0))
    spread = pair(bound.get("dilation"), (1, 1))
    read = Read(
        source,
        Window(layout.height, kernel[0], stride[0], before[0], spread[0]),
        Window(layout.width, kernel[1], stride[1], before[1], spread[1]),
    )
    kind = Kind.AVERAGE_POOL if name_of(node) == "avg_pool2d" else Kind.MAX_POOL
    return Operator(node, kind, after, (read,))


def average_pool_3d(node: fx.Node, layouts: Layouts) -> Operator:
    """Average pooling along the channels only, as local response normalisation does it."""
    source, layout = _source(node, layouts)
    bound, rank = arguments(node), len(shape_of(source) or ())
    kernel = bound["kernel_size"]
    stride, padding = bound["stride"] or kernel, bound["padding"] or (0, 0, 0)
    trivial = len(kernel) == 3 and tuple(kernel[1:]) == (1, 1) and tuple(stride[-2:]) == (1, 1)
    last_two = (layout.row_axis, layout.column_axis) == (rank - 2, rank - 1)
    if not (trivial and last_two) or any(tuple(padding)[-2:]):
        return blocked(node, _reason(node))
    return _unary(node, layouts, layout)


def adaptive_pooling(node: fx.Node, layouts: Layouts) -> Operator:
    """Adaptive average pooling to the size that the map has already is no pooling; otherwise it is a barrier."""
    source, layout = _source(node, layouts)
    if shape_of(source) != shape_of(node):
        return blocked(node, _reason(node))
    return _unary(node, layouts, layout)


_FAMILIES: tuple[tuple[Rule, str], ...] = (
    (element_wise, " ".join(_ELEMENT_WISE)),
    (reshape, "view reshape flatten squeeze unsqueeze unsafe_view view_copy unflatten expand"),
    (permute, "permute transpose t"),
    (along_axis, "cat concat chunk split split_with_sizes softmax log_softmax tensor_split"),
    (getitem, "getitem"),
    (reduction, "mean sum amax amin max_dim prod linalg_vector_norm"),
    (last_axes, "linear layer_norm"),
    (batch_norm, "batch_norm"),
    (select, "select"),
    (slice_axis, "slice"),
    (pad, "pad constant_pad_nd"),
    (flip, "flip"),
    (resample, "upsample_nearest2d upsample_nearest_exact2d upsample_bilinear2d"),
    (pixel_shuffle, "pixel_shuffle"),
    (convolution, "conv2d"),
    (pooling, "max_pool2d avg_pool2d"),
    (average_pool_3d, "avg_pool3d"),
    (adaptive_pooling, "adaptive_avg_pool2d"),
)

RULES: dict[str, Rule] = {name: rule for rule, names in _FAMILIES for name in names.split()}
"""Operator name -> its rule."""
