"""From an exported program to a flat graph of functional operators with folded batch norms.

The result has one placeholder (`input`), `get_attr` nodes for weights, `call_function` nodes with every positional
argument written out, and an output node with a tuple. Views are written as `reshape`, which also takes
channels-last tensors, and never name the batch size.
"""

from __future__ import annotations

import operator
import re
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.fx import Node

from pipeline.errors import CaptureError
from pipeline.model import functional, operators
from pipeline.model.graph import INPUT, TensorSpec
from pipeline.model.operators import op, spec_of

_aten = torch.ops.aten
_IDENTITIES = frozenset({"clone", "alias", "detach", "contiguous", "lift_fresh_copy", "dropout"})
_IDENTITIES_OF_SAME_SHAPE = frozenset("view reshape _unsafe_view expand slice squeeze unsqueeze flatten narrow".split())
_CASTS = frozenset({"to", "_to_copy"})
_RESHAPES = frozenset({"view", "_unsafe_view", "reshape", "flatten"})
_CHECKS = frozenset({"_assert_async", "_assert_scalar", "_assert_tensor_metadata", "sym_constrain_range_for_size"})
_NORM_FOLDS_INTO = {"conv1d": 0, "conv2d": 0, "conv3d": 0, "conv_transpose2d": 1, "linear": 0}
"""Operators that take a batch norm into their weights, and the weight's axis of output channels."""


@dataclass
class FlatGraph:
    """A graph under construction and the weights that its `get_attr` nodes name."""

    graph: fx.Graph = field(default_factory=fx.Graph)
    weights: dict[str, Tensor] = field(default_factory=dict)

    def constant(self, wish: str, value: Tensor, path: str = "") -> Node:
        """Add a weight and the node that reads it; `wish` is made unique."""
        name = wish = re.sub(r"\W", "_", wish)
        serial = 2
        while name in self.weights:
            name, serial = f"{wish}_{serial}", serial + 1
        self.weights[name] = value.detach()
        node = self.graph.create_node("get_attr", name, name=name)
        node.meta = {
            "spec": TensorSpec(node.name, tuple(value.shape), operators.dtype_name(value.dtype)),
            "path": path,
        }
        return node


def flatten(program: ExportedProgram, name: str) -> FlatGraph:
    """Lift the weights, drop what computes nothing, and write arguments out.

    Args:
        program: one that `functional.is_simple`, or has gone through `run_decompositions`.
        name: the model's name, for messages.

    Raises:
        CaptureError: an operator that a frame's graph cannot hold, or a signature that is not one tensor in.
    """
    return _Flattener(program, name).run()


class _Flattener:
    def __init__(self, program: ExportedProgram, name: str) -> None:
        self.program, self.name = program, name
        self.flat = FlatGraph()
        self.env: dict[Node, Any] = {}
        self.overwritten: dict[Node, list[Node]] = {}

    def run(self) -> FlatGraph:
        self._check_signature()
        for node in self.program.graph.nodes:
            if node.op == "placeholder":
                self._placeholder(node)
            elif node.op == "call_function":
                self._call(node)
            elif node.op == "output":
                self._output(node)
        self.flat.graph.eliminate_dead_code()
        return self.flat

    def _check_signature(self) -> None:
        signature = self.program.graph_signature
        if len(signature.user_inputs) != 1:
            raise CaptureError(
                f"model {self.name}",
                f"takes {len(signature.user_inputs)} inputs",
                "wrap it so that it takes one picture",
            )
        changed = [*signature.buffers_to_mutate.values(), *signature.user_inputs_to_mutate.values()]
        if changed:
            raise CaptureError(
                f"model {self.name}", f"writes to {changed[0]} while it runs", "capture it in eval mode, without state"
            )

    def _placeholder(self, node: Node) -> None:
        signature = self.program.graph_signature
        if node.name in signature.user_inputs:
            new = self.flat.graph.placeholder(INPUT)
            new.name = INPUT  # fx avoids the names of Python's builtins; this one is the contract's
            new.meta = {"spec": _spec(INPUT, node.meta["val"]), "path": ""}
            self.env[node] = new
            return
        kinds = (
            signature.inputs_to_parameters,
            signature.inputs_to_buffers,
            signature.inputs_to_lifted_tensor_constants,
        )
        path = next((kind[node.name] for kind in kinds if node.name in kind), None)
        if path is None:
            raise CaptureError(f"model {self.name}", f"holds {node.name}, which is not a tensor", "keep tensors only")
        state = self.program.state_dict
        if node.users:
            value = state[path] if path in state else self.program.constants[path]
            self.env[node] = self.flat.constant(path, value, path.rpartition(".")[0])

    def _call(self, node: Node) -> None:
        name = op(node)
        self._check_operator(node)
        if name in _CHECKS:
            return
        if name == "getitem" and op(node.args[0]) == "_native_batch_norm_legit_no_training":  # type: ignore[arg-type]
            self.env[node] = self.env[node.args[0]] if node.args[1] == 0 else None  # type: ignore[index]
            return
        if self._is_identity(node):
            self.env[node] = self.env[node.all_input_nodes[0]]
            return
        target, args, kwargs = self._rewrite(node)
        new = self.flat.graph.call_function(target, *fx.node.map_arg((tuple(args), kwargs), self.env.__getitem__))
        path, own = _module_path(node)
        new.meta = {"path": path, "own_module": own}
        value = node.meta["val"]
        if name == "_native_batch_norm_legit_no_training":
            value = value[0]
        if isinstance(value, Tensor):
            new.meta["spec"] = _spec(new.name, value)
        self.env[node] = new
        if functional.is_mutable(node):
            # Whoever reads the overwritten tensor from here on reads the result.
            names = self.overwritten.setdefault(node.args[0], [node.args[0]])  # type: ignore[arg-type, list-item]
            names.append(node)
            self.overwritten[node] = names
            self.env.update(dict.fromkeys(names, new))

    def _check_operator(self, node: Node) -> None:
        where = f"operator {op(node)} in {_module_path(node)[0] or 'the model'}"
        target = node.target
        if isinstance(target, torch._ops.HigherOrderOperator):
            raise CaptureError(where, "control flow inside the network", "write it with torch.where, or fix the branch")
        if target is operator.getitem:
            return
        if not isinstance(target, torch._ops.OpOverload):
            raise CaptureError(where, "computes with sizes of tensors", "give the model sizes that do not change")
        training = op(node) == "batch_norm" and bool(node.args[5])
        if training or (functional.is_mutable(node) and functional.counterpart(node) is None):
            raise CaptureError(where, "changes a tensor in place", "export the model in eval mode")
        if torch.Tag.nondeterministic_seeded in target.tags and op(node) not in _IDENTITIES:
            raise CaptureError(where, "draws random numbers", "export the model in eval mode, without sampling")
        values = node.meta.get("val")
        for value in values if isinstance(values, list | tuple) else [values]:
            sizes = value.shape if isinstance(value, Tensor) else [value]
            if any(isinstance(size, torch.SymInt | torch.SymBool | torch.SymFloat) for size in sizes):
                raise CaptureError(where, "its shape depends on the picture", "capture a part without it")

    def _is_identity(self, node: Node) -> bool:
        name = op(node)
        if name in _IDENTITIES:
            return True
        if name not in _IDENTITIES_OF_SAME_SHAPE and name not in _CASTS:
            return False
        before, after = node.all_input_nodes[0].meta["val"], node.meta["val"]
        if before.dtype != after.dtype:
            return False
        return name in _CASTS or before.shape == after.shape

    def _rewrite(self, node: Node) -> tuple[Any, list[Any], dict[str, Any]]:
        """Target and arguments of the new node: defaults written out, views and casts in one spelling."""
        name, value = op(node), node.meta["val"]
        args, kwargs = _all_arguments(node)
        if functional.is_mutable(node):
            return functional.counterpart(node), args, kwargs
        if name in _RESHAPES:
            before = node.all_input_nodes[0].meta["val"]
            shape = list(value.shape)
            # The batch is 1 here and anything later; -1 leaves its size to the tensor.
            agnostic = before.shape[:1] == (1,) and shape[:1] == [1]
            return _aten.reshape.default, [args[0], [-1, *shape[1:]] if agnostic else shape], {}
        if name == "expand" and value.shape[0] == 1 == node.all_input_nodes[0].meta["val"].shape[0]:
            return _aten.expand.default, [args[0], [-1, *value.shape[1:]]], {}
        if name in _CASTS:
            return _aten.to.dtype, [args[0], value.dtype, False, False, None], {}
        if name == "_native_batch_norm_legit_no_training":
            return _aten.batch_norm.default, [*args[:5], False, args[5], args[6], False], {}
        if name == "conv2d" and isinstance(args[4], str):
            return self._padded_convolution(args)
        return node.target, args, kwargs

    def _padded_convolution(self, args: list[Any]) -> tuple[Any, list[Any], dict[str, Any]]:
        """`padding="same"` or `"valid"` in numbers, with a pad operator before it where the sides differ."""
        kernel = args[1].meta["val"].shape[2:]
        dilation = [*args[5]] * (2 // len(args[5]))
        total = [d * (k - 1) if args[4] == "same" else 0 for d, k in zip(dilation, kernel, strict=True)]
        source = self.env[args[0]]
        if any(t % 2 for t in total):
            (top, bottom), (left, right) = ((t // 2, t - t // 2) for t in total)
            spec = spec_of(source)
            height, width = spec.shape[2] + total[0], spec.shape[3] + total[1]
            padded = self.flat.graph.call_function(
                _aten.constant_pad_nd.default, (source, [left, right, top, bottom], 0)
            )
            padded.meta = {
                "path": "",
                "own_module": False,
                "spec": TensorSpec(padded.name, (*spec.shape[:2], height, width), spec.dtype),
            }
            self.env[padded] = padded
            args = [padded, *args[1:]]
            total = [0, 0]
        return _aten.conv2d.default, [*args[:4], [t // 2 for t in total], *args[5:]], {}

    def _output(self, node: Node) -> None:
        names = self.program.graph_signature.user_outputs
        sources = {source.name: source for source in node.all_input_nodes}
        if not names or any(name not in sources for name in names):
            raise CaptureError(f"model {self.name}", "returns something that is not a tensor", "return tensors only")
        outputs = tuple(self.env[sources[name]] for name in names if isinstance(name, str))
        if any(source.op == "get_attr" for source in outputs):
            raise CaptureError(f"model {self.name}", "returns a constant", "return what is computed from the picture")
        self.flat.graph.output(tuple(dict.fromkeys(outputs)))


def fold_batch_norms(flat: FlatGraph) -> None:
    """Fold each batch norm into the convolution or linear layer before it, where that one feeds nothing else.

    Computed in float64 and rounded once. Others (pre-activation networks) stay, as per-channel affine operators.
    """
    for norm in [node for node in flat.graph.nodes if op(node) == "batch_norm"]:
        layer = norm.args[0]
        if op(layer) in _NORM_FOLDS_INTO and len(layer.users) == 1:
            _fold(flat, layer, norm)
    flat.graph.eliminate_dead_code()
    used = {node.target for node in flat.graph.nodes if node.op == "get_attr"}
    for name in set(flat.weights) - used:
        del flat.weights[name]


def _fold(flat: FlatGraph, layer: Node, norm: Node) -> None:
    weight, bias = (_value(flat, layer.args[position]) for position in (1, 2))
    gamma, beta, mean, var = (_value(flat, argument) for argument in norm.args[1:5])
    if weight is None or mean is None or var is None:
        return
    scale = (var + float(str(norm.args[7]))).rsqrt() * (1.0 if gamma is None else gamma)
    shift = (-mean if bias is None else bias - mean) * scale + (0.0 if beta is None else beta)
    axis, groups = _NORM_FOLDS_INTO[op(layer)], 1
    shape = [1] * weight.dim()
    if axis == 1:  # a transposed convolution's weight is (in, out / groups, ...)
        groups = int(str(layer.args[6]))
        grouped = weight.reshape(groups, -1, *weight.shape[1:]) * scale.view(groups, 1, -1, *shape[2:])
        folded = grouped.flatten(0, 1)
    else:
        shape[0] = -1
        folded = weight * scale.view(shape)
    original = layer.args[1]
    dtype = spec_of(original).dtype  # type: ignore[arg-type]
    path = str(original.meta["path"])  # type: ignore[union-attr]
    with flat.graph.inserting_before(layer):
        new_weight = flat.constant(f"{path}.folded_weight", folded.to(getattr(torch, dtype)), path)
        new_bias = flat.constant(f"{path}.folded_bias", shift.to(getattr(torch, dtype)), path)
    layer.args = (layer.args[0], new_weight, new_bias, *layer.args[3:])
    norm.replace_all_uses_with(layer)
    flat.graph.erase_node(norm)


def fuse_silu(flat: FlatGraph) -> None:
    """Write `x * sigmoid(x)` as one `silu`: the same value, one pass over memory instead of two."""
    for gate in [node for node in flat.graph.nodes if op(node) == "sigmoid"]:
        source, users = gate.args[0], list(gate.users)
        if len(users) == 1 and op(users[0]) == "mul" and set(users[0].args[:2]) == {gate, source}:
            product = users[0]
            product.target, product.args = _aten.silu.default, (source,)
    flat.graph.eliminate_dead_code()


def _value(flat: FlatGraph, node: Any) -> Tensor | None:
    """A weight in float64; None where it is absent or computed."""
    if not isinstance(node, Node) or node.op != "get_attr":
        return None
    return flat.weights[str(node.target)].double()


def _all_arguments(node: Node) -> tuple[list[Any], dict[str, Any]]:
    """Arguments in the operator's order with its defaults, and the keyword-only ones that differ from theirs."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return list(node.args), dict(node.kwargs)
    args, kwargs = [], dict(node.kwargs)
    for position, argument in enumerate(node.target._schema.arguments):
        if argument.kwarg_only:
            if kwargs.get(argument.name, argument.default_value) == argument.default_value:
                kwargs.pop(argument.name, None)
        elif position < len(node.args):
            args.append(node.args[position])
        else:
            args.append(kwargs.pop(argument.name, argument.default_value))
    return args, kwargs


def _spec(name: str, value: Tensor) -> TensorSpec:
    return TensorSpec(name, tuple(int(size) for size in value.shape), operators.dtype_name(value.dtype))


def _module_path(node: Node) -> tuple[str, bool]:
    """Path of the innermost module that ran the operator, and whether it is a layer of torch.nn itself."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    if not stack:
        return "", False
    path, kind = stack[-1]
    own = str(kind).startswith("torch.nn.modules") and "container" not in str(kind)
    return re.sub(r"@\d+", "", str(path)), own
