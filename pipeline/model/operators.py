"""What this project knows of each ATen operator: its kind, arguments, cost, and how it treats signs.

Any functional operator can be captured and run; the tables here decide only how it is grouped, counted and shown.
"""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

from pipeline.model.graph import TensorSpec

Shape = tuple[int, ...]

ELEMENTWISE = frozenset(
    "relu relu6 hardtanh clamp clamp_min clamp_max sigmoid silu hardsigmoid hardswish tanh gelu elu leaky_relu prelu "
    "softplus mish selu celu exp log sqrt rsqrt square abs neg reciprocal pow add sub rsub mul div remainder maximum "
    "minimum batch_norm to _to_copy round floor ceil where eq ne lt le gt ge logical_not addcmul".split()
)
"""Operators whose output element needs one element of each input at the same place (or a constant)."""

REARRANGING = frozenset(
    "reshape view flatten squeeze unsqueeze permute transpose t split split_with_sizes chunk unbind getitem flip "
    "pixel_shuffle pixel_unshuffle expand narrow select".split()
)
"""Operators that only move elements: they cost next to nothing and join the block before them."""

CHANNEL_LOCAL = frozenset({"pad", "constant_pad_nd", "avg_pool3d"})
"""Inside local response normalisation these work along channels; a closure with one of them is an `lrn` block."""

KINDS = {
    "conv1d": "conv", "conv2d": "conv", "conv3d": "conv", "convolution": "conv", "conv_transpose2d": "conv_transpose",
    "linear": "linear", "addmm": "linear", "matmul": "matmul", "mm": "matmul", "bmm": "matmul",
    "max_pool2d": "max_pool", "avg_pool2d": "avg_pool", "avg_pool3d": "avg_pool",
    "adaptive_avg_pool2d": "global_pool", "adaptive_max_pool2d": "global_pool", "mean": "global_pool",
    "amax": "global_pool", "cat": "concat", "add": "add", "sub": "add", "mul": "mul", "div": "mul",
    "softmax": "softmax", "log_softmax": "softmax", "layer_norm": "norm", "group_norm": "norm", "batch_norm": "norm",
    "upsample_nearest2d": "upsample", "upsample_bilinear2d": "upsample", "constant_pad_nd": "pad", "pad": "pad",
    "split": "split", "split_with_sizes": "split", "chunk": "split", "getitem": "split", "slice": "slice",
}  # fmt: skip
"""Kind of a block by its main operator; `activation` for other element-wise ones, else the operator's name."""

_KEEPS_UNSIGNED = frozenset(
    "max_pool2d avg_pool2d avg_pool3d adaptive_avg_pool2d adaptive_max_pool2d mean amax cat add mul div maximum "
    "upsample_nearest2d upsample_bilinear2d pad constant_pad_nd slice sqrt pow to _to_copy getitem".split()
) | (REARRANGING - {"getitem"})
_MAKES_UNSIGNED = frozenset("relu relu6 sigmoid hardsigmoid softmax exp square abs softplus".split())
_WEIGHTED = frozenset({"conv1d", "conv2d", "conv3d", "conv_transpose2d"})


def op(node: Node) -> str:
    """The operator's bare name, such as `conv2d`; `getitem` for element access; empty for inputs and weights."""
    if node.op != "call_function":
        return ""
    if node.target is operator.getitem:
        return "getitem"
    packet = getattr(node.target, "overloadpacket", None)
    return str(packet.__name__ if packet is not None else getattr(node.target, "__name__", node.target))


def is_constant(node: Node) -> bool:
    """Whether the node is a weight or another tensor known before any frame."""
    return node.op == "get_attr"


def tensor_inputs(node: Node) -> list[Node]:
    """The operator's inputs that are computed from the frame, without repeats."""
    return [source for source in node.all_input_nodes if not is_constant(source)]


def kind_of(node: Node) -> str:
    """The block kind that this operator gives as a block's main one."""
    name = op(node)
    if name in ELEMENTWISE and len(tensor_inputs(node)) < 2 and name != "batch_norm":
        return "activation"
    return KINDS.get(name, "view" if name in REARRANGING else name)


@dataclass(frozen=True)
class Window:
    """Geometry of a convolution or pooling, one value per spatial axis."""

    kernel: Shape
    stride: Shape
    padding: Shape
    dilation: Shape
    ceil_mode: bool = False
    count_include_pad: bool = True


def window(node: Node) -> Window | None:
    """The sliding window of a convolution or pooling over fixed windows; None for any other operator."""
    name, args = op(node), node.args
    if name in ("conv1d", "conv2d", "conv3d"):
        axes = int(name[4])
        kernel = tuple(spec_of(_node(args[1])).shape[2:])
        return Window(kernel, _axes(args[3], axes), _axes(args[4], axes), _axes(args[5], axes))
    if name == "max_pool2d":
        kernel = _axes(args[1], 2)
        stride = _axes(args[2], 2) if args[2] else kernel
        return Window(kernel, stride, _axes(args[3], 2), _axes(args[4], 2), bool(args[5]))
    if name == "avg_pool2d":
        kernel = _axes(args[1], 2)
        stride = _axes(args[2], 2) if args[2] else kernel
        return Window(kernel, stride, _axes(args[3], 2), (1, 1), bool(args[4]), bool(args[5]))
    return None


def attributes(node: Node) -> dict[str, int | float | str | tuple[int, ...]]:
    """Layer configuration of a block's main operator, for regression and display; sizes in elements."""
    found: dict[str, int | float | str | tuple[int, ...]] = {"operator": op(node)}
    sources = tensor_inputs(node)
    if sources and "spec" in sources[0].meta:
        found |= _sizes("in_", spec_of(sources[0]).shape)
    if "spec" in node.meta:
        found |= _sizes("out_", spec_of(node).shape)
    geometry = window(node)
    if geometry is not None:
        found |= {
            "kernel": geometry.kernel, "stride": geometry.stride, "padding": geometry.padding,
            "dilation": geometry.dilation, "ceil_mode": int(geometry.ceil_mode),
            "count_include_pad": int(geometry.count_include_pad),
        }  # fmt: skip
    if op(node) in ("conv1d", "conv2d", "conv3d"):
        found["groups"] = int(str(node.args[6]))
    return found


def flops(node: Node) -> int:
    """Floating-point operations of one frame; a multiply-add counts as two, moving elements as none."""
    name = op(node)
    if "spec" not in node.meta or name in REARRANGING or name in ("cat", "slice", "pad", "constant_pad_nd"):
        return 0
    out = spec_of(node)
    if name in _WEIGHTED or name == "linear":
        weight = spec_of(_node(node.args[1]))
        pixels = spec_of(_node(node.args[0])) if name == "conv_transpose2d" else out
        return 2 * weight.numel // weight.shape[0] * pixels.numel
    if name in ("matmul", "mm", "bmm", "addmm"):
        return 2 * out.numel * spec_of(tensor_inputs(node)[0]).shape[-1]
    geometry = window(node)
    if geometry is not None:
        return math.prod(geometry.kernel) * out.numel
    if name in ELEMENTWISE:
        return out.numel * (2 if name == "batch_norm" else 1)
    return max([out.numel, *(spec_of(source).numel for source in tensor_inputs(node) if "spec" in source.meta)])


def is_unsigned(node: Node, unsigned: set[Node]) -> bool:
    """Whether no element of the output can be negative, given the nodes of which that is known."""
    name, args = op(node), node.args
    if name in _MAKES_UNSIGNED:
        return True
    if name in ("hardtanh", "clamp", "clamp_min"):
        return isinstance(args[1], int | float) and args[1] >= 0
    scalars = [value for value in args[1:] if isinstance(value, float)] if name in ("add", "mul", "div") else []
    sources = node.all_input_nodes
    return name in _KEEPS_UNSIGNED and all(source in unsigned for source in sources) and min(scalars, default=0.0) >= 0


def spec_of(node: Node) -> TensorSpec:
    """What is known of the node's output; the spec's name is the node's."""
    spec: TensorSpec = node.meta["spec"]
    return spec


def dtype_name(dtype: torch.dtype) -> str:
    """`float32` for torch.float32, as `TensorSpec` has it."""
    return str(dtype).removeprefix("torch.")


def _node(value: Any) -> Node:
    if not isinstance(value, Node):
        raise TypeError(f"{value!r} is not a graph node")
    return value


def _axes(value: Any, axes: int) -> Shape:
    values = tuple(value) if isinstance(value, list | tuple) else (value,)
    return tuple(int(v) for v in (values * axes if len(values) == 1 else values))


def _sizes(prefix: str, shape: Shape) -> dict[str, int]:
    labels = ("channels", "height", "width") if len(shape) == 4 else ("features",)
    return {prefix + label: size for label, size in zip(labels, shape[1:] if len(shape) > 1 else shape, strict=False)}
