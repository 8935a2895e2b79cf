"""The part of a network between two cuts, as compiled Python over torch calls.

A segment is generated from the captured graph: one function whose lines are the operators of its blocks, which
frees each tensor behind its last use. All segments of a model share its prepared weights, so that building one
takes milliseconds and no memory once another has prepared them.
"""

from __future__ import annotations

import re
import threading
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx import Node

from pipeline.errors import ModelError
from pipeline.model import layouts, memory
from pipeline.model.capture import CapturedModel
from pipeline.model.function import Run, function_of, inference
from pipeline.model.graph import Cut
from pipeline.model.layouts import Layout


class Segment:
    """Computes what crosses `end` from what crosses `start`.

    Safe to run from several threads at once: it holds no state but weights that nobody writes.

    Args:
        captured: the model.
        start: where it begins; a tensor that crosses both cuts is handed through.
        end: where it ends.
        torch_device: `cpu` or `cuda`.
        layout: how to run it; None measures which is fastest for this model, device and number of threads, once.

    Raises:
        ModelError: `start` is not before `end`, or the torch device is not there.
    """

    def __init__(
        self, captured: CapturedModel, start: Cut, end: Cut, *, torch_device: str = "cpu", layout: Layout | None = None
    ) -> None:
        self.captured, self.start, self.end = captured, start, end
        self.device = _device(torch_device)
        self.blocks = captured.graph.between(start, end)
        self.layout = layout or fastest_layout(captured, self.device)
        self.reads = tuple(name for name in start.tensors if any(name in block.inputs for block in self.blocks))
        self.makes = tuple(name for name in end.tensors if name not in start.tensors)
        self._run = self._build() if self.blocks else None

    @property
    def supports_batch(self) -> bool:
        """Whether inputs may hold several frames along the first dimension."""
        return self.captured.supports_batch

    @property
    def nbytes(self) -> int:
        """Bytes of the weights that this segment reads (shared with the model's other segments)."""
        return sum(block.weight_bytes for block in self.blocks)

    def run(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Compute one frame, or a batch of frames.

        Args:
            inputs: every tensor of `start.tensors`, (N, ...), in any memory format.

        Returns:
            Every tensor of `end.tensors`, in that order, on the CPU; four-dimensional ones may be channels-last.

        Raises:
            ModelError: a tensor of the start cut is missing, or a batch is handed to a network without batches.
        """
        missing = [name for name in self.start.tensors if name not in inputs]
        if missing:
            raise ModelError(self.label, f"not given {missing[0]}", f"it needs {', '.join(self.start.tensors)}")
        made: dict[str, Tensor] = {}
        if self._run is not None:
            with inference():
                given = [self._placed(inputs[name]) for name in self.reads]
                made = dict(zip(self.makes, self._run(*given), strict=True))
                if self.device.type != "cpu":
                    made = {name: tensor.cpu() for name, tensor in made.items()}
        return {name: made[name] if name in made else inputs[name] for name in self.end.tensors}

    def warm(self, runs: int = 2) -> None:
        """Run on zeros, so that the first frame finds kernels and memory ready."""
        tensors = self.captured.graph.tensors
        specs = [tensors[name] for name in self.start.tensors]
        zeros = {spec.name: torch.zeros(spec.shape, dtype=getattr(torch, spec.dtype)) for spec in specs}
        for _ in range(runs):
            self.run(zeros)

    @property
    def label(self) -> str:
        """How messages name it."""
        return f"segment {self.start.name}..{self.end.name}"

    def _placed(self, tensor: Tensor) -> Tensor:
        tensor = tensor.to(self.device)
        if tensor.dim() == 4:
            return tensor.contiguous(memory_format=self.layout.memory_format)
        return tensor

    def _build(self) -> Run:
        captured = self.captured
        graph = fx.Graph()
        constants: dict[str, Any] = {}
        nodes = [node for block in self.blocks for node in captured.operators(block)]
        kept = frozenset(captured.nodes[name] for name in self.makes)
        lowering = layouts.Lowering(self.layout, graph, self._weight, constants, kept)
        for name in self.reads:
            lowering.env[captured.nodes[name]] = graph.placeholder(name)
        lowering.emit_all(nodes)
        graph.output(tuple(lowering.env[captured.nodes[name]] for name in self.makes))
        return function_of(graph, constants, self.label)

    def _weight(self, node: Node, purpose: str) -> tuple[str, Tensor]:
        """Prepared weight of a `get_attr` node, from the model's shared store."""
        captured = self.captured
        key = (self.device, self.layout, node.target, purpose)
        with captured.lock:
            if key not in captured.prepared:
                captured.prepared[key] = layouts.prepare(captured.weight(node), purpose, self.layout, self.device)
        return re.sub(r"\W", "_", f"{node.target}_{purpose}"), captured.prepared[key]


def fastest_layout(captured: CapturedModel, device: torch.device) -> Layout:
    """The layout that runs the whole network fastest, measured once per model, device and number of threads."""
    key = ("layout", device, torch.get_num_threads())
    with captured.lock:
        if key not in captured.prepared:
            captured.prepared[key] = _measure(captured, device)
        layout: Layout = captured.prepared[key]
        return layout


def _measure(captured: CapturedModel, device: torch.device) -> Layout:
    cuts = captured.graph.cuts
    choices = layouts.candidates(device)
    segments = {
        layout: Segment(captured, cuts[0], cuts[-1], torch_device=str(device), layout=layout) for layout in choices
    }
    for segment in segments.values():
        segment.warm(1)
    zeros = {name: torch.zeros_like(captured.example) for name in cuts[0].tensors}
    best = layouts.fastest({layout: lambda run=s.run: run(zeros) for layout, s in segments.items()})  # type: ignore[misc]
    # Weights that only the slower layouts want are given back.
    for key in [key for key in captured.prepared if key[0] == device and key[1] is not best]:
        del captured.prepared[key]
    del segments
    memory.give_back()
    return best


_cuda_exact = threading.Lock()


def _device(name: str) -> torch.device:
    """The torch device; on a GPU, single precision is made to mean single precision (no TF32)."""
    device = torch.device(name)
    if device.type == "cpu":
        return device
    if device.type != "cuda" or not torch.cuda.is_available():
        raise ModelError(f"torch device {name}", "not available on this machine", "use --torch-device cpu")
    with _cuda_exact:
        torch.backends.cudnn.conv.fp32_precision = "ieee"  # type: ignore[attr-defined]
        torch.backends.cuda.matmul.fp32_precision = "ieee"
    return device
