"""How each kind of operator is written into the program of a tile."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from pipeline.model.operators import op, spec_of
from pipeline.tiling.operators import Kind, Layout, Operator, arguments, name_of
from pipeline.tiling.program import TileProgram, Value, windows_of
from pipeline.tiling.regions import Interval, Region
from pipeline.tiling.resample import BILINEAR, Axis, axes_of
from pipeline.tiling.windows import WRITTEN_OUT, Fits, fit

_aten = torch.ops.aten

COPY_FLOPS = 30.0
"""Operations of a convolution, for each byte of its input, from which on a copy of that is cheaper. In halves of
VGG-16's rows, copies save 0.3 ms of 19.2 on the layers of 256 channels (37 to 40 operations a byte), 0.5 of 19.7 on
those of 512 (135 to 154), and nothing on those of 128 (10), on one core of this project's machine."""


def write_tile(
    program: TileProgram,
    members: Sequence[fx.Node],
    regions: Mapping[fx.Node, Region],
    wanted: Mapping[fx.Node, Region],
) -> dict[fx.Node, fx.Node]:
    """Write the operators of a stack for one tile.

    Args:
        program: empty.
        members: operators of the stack in order; those without a region are left out.
        regions: region of each operator's result and of each input, from the reverse tile calculation.
        wanted: the outputs, and their regions.

    Returns:
        The program's node for each of `wanted`.
    """
    inside = set(members)
    for node, region in regions.items():
        if node not in inside:
            program.add_input(node, region)
    for node in members:
        if node in regions:
            program.values[node] = _write(program, program.operators[node], regions[node])
    return {
        node: program.crop(program.values[node], region, program.operators[node].layout)
        for node, region in wanted.items()
    }


def _write(program: TileProgram, operator: Operator, region: Region) -> Value:
    loose = _loose(program, operator, region)
    return loose if loose is not None else _WRITERS[operator.kind](program, operator, region)


def _loose(program: TileProgram, operator: Operator, region: Region) -> Value | None:
    """An element-wise operator of one map, done on the whole buffer where that has something to drop."""
    if operator.kind is not Kind.PLAIN or len(operator.reads) != 1:
        return None
    read = operator.reads[0]
    source = program.values.get(read.node)
    aligned = operator.layout == program.operators[read.node].layout
    if source is None or source.exact or source.region != region or not aligned or read.needed(region) != region:
        return None
    return Value(program.same(operator, {read.node: source.node}), region, source.buffer)


def _layout(operator: Operator) -> Layout:
    if operator.layout is None:
        raise TypeError(f"{operator.node.name} makes no map")
    return operator.layout


def _fits(operator: Operator, region: Region, limits: Sequence[int | None], ceil: bool) -> Fits:
    """Symmetric paddings for rows and columns."""
    read = operator.reads[0]
    rows, columns = windows_of(read)
    needed = read.needed(region)
    down = fit(rows, region.rows, needed.rows, limits[0], ceil)
    across = fit(columns, region.columns, needed.columns, limits[1], ceil)
    return down, across


def _buffer(fits: Fits, region: Region) -> Region:
    down, across = fits
    rows, columns = region.rows, region.columns
    return Region(down.buffer(rows) if down else rows, across.buffer(columns) if across else columns)


def _paddings(fits: Fits) -> list[int]:
    return [each.padding if each else 0 for each in fits]


def _half_kernel(bound: Mapping[str, Any]) -> tuple[int, int]:
    """Most padding that a pooling takes."""
    kernel = bound["kernel_size"]
    return kernel[0] // 2, kernel[-1] // 2


def _feeds_sum(node: fx.Node) -> bool:
    """Whether the result goes into a residual sum, which a prepared convolution adds up itself if shapes agree."""
    return len(node.users) == 1 and op(next(iter(node.users))) == "add"


def _is_dear(operator: Operator, surplus: int, source: fx.Node) -> bool:
    """Whether outputs that are dropped again take longer than a copy of the input with padding at one end."""
    return operator.work * surplus > COPY_FLOPS * spec_of(source).nbytes


def _without_surplus(fits: Fits, region: Region) -> Fits:
    """Those of the axes on which nothing is to be dropped."""
    down, across = fits
    return (
        down if down and down.made == region.rows.size else None,
        across if across and across.made == region.columns.size else None,
    )


def _convolution(program: TileProgram, operator: Operator, region: Region) -> Value:
    node, read = operator.node, operator.reads[0]
    source, bound = program.fetch(read, region), arguments(node)
    fits = _fits(operator, region, (None, None), False)
    surplus = _buffer(fits, region).area - region.area
    if surplus and (_feeds_sum(node) or _is_dear(operator, surplus, source)):
        fits = _without_surplus(fits, region)
    source = program.pad_uneven(source, read, region, fits, 0.0)
    weight = program.other(bound["weight"], node)
    bias = None if bound["bias"] is None else program.other(bound["bias"], node)
    settings = (bound["stride"], _paddings(fits), bound["dilation"], bound["groups"])
    new = program.call(node.target, source, weight, bias, *settings, origin=node)
    return Value(new, region, _buffer(fits, region))


def _max_pool(program: TileProgram, operator: Operator, region: Region) -> Value:
    read, bound = operator.reads[0], arguments(operator.node)
    source, limits = program.fetch(read, region), _half_kernel(bound)
    ceil, fits = False, _fits(operator, region, limits, False)
    if None in fits and None not in (rounded_up := _fits(operator, region, limits, True)):
        ceil, fits = True, rounded_up
    source = program.pad_uneven(source, read, region, fits, float("-inf"))
    settings = (bound["kernel_size"], bound["stride"], _paddings(fits), bound["dilation"], ceil)
    new = program.call(_aten.max_pool2d.default, source, *settings, origin=operator.node)
    return Value(new, region, _buffer(fits, region))


def _average_pool(program: TileProgram, operator: Operator, region: Region) -> Value:
    node, read = operator.node, operator.reads[0]
    source, bound = program.fetch(read, region), arguments(node)
    divisors = average_divisors(operator, region)
    override, counts_padding = bound["divisor_override"], bound["count_include_pad"]
    # With padding counted, ATen divides by the full window wherever that lies in the padded piece.
    full = bound["kernel_size"][0] * bound["kernel_size"][-1]
    plain = bool(override) or not counts_padding or bool((divisors == full).all())
    fits = _fits(operator, region, _half_kernel(bound), False) if plain else WRITTEN_OUT
    sizes = (bound["kernel_size"], bound["stride"])
    if None not in fits:
        new = program.call(node.target, source, *sizes, _paddings(fits), False, counts_padding, override, origin=node)
        return Value(new, region, _buffer(fits, region))
    source = program.pad_uneven(source, read, region, WRITTEN_OUT, 0.0)
    total = program.call(node.target, source, *sizes, [0, 0], False, False, 1, origin=node)
    return Value(program.call(_aten.div.Tensor, total, program.table(divisors)), region, region)


def average_divisors(operator: Operator, region: Region) -> Tensor:
    """What average pooling divides by at each position of `region`, (rows, columns); as ATen counts it.

    With `count_include_pad` the window is counted as far as the padded map goes (in ceil mode it may reach further);
    otherwise as far as the map itself.
    """
    bound = arguments(operator.node)
    if bound["divisor_override"]:
        return torch.full((region.rows.size, region.columns.size), float(bound["divisor_override"]))
    counts = []
    for window, out in zip(windows_of(operator.reads[0]), (region.rows, region.columns), strict=True):
        margin = window.before if bound["count_include_pad"] else 0
        starts = torch.arange(out.start, out.stop) * window.stride - window.before
        stops = torch.clamp(starts + window.kernel, max=window.size + margin)
        counts.append((stops - torch.clamp(starts, min=-margin)).float())
    return counts[0][:, None] * counts[1][None, :]


def _plain(program: TileProgram, operator: Operator, region: Region) -> fx.Node:
    return program.same(operator, {read.node: program.fetch(read, region) for read in operator.reads})


def _reshape(program: TileProgram, operator: Operator, region: Region) -> fx.Node:
    node, layout = operator.node, _layout(operator)
    source = program.fetch(operator.reads[0], region)
    shape = list(spec_of(node).shape)
    if shape[0] == 1:
        shape[0] = -1  # the batch, which the captured graph does not name either
    shape[layout.row_axis], shape[layout.column_axis] = region.rows.size, region.columns.size
    target = _aten.expand.default if op(node) == "expand" else _aten.reshape.default
    return program.call(target, source, shape, origin=node)


def _pad(program: TileProgram, operator: Operator, region: Region) -> fx.Node:
    """Padding of other axes as captured; of rows and columns, what lies in the region."""
    read, layout, bound = operator.reads[0], _layout(operator), arguments(operator.node)
    source, needed = program.fetch(read, region), read.needed(region)
    rank, amounts = len(spec_of(operator.node).shape), list(bound["pad"])
    for axis in (layout.row_axis, layout.column_axis):
        place = 2 * (rank - 1 - axis)
        if place < len(amounts):
            amounts[place : place + 2] = [0, 0]
    value = bound["value"] or 0
    if any(amounts):
        source = program.call(_aten.constant_pad_nd.default, source, amounts, value, origin=operator.node)
    rows, columns = windows_of(read)
    spatial = (rows.padding(region.rows, needed.rows), columns.padding(region.columns, needed.columns))
    return program.pad(source, (layout.row_axis, layout.column_axis), spatial, value)


def _slice(program: TileProgram, operator: Operator, region: Region) -> fx.Node:
    """A strided slice along rows or columns; the crop to its first and last position is done by fetching."""
    source = program.fetch(operator.reads[0], region)
    bound = arguments(operator.node)
    if bound["step"] == 1:
        return source
    stop = spec_of(source).shape[bound["dim"]]
    return program.call(_aten.slice.Tensor, source, bound["dim"], 0, stop, bound["step"], origin=operator.node)


def _resample(program: TileProgram, operator: Operator, region: Region) -> fx.Node:
    read, layout = operator.reads[0], _layout(operator)
    axes = axes_of(operator.node, read.rows.size, read.columns.size, layout.height, layout.width)
    if axes is None:
        raise TypeError(f"{operator.node.name} is neither nearest nor bilinear")
    node, needed = program.fetch(read, region), read.needed(region)
    if all(axis.factor for axis in axes):
        return _whole_factors(program, operator, node, axes, region)
    node = _interpolate(program, node, 2, axes[0], (region.rows, needed.rows))
    return _interpolate(program, node, 3, axes[1], (region.columns, needed.columns))


def _whole_factors(
    program: TileProgram, operator: Operator, node: fx.Node, axes: tuple[Axis, Axis], region: Region
) -> fx.Node:
    """A piece of the map resizes as the map does, but for what its border adds; that is cropped."""
    held = operator.reads[0].needed(region)
    sizes = [held.rows.size * axes[0].factor, held.columns.size * axes[1].factor]
    if name_of(operator.node) in BILINEAR:
        node = program.call(_aten.upsample_bilinear2d.default, node, sizes, False, origin=operator.node)
    else:
        node = program.call(_aten.upsample_nearest2d.default, node, sizes, origin=operator.node)
    return _crop_grown(program, node, held, (axes[0].factor, axes[1].factor), region)


def _crop_grown(program: TileProgram, node: fx.Node, held: Region, factors: tuple[int, int], region: Region) -> fx.Node:
    rows = Interval(held.rows.start * factors[0], held.rows.stop * factors[0])
    columns = Interval(held.columns.start * factors[1], held.columns.stop * factors[1])
    return program.narrow(program.narrow(node, 2, rows, region.rows), 3, columns, region.columns)


def _interpolate(
    program: TileProgram, node: fx.Node, number: int, axis: Axis, spans: tuple[Interval, Interval]
) -> fx.Node:
    """Resize one axis by its table; `spans` are the output's interval and the one that the tensor holds."""
    lower, upper, weight = axis.tables(*spans)
    low = program.call(_aten.index_select.default, node, number, program.table(lower))
    if not axis.weight:
        return low
    high = program.call(_aten.index_select.default, node, number, program.table(upper))
    shape, dtype = (-1, 1) if number == 2 else (-1,), getattr(torch, spec_of(node).dtype)
    return program.call(_aten.lerp.Tensor, low, high, program.table(weight.to(dtype).view(shape)))


def _pixel_shuffle(program: TileProgram, operator: Operator, region: Region) -> fx.Node:
    read, factor = operator.reads[0], int(arguments(operator.node)["upscale_factor"])
    node = program.same(operator, {read.node: program.fetch(read, region)})
    return _crop_grown(program, node, read.needed(region), (factor, factor), region)


def _exactly(
    writer: Callable[[TileProgram, Operator, Region], fx.Node],
) -> Callable[[TileProgram, Operator, Region], Value]:
    """Adapt a writer whose result is the region, with nothing to drop."""
    return lambda program, operator, region: Value(writer(program, operator, region), region, region)


_WRITERS: dict[Kind, Callable[[TileProgram, Operator, Region], Value]] = {
    Kind.CONVOLUTION: _convolution,
    Kind.MAX_POOL: _max_pool,
    Kind.AVERAGE_POOL: _average_pool,
    Kind.PLAIN: _exactly(_plain),
    Kind.RESHAPE: _exactly(_reshape),
    Kind.PAD: _exactly(_pad),
    Kind.SLICE: _exactly(_slice),
    Kind.FLIP: _exactly(_plain),
    Kind.RESAMPLE: _exactly(_resample),
    Kind.PIXEL_SHUFFLE: _exactly(_pixel_shuffle),
}
