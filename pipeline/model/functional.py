"""In-place operators of an exported program, turned into the ones that return a new tensor.

`ExportedProgram.run_decompositions` does this for any program by tracing it a second time, which takes longer than
the first. Most networks write in place only in the simplest way (`ReLU(inplace=True)` behind a convolution);
for those it is enough to let later readers of the overwritten tensor read the result.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from pipeline.model.operators import op

_OWN_MEMORY = frozenset(
    "conv1d conv2d conv3d conv_transpose2d linear batch_norm max_pool2d avg_pool2d adaptive_avg_pool2d mean cat "
    "relu relu6 hardtanh sigmoid silu hardsigmoid hardswish tanh leaky_relu elu gelu add sub mul div softmax".split()
)
"""Operators whose result never shares memory with an input."""


def is_mutable(node: Node) -> bool:
    """Whether the operator writes to one of its inputs."""
    schema = getattr(node.target, "_schema", None)
    return node.op == "call_function" and schema is not None and bool(schema.is_mutable)


def counterpart(node: Node) -> Any:
    """The operator that returns what this in-place one writes; None where it is not as simple as that."""
    name = op(node)
    target: Any = node.target
    packet = getattr(torch.ops.aten, name.removesuffix("_"), None)
    if not name.endswith("_") or name.removesuffix("_") not in _OWN_MEMORY or target.namespace != "aten":
        return None
    return getattr(packet, target._overloadname, None)


def is_simple(program: ExportedProgram) -> bool:
    """Whether every write in place is to a tensor that nothing read before shares memory with."""
    order = {node: place for place, node in enumerate(program.graph.nodes)}
    memory: dict[Node, list[Node]] = {}
    for node in order:
        if node.op == "call_function" and getattr(node.target, "namespace", "aten") not in ("aten", "_operator"):
            return False
        if is_mutable(node):
            if counterpart(node) is None or not isinstance(node.args[0], Node):
                return False
            names = memory.setdefault(node.args[0], [node.args[0]])
            readers = [user for name in names for user in name.users if order[user] < order[node]]
            if not all(op(each).removesuffix("_") in _OWN_MEMORY for each in (names[0], *readers)):
                return False
            names.append(node)
            memory[node] = names
    return True
