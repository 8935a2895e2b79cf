"""The messages of the data wires: a version byte, a typed header, and one raw buffer per tensor.

`docs/wire.md` specifies the bytes. Nothing here trusts a peer: types and ranges are checked while the header
is decoded (msgspec), and byte counts against shapes before any tensor is made.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import msgspec
from msgspec import Meta

from pipeline.errors import VersionMismatch, WireError
from pipeline.model.graph import ITEM_BYTES, TensorSpec

WIRE_VERSION = 3
"""Grows with every change that an older node could misread."""

MAX_HEADER_BYTES = 64 * 1024
MAX_TENSOR_BYTES = 256 * 1024 * 1024
"""Bound on one tensor's raw size, and on one message part: the largest activation of the known networks is 13 MB."""

MAX_GIVEN = 16
"""Runs of rows of one strip that others lack: those above and those below, as a rule."""

MAX_TILE_TASKS = 128
"""Tiles of one worker over all fused stacks of one plan."""

Name = Annotated[str, Meta(min_length=1, max_length=128)]
Count = Annotated[int, Meta(ge=0, lt=1 << 62)]
Dimension = Annotated[int, Meta(ge=0, lt=1 << 31)]
Seconds = Annotated[float, Meta(ge=0.0, le=1e9)]
Buffer = bytes | bytearray | memoryview


class TensorHeader(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one buffer of the message holds."""

    name: Name
    codec: Annotated[str, Meta(min_length=1, max_length=32)]
    dtype: Annotated[str, Meta(max_length=16)]
    shape: Annotated[tuple[Dimension, ...], Meta(max_length=8)]
    nbytes: Count
    """Bytes of the buffer, packed."""

    @classmethod
    def of(cls, spec: TensorSpec, codec: str, nbytes: int) -> TensorHeader:
        """The header of a tensor of `spec`, packed into `nbytes`."""
        return cls(spec.name, codec, spec.dtype, spec.shape, nbytes)

    @property
    def spec(self) -> TensorSpec:
        """The tensor as the sender describes it."""
        return TensorSpec(self.name, self.shape, self.dtype)

    @property
    def raw_nbytes(self) -> int:
        """Bytes of the tensor, unpacked."""
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]


class Hop(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a frame spent at one node, by that node's monotonic clock."""

    node: Name
    queue_s: Seconds = 0.0
    """Waiting: from the last byte received to unpacking, plus the waits between the node's own steps."""
    unpack_s: Seconds = 0.0
    compute_s: Seconds = 0.0
    pack_s: Seconds = 0.0
    packed_bytes: Count = 0
    """Bytes of the buffers that the node sent on."""


class FrameHeader(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="frame"):
    """A frame on its way: between two stages, or from the last stage to the device (its result)."""

    stream: Name
    model: Name
    """Fingerprint of the network that the plan was made for."""
    epoch: Count
    frame: Count
    attempt: Count
    """0 at the first admission; grows when the frame is admitted again because a node was lost."""
    hop: Annotated[int, Meta(ge=0, le=8)]
    """Position in the plan of the stage that shall receive this message; the number of stages: a result."""
    sent_ns: Count
    """The sender's monotonic clock as the message was handed to its socket."""
    tensors: Annotated[tuple[TensorHeader, ...], Meta(max_length=64)]
    hops: Annotated[tuple[Hop, ...], Meta(max_length=8)] = ()
    key: bool = False
    """Every temporal encoder on the way shall send a key frame."""


CutName = Annotated[str, Meta(min_length=1, max_length=2048)]
"""Names of cuts; where several blocks are maximal, they are joined."""

Edges = tuple[Dimension, Dimension]
"""First position of an axis, and the one behind the last."""


class TileTask(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One tile of one fused stack."""

    start: CutName
    """Where the stack begins."""
    end: CutName
    rows: Edges
    """Of the maps at the stack's end."""
    columns: Edges
    gives: Annotated[tuple[Edges, ...], Meta(max_length=MAX_GIVEN)] | None = None
    """Rows of every output that are sent back, of a strip in a chain; None where the stack is no part of one."""
    chained: bool = False
    """Whether it goes on with the chain of the task before: the worker kept that one's outputs, and what it was given,
    and gets only the rows that it lacks besides."""
    early: bool = False
    """Whether the rows that it gives are computed and sent first, and the rest of the strip behind that."""


class TileOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="tile-order"):
    """Tells a tile worker what to build and to warm; without tasks, it only asks for a sign of life."""

    node: Name
    """The edge node that asks; the answer goes to its tiles inbox."""
    model: Name
    order: Count
    """Random, so that an edge node that starts anew is never taken at an old order's word."""
    codec: Annotated[str, Meta(min_length=1, max_length=32)]
    """Of the tiles' float tensors, both ways; all others travel as `fp32`."""
    tasks: Annotated[tuple[TileTask, ...], Meta(max_length=MAX_TILE_TASKS)] = ()


class TileReady(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="tile-ready"):
    """A worker's answer to an order."""

    node: Name
    order: Count
    seconds: Annotated[tuple[Seconds, ...], Meta(max_length=MAX_TILE_TASKS)] = ()
    """What each task took on a map of zeros."""
    refused: Annotated[str, Meta(max_length=512)] = ""
    """Why the order cannot be carried out; empty where it can."""


class Tile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="tile"):
    """One tile's input, on its way to a worker."""

    node: Name
    """The edge node that asks."""
    stream: Name
    epoch: Count
    order: Count
    task: Annotated[int, Meta(ge=0, lt=MAX_TILE_TASKS)]
    """Position in the order's tasks."""
    ticket: Count
    """Unique for this edge node: the same frame's other tiles, and other attempts, have others."""
    tensors: Annotated[tuple[TensorHeader, ...], Meta(max_length=64)]
    chain: Count = 0
    """The same for all tiles of one frame's way through a chain, and no other's."""


class TileDone(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="tile-done"):
    """One tile's output, on its way back."""

    node: Name
    """The worker."""
    ticket: Count
    spent_s: Seconds
    """From the last byte received to the answer's first byte sent, by the worker's own clock."""
    compute_s: Seconds
    tensors: Annotated[tuple[TensorHeader, ...], Meta(max_length=64)] = ()
    refused: Annotated[str, Meta(max_length=512)] = ""
    """Why there is no output; the edge node computes the tile itself."""
    rest_s: Seconds = 0.0
    """What the rest of the chain's strip before this one took, behind that one's answer."""


class DropNotice(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="drop"):
    """Tells the device that an admitted frame will have no result from this attempt."""

    stream: Name
    epoch: Count
    frame: Count
    attempt: Count
    node: Name
    reason: Annotated[str, Meta(min_length=1, max_length=32)]
    """One of `REASONS`; unknown ones count as `other`."""
    detail: Annotated[str, Meta(max_length=512)] = ""


class Head(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="head"):
    """Announces the next message of the same sender: its arrival is that of the message's first byte."""

    node: Name
    payload_bytes: Count
    ahead_s: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.0
    """How long the sender waits between it and the message."""


class Ping(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="ping"):
    """Asks for a `Pong`, by which the round trip is known."""

    node: Name
    sent_ns: Count
    port: Annotated[int, Meta(ge=0, lt=1 << 16)] = 0
    """Port on the machine that the ping comes from where the answer shall go; 0: to the node's announced inbox."""


class Pong(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="pong"):
    """Answers a `Ping`; `sent_ns` is the ping's own."""

    node: Name
    sent_ns: Count
    received_ns: Count
    answered_ns: Count
    wall_ns: Count = 0
    """Time of day at the answer, nanoseconds since 1970: only people compare it."""


class Probe(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="probe"):
    """One buffer that is sent only to measure an idle link, and thrown away."""

    node: Name


MAX_PROBE_BYTES = 1 << 20

REASONS = ("unknown-epoch", "model-mismatch", "bad-message", "codec", "need-key", "send-timeout", "compute", "stopping")
"""Why a node gives up a frame: no segment for its epoch, other weights, a header that contradicts the model, a
buffer that its codec refuses, a missing temporal reference, a peer that takes nothing, a failed operator, a stop."""

Header = FrameHeader | DropNotice | Head | Ping | Pong | Probe | Tile | TileDone | TileOrder | TileReady

Carrier = FrameHeader | Tile | TileDone
"""The headers that describe tensors."""

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Header)


@dataclass(frozen=True)
class Message:
    """A checked message: its header, and the buffers that belong to it."""

    header: Header
    buffers: Sequence[Buffer] = ()
    reply_to: str = ""
    """Of a ping with a port that has come in: the endpoint for the answer. Not on the wire."""

    @property
    def payload_bytes(self) -> int:
        """Bytes of all buffers."""
        return sum(memoryview(buffer).nbytes for buffer in self.buffers)


def encode(message: Message) -> list[Buffer]:
    """The parts of a multipart message; the buffers are passed on, not copied."""
    return [bytes((WIRE_VERSION,)) + _encoder.encode(message.header), *message.buffers]


def decode(parts: Sequence[Buffer]) -> Message:
    """Check and decode a multipart message.

    Raises:
        VersionMismatch: the peer speaks another version.
        WireError: anything else that is not a valid message.
    """
    if not parts:
        raise WireError("message", "no parts")
    head = memoryview(parts[0])
    if not 2 <= head.nbytes <= MAX_HEADER_BYTES:
        raise WireError("message", f"a header of {head.nbytes} bytes")
    if head[0] != WIRE_VERSION:
        raise VersionMismatch(
            "message", f"wire version {head[0]}, this node speaks {WIRE_VERSION}", "run the same release on all nodes"
        )
    try:
        header = _decoder.decode(head[1:])
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise WireError("message", f"bad header ({error})") from error
    buffers = parts[1:]
    if isinstance(header, Probe):
        if len(buffers) != 1 or memoryview(buffers[0]).nbytes > MAX_PROBE_BYTES:
            raise WireError("probe", f"not one buffer of at most {MAX_PROBE_BYTES} bytes")
    else:
        _check_buffers(header.tensors if isinstance(header, Carrier) else (), buffers)
    return Message(header, buffers)


def _check_buffers(tensors: Sequence[TensorHeader], buffers: Sequence[Buffer]) -> None:
    if len(tensors) != len(buffers):
        raise WireError("message", f"{len(buffers)} buffers for {len(tensors)} tensors")
    for tensor, buffer in zip(tensors, buffers, strict=True):
        if tensor.dtype not in ITEM_BYTES:
            raise WireError(f"tensor {tensor.name!r}", f"unknown dtype {tensor.dtype!r}")
        if tensor.raw_nbytes > MAX_TENSOR_BYTES:
            raise WireError(f"tensor {tensor.name!r}", f"{tensor.raw_nbytes} bytes raw, over the limit")
        if memoryview(buffer).nbytes != tensor.nbytes:
            raise WireError(f"tensor {tensor.name!r}", f"{memoryview(buffer).nbytes} bytes came, {tensor.nbytes} said")


def check_tensors(message: Message, expected: Sequence[TensorSpec]) -> None:
    """Hold a frame's or a tile's tensors against what the receiver's own graph says must come.

    Raises:
        WireError: other names, dtypes or shapes.
    """
    header = message.header
    if not isinstance(header, Carrier):
        raise WireError("message", f"a {type(header).__name__} where tensors belong")
    label = f"frame {header.frame}" if isinstance(header, FrameHeader) else f"tile {header.ticket}"
    if [tensor.name for tensor in header.tensors] != [spec.name for spec in expected]:
        raise WireError(
            label,
            f"brings {[tensor.name for tensor in header.tensors]}, the cut has {[spec.name for spec in expected]}",
        )
    for tensor, spec in zip(header.tensors, expected, strict=True):
        if tensor.dtype != spec.dtype or tensor.shape != spec.shape:
            raise WireError(
                f"tensor {tensor.name!r}",
                f"{tensor.dtype}{list(tensor.shape)} came, {spec.dtype}{list(spec.shape)} due",
            )
