"""Buffers that no sender made: refused with an error that names the tensor, in bounded time and memory."""

from __future__ import annotations

import struct
import tracemalloc

import lz4.block
import numpy as np
import pytest
import torch
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import CodecError
from pipeline.model.graph import TensorSpec
from pipeline.packing import codec, frame
from pipeline.packing.frame import CHANNELS_LAST, HEAD, Bytes

SEALED = [name for name in codec.names() if not name.startswith(("fp32", "jpeg", "webp"))]
PICTURES = ["jpeg85", "webp85"]
SPEC = TensorSpec("features.3", (1, 6, 11, 7))
PICTURE = TensorSpec("input", (1, 3, 24, 32), "uint8")


def spec_of(name: str) -> TensorSpec:
    return PICTURE if name in PICTURES else SPEC


def honest(name: str) -> bytes:
    generator = torch.Generator().manual_seed(5)
    if name in PICTURES:
        tensor = torch.randint(0, 256, PICTURE.shape, dtype=torch.uint8, generator=generator)
    else:
        tensor = torch.randn(SPEC.shape, generator=generator)
    return bytes(codec.get(name).encode(tensor, spec_of(name)))


def sealed(name: str, payload: bytes, flags: int = 0, spec: TensorSpec = SPEC) -> bytes:
    """A buffer with a right checksum over anything."""
    packed = np.frombuffer(bytes(HEAD) + payload, np.uint8).copy()
    return bytes(frame.seal(packed, flags, frame.seed_of(name, spec)))


def try_to_decode(name: str, buffer: bytes, spec: TensorSpec) -> None:
    """Decode; a tensor of the right kind or a CodecError are both fine, all else is not."""
    try:
        unpacked = codec.get(name).decode(buffer, spec)
    except CodecError as error:
        assert spec.name in str(error)
    else:
        assert unpacked.shape == spec.shape
        assert torch.isfinite(unpacked.float()).all()


@pytest.mark.parametrize("name", ["fp32", *SEALED, *PICTURES])
def test_truncated_buffers_are_refused(name: str) -> None:
    packed = honest(name)
    for size in {0, 1, HEAD - 1, HEAD, HEAD + 1, len(packed) // 2, len(packed) - 1}:
        with pytest.raises(CodecError, match=spec_of(name).name):
            codec.get(name).decode(packed[:size], spec_of(name))
    for surplus in (b"\0", b"\1\1"):
        with pytest.raises(CodecError, match=spec_of(name).name):
            codec.get(name).decode(packed + surplus, spec_of(name))


@pytest.mark.parametrize("name", [*SEALED, *PICTURES])
@settings(max_examples=20, deadline=None)
@given(st.data())
def test_every_flipped_bit_is_noticed(name: str, data: st.DataObject) -> None:
    packed = bytearray(honest(name))
    place = data.draw(st.integers(0, 8 * len(packed) - 1))
    packed[place // 8] ^= 1 << place % 8
    with pytest.raises(CodecError, match=f"{spec_of(name).name}.*checksum"):
        codec.get(name).decode(packed, spec_of(name))


@pytest.mark.parametrize("name", SEALED)
def test_a_buffer_of_another_codec_or_tensor_is_refused(name: str) -> None:
    packed = honest(name)
    other = SEALED[(SEALED.index(name) + 1) % len(SEALED)]
    with pytest.raises(CodecError, match="checksum"):
        codec.get(other).decode(packed, SPEC)
    for spec in (TensorSpec("features.4", SPEC.shape), TensorSpec("features.3", (1, 6, 7, 11))):
        with pytest.raises(CodecError, match="checksum"):
            codec.get(name).decode(packed, spec)


@pytest.mark.parametrize("name", [*SEALED, *PICTURES])
@settings(max_examples=30, deadline=None)
@given(payload=st.binary(max_size=300), flags=st.integers(0, 255))
def test_any_bytes_with_a_right_checksum_are_harmless(name: str, payload: bytes, flags: int) -> None:
    try_to_decode(name, sealed(name, payload, flags, spec_of(name)), spec_of(name))


@pytest.mark.parametrize("name", [*SEALED, *PICTURES])
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_damage_behind_a_right_checksum_is_harmless(name: str, data: st.DataObject) -> None:
    packed = bytearray(honest(name))
    for _ in range(data.draw(st.integers(1, 4))):
        packed[data.draw(st.integers(HEAD, len(packed) - 1))] = data.draw(st.integers(0, 255))
    flags = data.draw(st.sampled_from((packed[4], data.draw(st.integers(0, 255)))))
    cut = data.draw(st.sampled_from((len(packed), data.draw(st.integers(HEAD, len(packed))))))
    try_to_decode(name, sealed(name, bytes(packed[HEAD:cut]), flags, spec_of(name)), spec_of(name))


@pytest.mark.parametrize("name", SEALED)
def test_channels_last_needs_channels(name: str) -> None:
    spec = TensorSpec("fc", (3, 5))
    packed = bytes(codec.get(name).encode(torch.randn(3, 5), spec))
    if name.startswith("t-"):
        return
    with pytest.raises(CodecError, match="channels-last"):
        codec.get(name).decode(sealed(name, packed[HEAD:], packed[4] | CHANNELS_LAST, spec), spec)


@pytest.mark.parametrize("low", (float("nan"), float("inf"), 3e38))
@pytest.mark.parametrize("step", (float("nan"), float("inf"), 0.0, -1.0, 1e-45))
@pytest.mark.parametrize("name", ("q8", "q4", "q3-zstd", "q4z", "e30", "t-q4"))
def test_ranges_that_no_sender_makes_are_refused(name: str, low: float, step: float) -> None:
    for pair in ((low, 1.0), (0.0, step)):
        payload = struct.pack("<ff", *pair) + honest(name)[HEAD + 8 :]
        with pytest.raises(CodecError, match=r"features\.3"):
            codec.get(name).decode(sealed(name, payload, honest(name)[4]), SPEC)


def bombs() -> list[tuple[str, bytes, int]]:
    """Small payloads that claim, or unpack to, a hundred megabytes."""
    zeros = bytes(100 << 20)
    grid = struct.pack("<ff", 0.0, 1.0)
    unsized = zstandard.ZstdCompressor(write_content_size=False).compress(zeros)
    return [
        ("q4-lz4", grid + lz4.block.compress(zeros, store_size=False), 2),
        ("q4-zstd", grid + zstandard.ZstdCompressor().compress(zeros), 2),
        ("q4-zstd", grid + unsized, 2),
        ("t-q4", grid + zstandard.ZstdCompressor().compress(zeros), 2 | 4),
    ]


@pytest.mark.parametrize("number", range(4))
def test_decompression_bombs_do_not_go_off(number: int) -> None:
    name, payload, flags = bombs()[number]
    buffer = sealed(name, payload, flags)
    tracemalloc.start()
    with pytest.raises(CodecError, match=r"features\.3"):
        codec.get(name).decode(buffer, SPEC)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 << 20


@pytest.mark.parametrize(("name", "file_format"), (("jpeg85", "JPEG"), ("webp85", "WEBP")))
def test_pictures_of_another_size_or_kind_are_refused(name: str, file_format: str) -> None:
    import io

    from PIL import Image

    for mode, size, kind in (("RGB", (4000, 4000), file_format), ("L", (32, 24), "JPEG"), ("RGB", (32, 24), "PNG")):
        file = io.BytesIO()
        Image.new(mode, size).save(file, kind)
        if mode == "L" and name != "jpeg85":
            continue
        with pytest.raises(CodecError, match="input"):
            codec.get(name).decode(sealed(name, file.getvalue(), 0, PICTURE), PICTURE)


def test_endless_magnitudes_end() -> None:
    """All ones: the longest code that the entropy coder's decoder can be made to follow."""
    payload = struct.pack("<ff", 0.0, 1.0) + b"\xff" * 2000
    for flags in (0, 4):
        try_to_decode("e30", sealed("e30", payload, flags), SPEC)


def random_bytes(size: int, seed: int) -> Bytes:
    return np.random.default_rng(seed).integers(0, 256, size, np.uint8)


@pytest.mark.parametrize("seed", range(20))
def test_the_entropy_decoder_stays_in_bounds_on_noise(seed: int) -> None:
    payload = struct.pack("<ff", 0.0, 1.0) + random_bytes(seed * 37, seed).tobytes()
    try_to_decode("e30", sealed("e30", payload), SPEC)
