"""How a segment's operators are run: the memory layout of activations and weights, and which calls do the work.

Three layouts compute the same function. `contiguous` and `channels_last` call ATen with weights in that memory
format; `onednn` (CPU) also hands convolutions weights that were reordered once for their kernel, and lets the
kernel apply the activation behind the convolution, and a residual sum, while its result is still in cache.
Which is fastest depends on processor, threads and network, so it is measured (`fastest`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx import Node

from pipeline.model.operators import REARRANGING, op, spec_of

_aten = torch.ops.aten

FUSED_ACTIVATIONS: dict[str, Callable[[Node], tuple[str, list[float]]]] = {
    "relu": lambda node: ("relu", []),
    "sigmoid": lambda node: ("sigmoid", []),
    "tanh": lambda node: ("tanh", []),
    "silu": lambda node: ("swish", []),
    "hardswish": lambda node: ("hardswish", []),
    "hardtanh": lambda node: ("hardtanh", [_number(node.args[1]), _number(node.args[2])]),
    "leaky_relu": lambda node: ("leaky_relu", [_number(node.args[1])]),
}
"""Activations that oneDNN's convolution applies by itself, with their name and numbers there."""

_IN_PLACE = {
    "relu": _aten.relu_.default,
    "hardtanh": _aten.hardtanh_.default,
    "sigmoid": _aten.sigmoid_.default,
    "silu": _aten.silu_.default,
    "leaky_relu": _aten.leaky_relu_.default,
    "hardswish": _aten.hardswish_.default,
}
_VIEWS = REARRANGING | {"slice", "detach", "alias"}
_FRESH = frozenset("conv2d linear add mul cat batch_norm max_pool2d avg_pool2d relu hardtanh silu sigmoid".split())
"""Operators whose result is new memory, which a following activation may overwrite."""


class Layout(StrEnum):
    """See the module's docstring."""

    CONTIGUOUS = "contiguous"
    CHANNELS_LAST = "channels_last"
    ONEDNN = "onednn"

    @property
    def memory_format(self) -> torch.memory_format:
        """Of four-dimensional activations and weights."""
        return torch.contiguous_format if self is Layout.CONTIGUOUS else torch.channels_last


def candidates(device: torch.device) -> tuple[Layout, ...]:
    """Layouts that this build of torch can run on `device`."""
    onednn = torch._C._has_mkldnn and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
    if device.type == "cpu" and onednn:
        return (Layout.CONTIGUOUS, Layout.CHANNELS_LAST, Layout.ONEDNN)
    return (Layout.CONTIGUOUS, Layout.CHANNELS_LAST)


def fastest(runs: dict[Layout, Callable[[], object]], budget_s: float = 0.6, most: int = 7) -> Layout:
    """Run the alternatives in turn, and return that of the least time: noise from other processes only adds.

    Args:
        runs: a warmed function for each layout.
        budget_s: no new round starts after this much time; there is always one.
        most: rounds at most.
    """
    times: dict[Layout, list[float]] = {layout: [] for layout in runs}
    begin = time.perf_counter()
    for _ in range(most):
        for layout, run in runs.items():
            start = time.perf_counter()
            run()
            times[layout].append(time.perf_counter() - start)
        if time.perf_counter() - begin > budget_s:
            break
    return min(runs, key=lambda layout: min(times[layout]))


@dataclass
class Lowering:
    """Writes operators into the graph of a segment, in one layout."""

    layout: Layout
    graph: fx.Graph
    weight: Callable[[Node, str], tuple[str, Any]]
    """Gives the attribute name and prepared tensor for a `get_attr` node and a purpose."""
    constants: dict[str, Any]
    """Attributes of the segment's module; filled here."""
    kept: frozenset[Node]
    """Nodes of the model's graph whose value leaves the segment."""

    def __post_init__(self) -> None:
        self.env: dict[Node, Node] = {}
        self.done: set[Node] = set()
        self.readers: dict[Node, int] = {}

    def emit_all(self, nodes: list[Node]) -> None:
        """Write `nodes`, whose inputs from outside are already in `env`."""
        self.inside = set(nodes)
        self.order = {node: place for place, node in enumerate(nodes)}
        for node in nodes:
            if node not in self.done and not self._deferred(node):
                self._emit(node)

    def _emit(self, node: Node) -> None:
        if self.layout is Layout.ONEDNN and op(node) == "conv2d" and self._packs(node):
            self._convolution(node, None)
        elif self.layout is Layout.ONEDNN and op(node) == "add" and (layer := self._summed_convolution(node)):
            self._convolution(layer, node)
        else:
            target = _IN_PLACE[op(node)] if self._may_overwrite(node) else node.target
            args, kwargs = fx.node.map_arg((node.args, dict(node.kwargs)), self._value)
            self.env[node] = self.graph.create_node("call_function", target, args, kwargs, node.name)

    def _value(self, node: Node) -> Node:
        if node.op != "get_attr":
            return self.env[node]
        return self._constant(node, "plain")

    def _constant(self, node: Node, purpose: str) -> Node:
        name, value = self.weight(node, purpose)
        self.constants[name] = value
        return self.graph.create_node("get_attr", name)

    def _sole_reader(self, node: Node) -> Node | None:
        """The one reader of a value that stays inside of the segment."""
        if node in self.kept or len(node.users) != 1:
            return None
        reader = next(iter(node.users))
        return reader if reader in self.inside else None

    def _may_overwrite(self, node: Node) -> bool:
        source = node.args[0]
        return (
            op(node) in _IN_PLACE
            and isinstance(source, Node)
            and source in self.inside
            and op(source) in _FRESH
            and self._sole_reader(source) is node
        )

    def _packs(self, node: Node) -> bool:
        """Whether the prepared kernel can stand for this convolution."""
        weight = node.args[1]
        return isinstance(weight, Node) and weight.op == "get_attr" and spec_of(node).dtype == "float32"

    def _summed_convolution(self, node: Node) -> Node | None:
        """The convolution that can add its result onto the other operand of the sum `node`, in place."""
        first, second = node.args[0], node.args[1]
        if node.kwargs or not isinstance(first, Node) or not isinstance(second, Node) or first is second:
            return None
        for layer, other in ((second, first), (first, second)):
            if (
                op(layer) == "conv2d"
                and layer in self.inside
                and self._packs(layer)
                and self._sole_reader(layer) is node
                and other in self.inside
                and self._last_reader(other, node)
                and spec_of(other).shape == spec_of(layer).shape == spec_of(node).shape
                and spec_of(other).dtype == "float32"
            ):
                return layer
        return None

    def _last_reader(self, other: Node, node: Node) -> bool:
        """Whether `node` is the last to read the memory of `other`, so that it may overwrite it."""
        if other in self.kept or op(other) not in _FRESH:
            return False
        return all(user is node or self._reads_before(user, node) for user in other.users)

    def _reads_before(self, user: Node, node: Node) -> bool:
        """Whether `user` is done with its inputs when `node` runs. Views never are; a convolution that a later sum
        may take along runs where that sum is (and the one that `node` takes along runs with it)."""
        if user not in self.order or op(user) in _VIEWS:
            return False
        reader = self._sole_reader(user)
        runs = reader if reader is not None and op(reader) == "add" else user
        return self.order[runs] < self.order[node]

    def _deferred(self, node: Node) -> bool:
        """Whether a convolution is computed only where its sum is."""
        if self.layout is not Layout.ONEDNN or op(node) != "conv2d":
            return False
        reader = self._sole_reader(node)
        return reader is not None and op(reader) == "add" and self._summed_convolution(reader) is node

    def _convolution(self, node: Node, total: Node | None) -> None:
        """A convolution, the sum behind it, and the activation behind that, in one call."""
        last = total or node
        activation = self._sole_reader(last)
        if activation is not None and op(activation) in FUSED_ACTIVATIONS:
            kind, numbers = FUSED_ACTIVATIONS[op(activation)](activation)
            if total is not None and kind != "relu":
                activation = None
        else:
            activation = None
        source, _, bias, stride, padding, dilation, groups = node.args
        common = (
            self._value(source),  # type: ignore[arg-type]
            self._constant(node.args[1], packing(node)),  # type: ignore[arg-type]
            None if bias is None else self._value(bias),  # type: ignore[arg-type]
            _pair(padding), _pair(stride), _pair(dilation), groups,
        )  # fmt: skip
        unary = (kind, numbers, "") if activation is not None else None
        target = torch.ops.mkldnn._convolution_pointwise.default
        args: tuple[Any, ...] = (*common, *(unary or ("none", [], "")))
        if total is not None:
            other = total.args[0] if total.args[1] is node else total.args[1]
            target = torch.ops.mkldnn._convolution_pointwise_.binary
            args = (self._value(other), *common, "add", 1.0, *(unary or (None, [], None)))  # type: ignore[arg-type]
        new = self.graph.create_node("call_function", target, args, {}, (activation or last).name)
        for covered in (node, total, activation):
            if covered is not None:
                self.env[covered] = new
                self.done.add(covered)


def prepare(weight: Tensor, purpose: str, layout: Layout, device: torch.device) -> Tensor:
    """A weight as `layout` wants it; `purpose` is `plain` or a convolution's geometry (see `packing`)."""
    weight = weight.to(device)
    if purpose != "plain":
        padding, stride, dilation, groups, size = (
            [int(number) for number in part.split(",")] for part in purpose.split(";")
        )
        packed: Tensor = torch.ops.mkldnn._reorder_convolution_weight(
            weight.contiguous(memory_format=torch.channels_last), padding, stride, dilation, groups[0], size
        )
        return packed
    if weight.dim() == 4 and weight.shape[1:] != (1, 1, 1):
        return weight.contiguous(memory_format=layout.memory_format)
    return weight


def form_of(packed: Tensor) -> bytes:
    """How a prepared convolution weight lies in memory: a kernel that wants another form rearranges it at each call."""
    found: list[int] = torch.ops.mkldnn._get_mkldnn_serialized_md(packed).tolist()
    return bytes(found)


def packing(node: Node) -> str:
    """The geometry that decides a kernel's weight layout, as a key."""
    stride, padding, dilation, groups = node.args[3:7]
    size = spec_of(node.args[0]).shape  # type: ignore[arg-type]
    parts = (_pair(padding), _pair(stride), _pair(dilation), [groups], size)
    return ";".join(",".join(str(number) for number in part) for part in parts)


def _pair(value: Any) -> list[int]:
    return [int(value[0]), int(value[-1])]


def _number(value: Any) -> float:
    return float(value)
