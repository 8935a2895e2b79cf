"""The wire message: what is encoded comes back, and nothing else gets through."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import VersionMismatch, WireError
from pipeline.frames import wire
from pipeline.frames.wire import DropNotice, FrameHeader, Head, Hop, Message, Ping, Pong, Probe, TensorHeader
from pipeline.model.graph import ITEM_BYTES, TensorSpec

names = st.text(min_size=1, max_size=20)
counts = st.integers(0, (1 << 62) - 1)
seconds = st.floats(0, 1e9)
specs = st.builds(
    TensorSpec, names, st.lists(st.integers(0, 9), max_size=4).map(tuple), st.sampled_from(sorted(ITEM_BYTES))
)
hops = st.builds(Hop, names, seconds, seconds, seconds, seconds, counts)


@st.composite
def frames(draw: st.DrawFn) -> Message:
    tensors = draw(st.lists(specs, max_size=4))
    buffers = [draw(st.binary(max_size=40)) for _ in tensors]
    headers = tuple(TensorHeader.of(spec, "q4", len(buffer)) for spec, buffer in zip(tensors, buffers, strict=True))
    header = FrameHeader(
        draw(names), draw(names), draw(counts), draw(counts), draw(counts), draw(st.integers(0, 8)), draw(counts),
        headers, tuple(draw(st.lists(hops, max_size=3))), draw(st.booleans()),
    )  # fmt: skip
    return Message(header, buffers)


others = st.one_of(
    st.builds(DropNotice, names, counts, counts, counts, names, st.sampled_from(wire.REASONS), st.text(max_size=80)),
    st.builds(Head, names, counts),
    st.builds(Ping, names, counts),
    st.builds(Pong, names, counts, counts, counts),
).map(Message)


@given(st.one_of(frames(), others))
def test_what_is_encoded_comes_back(message: Message) -> None:
    parts = wire.encode(message)
    assert parts[0][0] == wire.WIRE_VERSION
    back = wire.decode(parts)
    assert back.header == message.header
    assert [bytes(buffer) for buffer in back.buffers] == [bytes(buffer) for buffer in message.buffers]


@given(frames(), st.data())
def test_truncated_headers_are_refused(message: Message, data: st.DataObject) -> None:
    parts = wire.encode(message)
    head = bytes(parts[0])
    cut = data.draw(st.integers(0, len(head) - 1))
    with pytest.raises(WireError):
        wire.decode([head[:cut], *parts[1:]])


@given(st.one_of(frames(), others), st.data())
def test_any_byte_string_is_a_message_or_a_wire_error(message: Message, data: st.DataObject) -> None:
    head = bytearray(wire.encode(message)[0])
    for _ in range(data.draw(st.integers(1, 4))):
        head[data.draw(st.integers(0, len(head) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        wire.decode([bytes(head), *message.buffers])
    except WireError:
        return


@given(st.lists(st.binary(max_size=200), max_size=4))
def test_garbage_never_raises_anything_else(parts: list[bytes]) -> None:
    try:
        wire.decode(parts)
    except WireError:
        return


def _frame(tensors: tuple[TensorHeader, ...]) -> FrameHeader:
    return FrameHeader("s", "m", 1, 7, 0, 1, 0, tensors)


def test_another_version_says_so() -> None:
    head = bytearray(wire.encode(Message(Ping("a", 1)))[0])
    head[0] = wire.WIRE_VERSION + 1
    with pytest.raises(VersionMismatch, match="run the same release"):
        wire.decode([bytes(head)])


@pytest.mark.parametrize(
    ("tensor", "buffers", "says"),
    [
        (TensorHeader("x", "fp32", "float32", (1 << 30, 1 << 30, 1 << 30), 4), [b"1234"], "over the limit"),
        (TensorHeader("x", "fp32", "float32", (1,), 4), [b"12345"], "5 bytes came, 4 said"),
        (TensorHeader("x", "fp32", "float32", (1,), 4), [], "0 buffers for 1 tensors"),
        (TensorHeader("x", "fp32", "object", (1,), 4), [b"1234"], "unknown dtype"),
    ],
)
def test_contradictions_are_refused(tensor: TensorHeader, buffers: list[bytes], says: str) -> None:
    with pytest.raises(WireError, match=says):
        wire.decode(wire.encode(Message(_frame((tensor,)), buffers)))


@pytest.mark.parametrize("field", ["epoch", "frame", "sent_ns"])
def test_negative_and_huge_counts_are_refused(field: str) -> None:
    for value in (-1, 1 << 63):
        raw = msgspec.to_builtins(_frame(())) | {"type": "frame", field: value}
        with pytest.raises(WireError):
            wire.decode([bytes((wire.WIRE_VERSION,)) + msgspec.msgpack.encode(raw)])


def test_a_probe_is_bounded() -> None:
    assert wire.decode(wire.encode(Message(Probe("a"), [bytes(10)]))).payload_bytes == 10
    with pytest.raises(WireError, match="not one buffer"):
        wire.decode(wire.encode(Message(Probe("a"), [bytes(wire.MAX_PROBE_BYTES + 1)])))


def test_tensors_are_held_against_the_cut() -> None:
    spec = TensorSpec("x", (1, 2), "float32")
    message = Message(_frame((TensorHeader.of(spec, "fp32", 8),)), [bytes(8)])
    wire.check_tensors(message, [spec])
    for other in (TensorSpec("y", (1, 2)), TensorSpec("x", (1, 3)), TensorSpec("x", (1, 2), "uint8")):
        with pytest.raises(WireError):
            wire.check_tensors(message, [other])


def test_buffers_are_not_copied() -> None:
    buffer = memoryview(bytearray(b"12345678"))
    spec = TensorSpec("x", (1, 2), "float32")
    parts = wire.encode(Message(_frame((TensorHeader.of(spec, "fp32", 8),)), [buffer]))
    assert parts[1] is buffer
    assert wire.decode(parts).buffers[0] is buffer
