"""An fx graph as a plain Python function.

`fx.GraphModule` would do the same, but it makes a class for each graph, and torch keeps the source of each until the
process ends (`torch.fx.graph_module._loader`, for tracebacks). A node builds graphs as long as it runs.

As in `fx.GraphModule`, the source is torch's own, written from the captured model's graph: no word of a peer is in it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from operator import attrgetter
from types import SimpleNamespace

import torch
from torch import Tensor, fx

_OPERATOR = re.compile(r"\btorch\.ops(?:\.\w+)+")

Run = Callable[..., tuple[Tensor, ...]]
"""Placeholders in their order -> what the graph gives out."""


def function_of(graph: fx.Graph, constants: Mapping[str, object], label: str) -> Run:
    """Write the graph as Python and compile it; nothing of the graph is held on to.

    Args:
        graph: placeholders, `get_attr` and `call_function` nodes, and an output that is a tuple.
        constants: the values of its `get_attr` nodes, by target.
        label: how tracebacks name it.
    """
    code = graph.python_code(root_module="self")
    space = dict(code.globals)
    source = _OPERATOR.sub(partial(_bound, space), code.src)
    exec(compile(source, f"<{re.sub(r'[<>]', '', label)}>", "exec"), space)
    forward = space["forward"]
    given = SimpleNamespace(**constants)

    def run(*inputs: Tensor) -> tuple[Tensor, ...]:
        made: tuple[Tensor, ...] = forward(given, *inputs)
        return made

    return run


def _bound(space: dict[str, object], found: re.Match[str]) -> str:
    """A name for an operator, with which it is at hand: behind a convolution, where caches are cold, to look up each
    word of `torch.ops.aten.slice.Tensor` takes 20 µs, as long as the operator itself."""
    name = found[0].replace(".", "_")
    space[name] = attrgetter(found[0].removeprefix("torch."))(torch)
    return name


def inference() -> AbstractContextManager[object]:
    """Torch without autograd's bookkeeping; a thread that is in it already does not enter again.

    To enter takes 50 µs where caches are cold, as they are behind a convolution: as long as to send a small tile.
    """
    return nullcontext() if torch.is_inference_mode_enabled() else torch.inference_mode()
