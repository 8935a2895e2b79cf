"""Whether a captured graph computes each frame of a batch as it would alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx
from torch.fx import Node

from pipeline.model.operators import spec_of


def runs_batched(module: fx.GraphModule) -> bool:
    """Carry the shapes of two frames through the graph, without data, and see that each operator keeps them apart."""
    env: dict[Node, Any] = {}
    for node in module.graph.nodes:
        if node.op == "output":
            return True
        if node.op == "get_attr":
            env[node] = torch.empty_like(getattr(module, str(node.target)), device="meta")
        elif node.op == "placeholder":
            spec = spec_of(node)
            env[node] = torch.empty(2, *spec.shape[1:], dtype=getattr(torch, spec.dtype), device="meta")
        elif not _step(node, env):
            return False
    return True


def _step(node: Node, env: dict[Node, Any]) -> bool:
    args, kwargs = fx.node.map_arg((node.args, dict(node.kwargs)), env.__getitem__)
    if any(_dimension_is_batch(node, argument, value) for argument, value in _named(node)):
        return False
    try:
        env[node] = node.target(*args, **kwargs)  # type: ignore[operator]
    except (RuntimeError, ValueError, TypeError, IndexError):
        return False
    if "spec" not in node.meta or not isinstance(env[node], Tensor):
        return True
    shape = spec_of(node).shape
    return shape[:1] == (1,) and tuple(env[node].shape) == (2, *shape[1:])


def _named(node: Node) -> list[tuple[str, Any]]:
    schema = getattr(node.target, "_schema", None)
    names = [argument.name for argument in schema.arguments] if schema is not None else []
    return [*zip(names, node.args, strict=False), *node.kwargs.items()]


def _dimension_is_batch(node: Node, argument: str, value: Any) -> bool:
    """Whether an operator works along the first dimension (softmax, flip and sort keep the shape, but mix frames)."""
    if argument not in ("dim", "dims", "dim0", "dim1"):
        return False
    rank = len(spec_of(node).shape) if "spec" in node.meta else 0
    values = value if isinstance(value, list | tuple) else [value]
    return any(isinstance(each, int) and (each == 0 or each == -rank) for each in values)
