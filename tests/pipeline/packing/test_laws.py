"""Laws that every codec keeps, for every shape, order of memory and element type."""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pipeline.errors import CodecError
from pipeline.model.graph import TensorSpec
from pipeline.packing import codec, grid, levels, linear
from pipeline.packing.catalogue import offered
from pipeline.packing.channels import row_shape
from pipeline.packing.frame import HEAD
from pipeline.packing.plain import ROWS
from tests.pipeline.packing.tensors import floats, pictures

FLOAT_CODECS = [name for name in codec.names() if not name.startswith(("jpeg", "webp", "fp"))]
LINEAR = [name for name in FLOAT_CODECS if re.fullmatch(r"q\d(a|c|ca|z)?(-\w+)?", name)]
PICTURES = [name for name in codec.names() if name.startswith(("jpeg", "webp"))]
Doubles = npt.NDArray[np.float64]
NARROW = ("float32", "float16", "bfloat16")

few = settings(max_examples=12, deadline=None)


def rounding(tensor: Tensor, bound: float) -> float:
    """What arithmetic in float32, and in the tensor's own type, adds to a bound on the error."""
    greatest = float(tensor.abs().max()) if tensor.numel() else 0.0
    unit = {torch.float32: 2.0**-21, torch.float16: 2.0**-10, torch.bfloat16: 2.0**-7}[tensor.dtype]
    return greatest * unit + bound * 1e-5 + 2e-38


def ranges(packed: bytes, spec: TensorSpec, name: str) -> tuple[Doubles, Doubles, Doubles]:
    """Low end, high end and step for each element in row-major order, from the parameters that the buffer carries."""
    body = np.frombuffer(packed, np.uint8, offset=HEAD)
    top = (1 << int(name[1])) - 1
    if "c" not in name.split("-")[0]:
        low, step = np.frombuffer(packed, np.float32, 2, HEAD).astype(np.float64)
        full = np.ones(spec.shape)
        return full * low, full * (low + top * step), full * step
    low, high = np.frombuffer(packed, np.float32, 2, HEAD).astype(np.float64)
    channels = row_shape(spec, False)[1]
    ends = body[8 : 8 + 2 * channels].reshape(2, channels) / 255 * (high - low) + low
    per_element = [np.empty(spec.shape), np.empty(spec.shape)]
    for end, out in zip(ends, per_element, strict=True):
        out[...] = end.reshape((1, -1) + (1,) * (len(spec.shape) - 2)) if channels > 1 else end[0]
    return per_element[0], per_element[1], (per_element[1] - per_element[0]) / top


@pytest.mark.parametrize("name", LINEAR)
@few
@given(floats(NARROW))
def test_linear_codecs_keep_half_a_step_inside_the_range(name: str, case: tuple[Tensor, TensorSpec]) -> None:
    tensor, spec = case
    packed = bytes(codec.get(name).encode(tensor, spec))
    unpacked = codec.get(name).decode(packed, spec)
    assert unpacked.shape == tensor.shape and unpacked.dtype == tensor.dtype
    if not spec.numel:
        return
    error = (unpacked.double() - tensor.double()).abs().numpy()
    low, high, step = ranges(packed, spec, name)
    values = tensor.double().numpy()
    inside = (values >= low) & (values <= high)
    if name.split("-")[0].endswith("z"):
        inside = values != 0
        assert (unpacked[tensor == 0] == 0).all()
    assert (error[inside] <= (step / 2)[inside] + rounding(tensor, float(step.max()))).all()
    outside = ~inside & (values != 0)
    beyond = np.maximum(low - values, values - high)
    assert (error[outside] <= (beyond + step / 2)[outside] + rounding(tensor, float(step.max()))).all()
    if not set("az") & set(name.split("-")[0]):
        slack = rounding(tensor, 0)
        assert (values >= low - slack).all() and (values <= high + slack).all()


@pytest.mark.parametrize("name", [name for name in FLOAT_CODECS if re.fullmatch(r"(t-)?e\d+|t-q\d", name)])
@few
@given(floats(NARROW))
def test_grid_codecs_keep_half_a_step_everywhere(name: str, case: tuple[Tensor, TensorSpec]) -> None:
    tensor, spec = case
    packed = bytes(codec.get(name).encode(tensor, spec))
    unpacked = codec.get(name).decode(packed, spec)
    assert unpacked.shape == tensor.shape and unpacked.dtype == tensor.dtype
    if spec.numel:
        step = float(np.frombuffer(packed, np.float32, 2, HEAD)[1])
        error = float((unpacked.double() - tensor.double()).abs().max())
        assert error <= step / 2 + rounding(tensor, step)


@pytest.mark.parametrize("bits", (4, 3, 2))
@few
@given(floats())
def test_nonuniform_codecs_take_the_nearest_level(bits: int, case: tuple[Tensor, TensorSpec]) -> None:
    tensor, spec = case
    if spec.numel and row_shape(spec, False)[1] > 1:
        tensor, spec = tensor[:, :1], TensorSpec(spec.name, tuple(tensor[:, :1].shape))
    packed = codec.get(f"l{bits}").encode(tensor, spec)
    unpacked = codec.get(f"l{bits}").decode(packed, spec)
    if not spec.numel or float(tensor.float().std(correction=0)) < 1e-30:
        return
    mean, deviation = np.frombuffer(bytes(packed), np.float32, 2, HEAD).astype(np.float64)
    table = np.frombuffer(bytes(packed), np.uint8, 2, HEAD + 8).astype(np.float64)
    found = levels.gauss_levels(bits) * (table[1] / 255 * deviation) + (table[0] - 128) / 127 * mean
    nearest = np.abs(found[:, None] - tensor.double().numpy().reshape(1, -1)).min(axis=0)
    error = (unpacked.double() - tensor.double()).abs().numpy().reshape(-1)
    assert (error <= nearest + rounding(tensor, float(deviation))).all()


@few
@given(floats(("float32", "float16", "bfloat16", "float64", "int64", "uint8")))
def test_raw_is_bit_exact(case: tuple[Tensor, TensorSpec]) -> None:
    tensor, spec = case
    unpacked = codec.get("fp32").decode(bytearray(codec.get("fp32").encode(tensor, spec)), spec)
    assert torch.equal(unpacked, tensor) and unpacked.dtype == tensor.dtype


@few
@given(floats(("float32", "float16", "float64", "int64", "uint8")), st.booleans())
def test_rows_of_maps_are_bit_exact_and_not_copied(case: tuple[Tensor, TensorSpec], last: bool) -> None:
    tensor, spec = case
    if tensor.dim() != 4:
        with pytest.raises(CodecError, match="no batch of maps"):
            ROWS.encode(tensor, spec)
        return
    tensor = tensor.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
    packed = ROWS.encode(tensor, spec)
    unpacked = ROWS.decode(bytearray(packed), spec)
    assert memoryview(packed).nbytes == spec.nbytes == ROWS.max_nbytes(spec)
    assert torch.equal(unpacked, tensor)
    if spec.numel:  # of nothing, torch says that it lies neither this way nor that
        assert unpacked.is_contiguous(memory_format=torch.channels_last)
    if last and spec.numel:
        assert torch.frombuffer(packed, dtype=torch.uint8).data_ptr() == tensor.data_ptr()
    with pytest.raises(CodecError, match="bytes"):
        ROWS.decode(bytearray(packed) + b"1", spec)


def test_raw_sends_channels_last_in_its_own_order() -> None:
    spec = TensorSpec("features.3", (1, 4, 3, 5))
    tensor = torch.randn(spec.shape).contiguous(memory_format=torch.channels_last)
    packed = codec.get("fp32").encode(tensor, spec)
    unpacked = codec.get("fp32").decode(bytearray(packed), spec)
    assert memoryview(packed).nbytes == spec.nbytes + 1 == codec.get("fp32").max_nbytes(spec)
    assert torch.equal(unpacked, tensor) and unpacked.stride() == tensor.stride()
    with pytest.raises(CodecError, match="61 bytes"):
        codec.get("fp32").decode(bytearray(packed)[:-180], spec)


@few
@given(floats())
def test_half_floats_are_the_nearest(case: tuple[Tensor, TensorSpec]) -> None:
    tensor, spec = case
    if spec.numel and float(tensor.abs().max()) > 65504:
        with pytest.raises(CodecError, match=r"features\.3"):
            codec.get("fp16").encode(tensor, spec)
        return
    unpacked = codec.get("fp16").decode(bytearray(codec.get("fp16").encode(tensor, spec)), spec)
    assert torch.equal(unpacked, tensor.half().float())


@pytest.mark.parametrize("name", ["fp32", "fp16", *FLOAT_CODECS])
@few
@given(floats())
def test_no_buffer_is_longer_than_stated(name: str, case: tuple[Tensor, TensorSpec]) -> None:
    tensor, spec = case
    if name != "fp16" or not spec.numel or float(tensor.abs().max()) < 65504:
        assert memoryview(codec.get(name).encode(tensor, spec)).nbytes <= codec.get(name).max_nbytes(spec)


@pytest.mark.parametrize("name", FLOAT_CODECS)
@pytest.mark.parametrize("value", (float("nan"), -float("nan"), float("inf"), -float("inf"), 2e38))
def test_what_is_not_finite_is_refused_at_the_sender(name: str, value: float) -> None:
    tensor = torch.ones(1, 4, 6, 6)
    tensor[0, 2, 3, 1] = value
    with pytest.raises(CodecError, match=r"features\.3.*NaN"):
        codec.get(name).encode(tensor, TensorSpec("features.3", (1, 4, 6, 6)))


@pytest.mark.parametrize("name", ["fp16", *FLOAT_CODECS])
def test_what_a_codec_cannot_carry_is_refused(name: str) -> None:
    spec = TensorSpec("features.3", (1, 3, 4, 4), "int64")
    with pytest.raises(CodecError, match=r"features\.3"):
        codec.get(name).encode(torch.ones(spec.shape, dtype=torch.int64), spec)
    if name != "fp16":
        with pytest.raises(CodecError, match="is not float32"):
            codec.get(name).encode(torch.ones(1, 3, 4, 5), TensorSpec("features.3", (1, 3, 4, 4)))


@pytest.mark.parametrize("name", PICTURES)
@settings(max_examples=5, deadline=None)
@given(pictures())
def test_pictures_come_back_alike_and_within_their_bound(name: str, case: tuple[Tensor, TensorSpec]) -> None:
    tensor, spec = case
    packed = codec.get(name).encode(tensor, spec)
    unpacked = codec.get(name).decode(packed, spec)
    assert unpacked.shape == tensor.shape and unpacked.dtype == torch.uint8
    assert float((unpacked.float() - tensor.float()).abs().mean()) < 60 - int(name[4:]) / 2
    assert memoryview(packed).nbytes <= codec.get(name).max_nbytes(spec)


@pytest.mark.parametrize("name", ("jpeg75", "webp75"))
@settings(max_examples=5, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 99))
def test_noise_is_the_worst_picture_and_within_its_bound(name: str, height: int, width: int, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (1, 3, height, width), np.uint8)
    spec = TensorSpec("input", pixels.shape, "uint8")
    for chosen in (name, f"{name[:4]}95"):
        packed = codec.get(chosen).encode(torch.from_numpy(pixels), spec)
        assert memoryview(packed).nbytes <= codec.get(chosen).max_nbytes(spec)


@pytest.mark.parametrize("shape", ((2, 3, 8, 8), (1, 1, 8, 8), (3, 8, 8), (1, 3, 0, 8)))
def test_no_single_picture_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(CodecError, match="one RGB picture"):
        codec.get("jpeg85").encode(torch.zeros(shape, dtype=torch.uint8), TensorSpec("input", shape, "uint8"))


def test_codecs_are_offered_where_they_make_sense() -> None:
    picture = offered(TensorSpec("input", (1, 3, 32, 32), "uint8"))
    signed, unsigned = offered(TensorSpec("a", (1, 8, 4, 4))), offered(TensorSpec("a", (1, 8, 4, 4), unsigned=True))
    assert picture[0] == "fp32" and set(picture[1:]) == set(PICTURES)
    assert offered(TensorSpec("input", (2, 3, 32, 32), "uint8")) == offered(TensorSpec("n", (1,), "int64")) == ("fp32",)
    assert {"fp32", "fp16", "q4", "q3ca-zstd", "e25", "t-q4"} <= set(signed) and not set(signed) & set(PICTURES)
    assert set(unsigned) - set(signed) == {f"q{bits}z" for bits in range(2, 9)}
    assert "fp16" not in offered(TensorSpec("a", (1, 8, 4, 4), "float16"))


def test_bits_are_truly_packed() -> None:
    spec = TensorSpec("features.3", (1, 8, 10, 10))
    tensor = torch.randn(spec.shape)
    for bits in range(2, 9):
        assert memoryview(codec.get(f"q{bits}").encode(tensor, spec)).nbytes == HEAD + 8 + bits * 100


def test_unknown_codec_is_refused_by_name() -> None:
    with pytest.raises(CodecError, match="q9"):
        codec.get("q9")


def test_a_step_is_never_subnormal() -> None:
    assert linear.step_of(0.0, 1e-44, 255) == pytest.approx(1.1754944e-38)
    assert grid.rate_grid(np.zeros(9, np.float32), 3.0, "x").step == pytest.approx(1.1754944e-38)
