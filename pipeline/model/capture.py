"""Capture: any `nn.Module` that takes one picture becomes a flat operator graph, and that a graph of blocks.

`torch.export` traces the module once; the program is flattened (`flatten`), its batch norms are folded, its
operators grouped (`grouping`), and what is known of its tensors is written into a `ModelGraph`.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import threading
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.fx import Node

from pipeline.errors import CaptureError
from pipeline.model import flatten, functional, grouping, operators
from pipeline.model.batching import runs_batched
from pipeline.model.graph import INPUT, Block, ModelGraph, TensorSpec
from pipeline.model.operators import spec_of

_TORCH = str(Path(torch.__file__).parent)


@dataclass(frozen=True, eq=False)
class CapturedModel:
    """A network that can be cut and run in parts."""

    graph: ModelGraph
    module: fx.GraphModule
    """Flat graph of ATen operators: placeholder `input`, weights as attributes, a tuple as output. Every tensor node
    has `meta["spec"]`, its `TensorSpec`; positional arguments are complete. The order of nodes is topological."""
    example: Tensor
    """An input of the captured shape."""
    prepared: dict[Any, Any] = field(default_factory=dict, repr=False)
    """Weights in the layouts that segments run with, shared by all of them, and what was timed; guarded by `lock`."""
    lock: threading.RLock = field(default_factory=threading.RLock, repr=False)

    @functools.cached_property
    def nodes(self) -> dict[str, Node]:
        """Nodes of the flat graph by name."""
        return {node.name: node for node in self.module.graph.nodes}

    def operators(self, block: Block) -> tuple[Node, ...]:
        """The nodes that the block runs, in order."""
        return tuple(self.nodes[name] for name in block.operators)

    def weight(self, node: Node) -> Tensor:
        """The tensor that a `get_attr` node reads."""
        value: Tensor = getattr(self.module, str(node.target))
        return value

    @functools.cached_property
    def supports_batch(self) -> bool:
        """Whether several frames may be stacked along the first dimension and computed at once."""
        return runs_batched(self.module)


def capture(module: nn.Module, example: Tensor, name: str) -> CapturedModel:
    """Capture `module` in eval mode.

    Args:
        module: takes one tensor and returns a tensor, or several in a tuple, list or dict (flattened, in order).
        example: (1, ...) of the shape and dtype that every frame will have; the values do not matter.
        name: how messages and tables call the model.

    Raises:
        CaptureError: torch.export cannot trace it, or an operator cannot be part of a frame's graph.
    """
    program = _export(module, example, name)
    flat = flatten.flatten(program, name)
    _check_batch(flat.graph, name)
    digest = _digest(flat)
    flatten.fold_batch_norms(flat)
    flatten.fuse_silu(flat)
    _mark_unsigned(flat.graph)
    blocks = grouping.blocks_of(grouping.group(flat.graph), _common_prefix(module))
    if not blocks:
        raise CaptureError(f"model {name}", "computes nothing", "give a network with at least one operator")
    module_out = fx.GraphModule(flat.weights, flat.graph)
    outputs = tuple(node.name for node in flat.graph.find_nodes(op="output")[0].all_input_nodes)
    digest.update(repr([(block.name, block.outputs) for block in blocks]).encode())
    graph = ModelGraph(name, digest.hexdigest(), blocks, _tensors(flat.graph, blocks), outputs)
    return CapturedModel(graph, module_out, example.detach().clone())


def _export(module: nn.Module, example: Tensor, name: str) -> ExportedProgram:
    """The program, with no writes in place but simple ones (`strict=False`: no bytecode analysis, more models)."""
    with _quiet(), _eval_mode(module):
        try:
            program = torch.export.export(module, (example,), strict=False)
            if not functional.is_simple(program):
                program = program.run_decompositions({})
        except Exception as error:  # torch.export has no common base for what it raises
            raise CaptureError(f"model {name}", *_explain(error)) from error
    return program


def _explain(error: Exception) -> tuple[str, str]:
    """Condition and mend: the first line of torch's message, and the line of the model that caused it."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(_TORCH)]
    own = [frame for frame in frames if frame.filename != __file__ and not frame.filename.startswith("<")]
    where = f" (at {Path(own[-1].filename).name}:{own[-1].lineno}, `{own[-1].line}`)" if own else ""
    if "data-dependent" in text or "GuardOnDataDependent" in type(error).__name__:
        return f"branches on values of the picture{where}", "use torch.where, or capture the part without the branch"
    return f"torch.export refuses it: {text[:200]}{where}", "rewrite that line with tensors of fixed shape"


@contextlib.contextmanager
def _eval_mode(module: nn.Module) -> Iterator[None]:
    """Eval mode for the trace; the caller's module gets its modes back."""
    modes = {part: part.training for part in module.modules()}
    try:
        # Set by hand, since exported programs refuse to change theirs: it is written into the graph.
        for part in modes:
            part.training = False
        yield
    finally:
        for part, training in modes.items():
            part.training = training


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """torch logs a traceback of what it also raises, and warns of its own deprecations while it traces."""
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _check_batch(graph: fx.Graph, name: str) -> None:
    spec = spec_of(graph.find_nodes(op="placeholder")[0])
    if not spec.shape or spec.shape[0] != 1:
        raise CaptureError(
            f"model {name}", f"captured with input {spec.shape}", "give an example of one frame, (1, ...)"
        )


def _common_prefix(module: nn.Module) -> str:
    """Wrappers that hold all parameters in one child called `network` do not show in names."""
    children = {name.partition(".")[0] for name, _ in module.named_parameters()}
    return "network." if children == {"network"} else ""


def _mark_unsigned(graph: fx.Graph) -> None:
    known: set[Node] = set()
    for node in graph.nodes:
        if node.op == "placeholder" and spec_of(node).dtype in ("uint8", "bool"):
            known.add(node)
        elif node.op == "call_function" and operators.is_unsigned(node, known):
            known.add(node)
        if node in known and "spec" in node.meta:
            node.meta["spec"] = replace(spec_of(node), unsigned=True)


def _tensors(graph: fx.Graph, blocks: tuple[Block, ...]) -> dict[str, TensorSpec]:
    specs = {node.name: spec_of(node) for node in graph.nodes if "spec" in node.meta}
    names = [INPUT, *(name for block in blocks for name in block.outputs)]
    return {name: specs[name] for name in names}


def _digest(flat: flatten.FlatGraph) -> hashlib.blake2b:
    """Digest of operators, arguments, shapes and weights; the names that plans use are added to it later.

    Taken before batch norms are folded: folding computes, and the last bit of that may differ between machines.
    """
    digest = hashlib.blake2b(digest_size=16)
    number: dict[Node, int] = {}
    for node in flat.graph.nodes:
        number[node] = len(number)
        spec = node.meta.get("spec")
        shape = (spec.shape, spec.dtype) if spec is not None else ()
        target = "" if node.op == "get_attr" else str(node.target)
        arguments = fx.node.map_arg((node.args, dict(node.kwargs)), lambda source: f"%{number[source]}")
        digest.update(repr((node.op, target, arguments, shape)).encode())
        if node.op == "get_attr":
            weight = flat.weights[str(node.target)].detach().cpu().contiguous()
            digest.update(weight.reshape(-1).view(torch.uint8).numpy().data)
    return digest
