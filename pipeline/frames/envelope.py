"""What messages take on a connection beside their payload, told by the encoder itself.

Each part of a ZeroMQ message has a byte of flags before it, and its length in one byte or in eight (ZMTP 3.1, RFC 37).
What CURVE and TCP add is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pipeline.frames.wire import FrameHeader, Head, Header, Hop, Message, Probe, TensorHeader, encode
from pipeline.model.graph import ModelGraph
from pipeline.plan import RESULT_CODEC, Plan

SHORT_PART_BYTES = 255
"""The longest part whose length is one byte."""

LARGE = 1 << 60
"""A clock's reading, or the number of an attempt: as long as these are on the wire."""

FRAME = 1000
"""A frame's number."""


class Envelope(NamedTuple):
    """What a message takes beside its payload."""

    head_bytes: int
    """Of the message that announces it, where it is large."""
    beside_bytes: int
    """Its header, and the framing of its parts."""


def message_bytes(header: Header, payloads: Sequence[int] = ()) -> int:
    """Bytes of a message beside its payload.

    Args:
        header: what it begins with.
        payloads: bytes of each buffer behind that.
    """
    first, *_ = encode(Message(header))
    parts = (memoryview(first).nbytes, *payloads)
    return parts[0] + sum(2 if nbytes <= SHORT_PART_BYTES else 9 for nbytes in parts)


def of_frame(graph: ModelGraph, plan: Plan, hop: int, payload_bytes: int) -> Envelope:
    """The envelope of what stage number `hop` of a plan sends on: to the stage behind it, or home.

    Args:
        graph: the network.
        plan: the plan that the frame goes by.
        hop: number of the stage, from 0.
        payload_bytes: of all tensors together; each has its share of it here.
    """
    stages = plan.stages
    specs = [graph.tensors[name] for name in graph.cut(stages[hop].until).tensors]
    codec = plan.links[hop].codec if hop < len(plan.links) else RESULT_CODEC
    elements = sum(spec.numel for spec in specs)
    payloads = [payload_bytes * spec.numel // elements for spec in specs]
    tensors = tuple(TensorHeader.of(spec, codec, nbytes) for spec, nbytes in zip(specs, payloads, strict=True))
    hops = tuple(Hop(stage.node, packed_bytes=payload_bytes) for stage in stages[: hop + 1])
    header = FrameHeader(plan.stream, plan.model, plan.epoch, FRAME, LARGE, hop + 1, LARGE, tensors, hops)
    return Envelope(message_bytes(Head(stages[hop].node, payload_bytes)), message_bytes(header, payloads))


def of_probe(node: str, payload_bytes: int) -> Envelope:
    """The envelope of a probe that a node sends."""
    return Envelope(message_bytes(Head(node, payload_bytes)), message_bytes(Probe(node), (payload_bytes,)))
