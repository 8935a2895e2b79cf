"""Temporal packing: exact state at both ends, key frames, recovery, and never the wrong reference."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pipeline.errors import CodecError
from pipeline.model.graph import TensorSpec
from pipeline.packing import codec
from pipeline.packing.frame import HEAD
from pipeline.packing.sessions import MissingReference, open_decoder, open_encoder, warm
from pipeline.packing.temporal import KEY

NAMES = [name for name in codec.names() if name.startswith("t-")]
SPEC = TensorSpec("features.3", (1, 8, 12, 10))


def film(count: int, seed: int, change: float = 0.05) -> list[Tensor]:
    """Frames of which each differs from the one before in a share `change` of the elements."""
    random = np.random.default_rng(seed)
    frames = [random.standard_normal(SPEC.shape)]
    while len(frames) < count:
        moved = random.random(SPEC.shape) < change
        frames.append(np.where(moved, random.standard_normal(SPEC.shape), frames[-1]))
    return [torch.from_numpy(frame.astype(np.float32)) for frame in frames]


def is_key(packed: bytes) -> bool:
    return bool(packed[4] & KEY)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10**6), change=st.floats(0, 1), keys=st.sets(st.integers(0, 11)))
def test_errors_stay_below_half_a_step_and_do_not_add_up(name: str, seed: int, change: float, keys: set[int]) -> None:
    encoder, decoder = open_encoder(name), open_decoder(name)
    step = 0.0
    for number, tensor in enumerate(film(12, seed, change)):
        packed = bytes(encoder.encode(tensor, SPEC, number, number in keys))
        assert is_key(packed) or (number not in keys and number > 0)
        step = struct.unpack_from("<ff", packed, HEAD)[1] if is_key(packed) else step
        assert len(packed) <= codec.get(name).max_nbytes(SPEC)
        unpacked = decoder.decode(packed, SPEC, number)
        assert float((unpacked - tensor).abs().max()) <= step / 2 * (1 + 1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_what_does_not_change_costs_almost_nothing(name: str) -> None:
    encoder = open_encoder(name)
    tensor = film(1, 1)[0]
    sizes = [len(bytes(encoder.encode(tensor, SPEC, number, False))) for number in range(4)]
    assert max(sizes[1:]) < 64 < sizes[0]


@pytest.mark.parametrize("name", ("t-q4", "t-q8", "t-e30"))
def test_a_new_scene_is_a_key_frame_no_larger_than_the_plain_codec(name: str) -> None:
    encoder, decoder = open_encoder(name), open_decoder(name)
    for number, tensor in enumerate(film(6, 3, change=1.0)):
        packed = bytes(encoder.encode(tensor, SPEC, number, False))
        alone = bytes(codec.get(name).encode(tensor, SPEC))
        assert len(packed) <= len(alone) * 1.1
        decoder.decode(packed, SPEC, number)


@pytest.mark.parametrize("name", ("t-q4", "t-e30"))
@pytest.mark.parametrize("factor", (0.1, 10.0))
def test_a_grid_that_no_longer_fits_is_replaced(name: str, factor: float) -> None:
    encoder = open_encoder(name)
    tensor = film(1, 4)[0]
    encoder.encode(tensor, SPEC, 0, False)
    assert is_key(bytes(encoder.encode(tensor * factor, SPEC, 1, False)))


@pytest.mark.parametrize("name", ("t-q4", "t-e30"))
def test_a_lost_frame_is_noticed_and_a_key_frame_mends_it(name: str) -> None:
    encoder, decoder = open_encoder(name), open_decoder(name)
    frames = film(6, 5)
    decoder.decode(encoder.encode(frames[0], SPEC, 0, False), SPEC, 0)
    encoder.encode(frames[1], SPEC, 1, False)
    for number in (2, 3):
        with pytest.raises(
            MissingReference, match=rf"features\.3: frame {number} builds on frame {number - 1}, held is 0"
        ):
            decoder.decode(encoder.encode(frames[number], SPEC, number, False), SPEC, number)
    mended = decoder.decode(encoder.encode(frames[2], SPEC, 2, True), SPEC, 2)
    assert float((mended - frames[2]).abs().max()) < 1
    again = encoder.encode(frames[4], SPEC, 4, False)
    assert not is_key(bytes(again))
    decoder.decode(again, SPEC, 4)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=10, deadline=None)
@given(lost=st.lists(st.booleans(), min_size=12, max_size=12), seed=st.integers(0, 99))
def test_with_any_losses_each_frame_is_right_or_refused(name: str, lost: list[bool], seed: int) -> None:
    encoder, decoder = open_encoder(name), open_decoder(name)
    key, step = False, 0.0
    for number, tensor in enumerate(film(12, seed)):
        packed = bytes(encoder.encode(tensor, SPEC, number, key))
        step = struct.unpack_from("<ff", packed, HEAD)[1] if is_key(packed) else step
        key = False
        if lost[number]:
            continue
        try:
            unpacked = decoder.decode(packed, SPEC, number)
        except MissingReference:
            key = True
        else:
            assert float((unpacked - tensor).abs().max()) <= step / 2 * (1 + 1e-4)


@pytest.mark.parametrize("name", ("t-q4", "t-e30"))
def test_refused_tensors_and_buffers_leave_the_state_as_it_was(name: str) -> None:
    encoder, decoder = open_encoder(name), open_decoder(name)
    frames = film(3, 6)
    decoder.decode(encoder.encode(frames[0], SPEC, 0, False), SPEC, 0)
    with pytest.raises(CodecError, match="NaN"):
        encoder.encode(frames[1] / 0, SPEC, 1, False)
    packed = bytearray(encoder.encode(frames[1], SPEC, 1, False))
    packed[-1] ^= 1
    with pytest.raises(CodecError, match="checksum"):
        decoder.decode(packed, SPEC, 1)
    packed[-1] ^= 1
    assert not is_key(bytes(packed))
    decoder.decode(packed, SPEC, 1)


@pytest.mark.parametrize("name", ("t-q4", "t-e30"))
def test_channels_last_and_batches_are_carried(name: str) -> None:
    spec = TensorSpec("features.3", (2, 8, 6, 5))
    encoder, decoder = open_encoder(name), open_decoder(name)
    tensor = torch.randn(spec.shape)
    for number, layout in enumerate((tensor, tensor.contiguous(memory_format=torch.channels_last), tensor)):
        packed = bytes(encoder.encode(layout, spec, number, False))
        assert is_key(packed) == (number == 0)
        assert float((decoder.decode(packed, spec, number) - tensor).abs().max()) < 0.5


def test_an_empty_tensor_needs_no_state() -> None:
    spec = TensorSpec("none", (1, 0, 2, 2))
    packed = open_encoder("t-q4").encode(torch.zeros(spec.shape), spec, 7, False)
    assert packed == b"" and open_decoder("t-q4").decode(packed, spec, 7).shape == spec.shape


def test_a_reference_to_a_frame_of_another_size_is_refused() -> None:
    encoder, decoder = open_encoder("t-q4"), open_decoder("t-q4")
    frames = film(2, 8)
    encoder.encode(frames[0], SPEC, 0, False)
    change = encoder.encode(frames[1], SPEC, 1, False)
    small = TensorSpec(SPEC.name, (1, 8, 2, 2))
    decoder.decode(open_encoder("t-q4").encode(torch.randn(small.shape), small, 0, True), small, 0)
    with pytest.raises(MissingReference):
        decoder.decode(change, SPEC, 1)


def test_plain_codecs_open_as_sessions_too() -> None:
    tensor = film(1, 9)[0]
    packed = open_encoder("q4").encode(tensor, SPEC, 0, True)
    assert float((open_decoder("q4").decode(packed, SPEC, 0) - tensor).abs().max()) < 0.5


@pytest.mark.parametrize("name", ("fp32", "q4", "q3ca-zstd", "t-e30"))
@pytest.mark.parametrize("shape", ((1, 6, 5, 4), (1, 10), (1, 0, 2, 2)))
def test_warming_takes_any_tensor(name: str, shape: tuple[int, ...]) -> None:
    warm(name, TensorSpec("x", shape))


def test_warming_refuses_what_the_codec_refuses() -> None:
    warm("jpeg85", TensorSpec("input", (1, 3, 9, 7), "uint8"))
    with pytest.raises(CodecError, match="one RGB picture"):
        warm("jpeg85", TensorSpec("input", (2, 3, 9, 7), "uint8"))
