"""One stage of one plan, ready to run: unpack what comes, compute the segment, pack what goes on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pipeline.errors import WireError
from pipeline.frames.wire import Buffer, FrameHeader, Message, TensorHeader, check_tensors
from pipeline.model.capture import CapturedModel
from pipeline.model.graph import Cut, TensorSpec
from pipeline.model.kept import Kept
from pipeline.model.layouts import Layout
from pipeline.model.segment import Segment
from pipeline.packing.sessions import DecoderSession, EncoderSession, open_decoder, open_encoder
from pipeline.plan import MAX_SEGMENTS, RESULT_CODEC, Plan

Compute = Callable[[dict[str, Tensor]], dict[str, Tensor]]
"""Tensors that cross the stage's first cut -> tensors that cross its last one."""


@dataclass(frozen=True)
class StageProgram:
    """What one node does to every frame of one plan.

    `unpack`, `compute` and `pack` may each run in a thread of its own, one frame at a time each: the codec
    sessions hold state, for temporal codecs compare a frame with the one before.
    """

    plan: Plan
    hop: int
    start: Cut
    end: Cut
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    compute: Compute
    decoders: dict[str, DecoderSession]
    encoders: dict[str, EncoderSession]
    takes_batches: bool = False
    """Whether `compute` takes several frames along the first dimension, each computed as it would be alone. Frames of
    two programs of one node whose cuts are the same may then be computed together."""

    @property
    def codec(self) -> str:
        """Codec of what the stage sends on."""
        return _codec(self.plan, self.hop)

    @property
    def is_last(self) -> bool:
        """Whether this stage's outputs are the result."""
        return self.hop == len(self.plan.stages) - 1

    def unpack(self, message: Message) -> dict[str, Tensor]:
        """Check a frame's message against the plan and decode its tensors.

        Raises:
            WireError: the header contradicts the plan or the model.
            CodecError: a buffer that the codec refuses.
        """
        check_tensors(message, self.inputs)
        header = message.header
        if not isinstance(header, FrameHeader):
            raise WireError("message", "not a frame")
        expected = _codec(self.plan, self.hop - 1)
        for tensor in header.tensors:
            if tensor.codec != expected:
                raise WireError(f"tensor {tensor.name!r}", f"packed as {tensor.codec!r}, the plan says {expected!r}")
        return {
            spec.name: self.decoders[spec.name].decode(buffer, spec, header.frame)
            for spec, buffer in zip(self.inputs, message.buffers, strict=True)
        }

    def pack(
        self, tensors: dict[str, Tensor], frame: int, key: bool = False
    ) -> tuple[tuple[TensorHeader, ...], list[Buffer]]:
        """Encode the stage's outputs.

        Raises:
            CodecError: NaN or infinity, by tensor name.
        """
        buffers: list[Buffer] = [
            self.encoders[spec.name].encode(tensors[spec.name], spec, frame, key) for spec in self.outputs
        ]
        headers = tuple(
            TensorHeader.of(spec, self.codec, memoryview(buffer).nbytes)
            for spec, buffer in zip(self.outputs, buffers, strict=True)
        )
        return headers, buffers


def _codec(plan: Plan, hop: int) -> str:
    return plan.links[hop].codec if 0 <= hop < len(plan.links) else RESULT_CODEC


class SegmentCache(Kept[Segment]):
    """The segments that were built last, warm: a plan that comes back, as after an outage, is there at once.

    Segments share the model's weights; what each has of its own is memory for its maps.
    """

    def __init__(self, captured: CapturedModel, torch_device: str = "cpu", layout: Layout | None = None) -> None:
        def warm(start: Cut, end: Cut) -> Segment:
            segment = Segment(captured, start, end, torch_device=torch_device, layout=layout)
            segment.warm()
            return segment

        super().__init__(MAX_SEGMENTS, warm)


def prepare(
    captured: CapturedModel,
    plan: Plan,
    hop: int,
    torch_device: str = "cpu",
    layout: Layout | None = None,
    kept: SegmentCache | None = None,
) -> StageProgram:
    """Build and warm stage number `hop` of `plan`.

    Args:
        captured: the model.
        plan: the plan.
        hop: which of its stages.
        torch_device: `cpu` or `cuda`.
        layout: see `Segment`; layouts differ in the last bits of their results.
        kept: segments that are there already, of the same model, device and layout.

    Raises:
        PlanError: the plan is for another model, or its cuts are not nested.
        UnknownCut: the plan names a cut that the model does not have.
        CodecError: the plan names a codec that does not exist, or that cannot carry a tensor of the cut.
    """
    plan.check(captured.graph)
    start, end = plan.span(hop, captured.graph)
    segment = (kept or SegmentCache(captured, torch_device, layout)).of(start, end)
    return replace(assemble(captured, plan, hop, segment.run), takes_batches=segment.supports_batch)


def assemble(captured: CapturedModel, plan: Plan, hop: int, compute: Compute) -> StageProgram:
    """A stage program around `compute`, which runs stage number `hop` in whatever way."""
    start, end = plan.span(hop, captured.graph)
    inputs, outputs = _specs(captured, start), _specs(captured, end)
    _warm(outputs, _codec(plan, hop))
    if hop:
        _warm(inputs, _codec(plan, hop - 1))
    return StageProgram(
        plan,
        hop,
        start,
        end,
        inputs,
        outputs,
        compute,
        {spec.name: open_decoder(_codec(plan, hop - 1)) for spec in inputs} if hop else {},
        {spec.name: open_encoder(_codec(plan, hop)) for spec in outputs},
    )


def _warm(specs: Sequence[TensorSpec], codec: str) -> None:
    """Pack and unpack zeros once: a codec's first use costs up to 0.3 s, which the first frame would be late by."""
    for spec in specs:
        zeros = torch.zeros(spec.shape, dtype=getattr(torch, spec.dtype))
        buffer = open_encoder(codec).encode(zeros, spec, 0, True)
        open_decoder(codec).decode(bytearray(buffer), spec, 0)


def _specs(captured: CapturedModel, cut: Cut) -> tuple[TensorSpec, ...]:
    tensors: Sequence[str] = cut.tensors
    return tuple(captured.graph.tensors[name] for name in tensors)
