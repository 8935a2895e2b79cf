"""Codecs that send the elements as they are, or as half floats."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from pipeline.errors import CodecError
from pipeline.model.graph import ITEM_BYTES, TensorSpec
from pipeline.packing.codec import Buffer, register

DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in ITEM_BYTES}
"""Torch's dtype for each name that a `TensorSpec` may carry."""


def raw_view(tensor: Tensor) -> memoryview:
    """The bytes of a contiguous CPU tensor, without a copy."""
    if tensor.numel() == 0:
        return memoryview(b"")
    run = tensor.detach().as_strided((tensor.numel(),), (1,))  # one element may come with any stride
    return run.view(torch.uint8).numpy().data


def from_raw(buffer: Buffer, spec: TensorSpec) -> Tensor:
    """A tensor over `buffer` (no copy; writable only where the buffer is).

    Raises:
        CodecError: the byte count is not that of `spec`.
    """
    view = memoryview(buffer)
    if view.nbytes != spec.nbytes:
        raise CodecError(f"tensor {spec.name}", f"{view.nbytes} bytes where {spec.nbytes} belong")
    if not spec.nbytes:
        return torch.empty(spec.shape, dtype=DTYPES[spec.dtype])
    return torch.frombuffer(view, dtype=DTYPES[spec.dtype]).reshape(spec.shape)


class Raw:
    """`fp32`: the elements in row-major order and native (little-endian) bytes, whatever the dtype."""

    name = "fp32"
    lossless = True

    def encode(self, tensor: Tensor, spec: TensorSpec) -> Buffer:
        """See `Codec.encode`; no copy for a contiguous tensor."""
        return raw_view(tensor.contiguous())

    def decode(self, buffer: Buffer, spec: TensorSpec) -> Tensor:
        """See `Codec.decode`; no copy."""
        return from_raw(buffer, spec)

    def max_nbytes(self, spec: TensorSpec) -> int:
        """See `Codec.max_nbytes`; exact."""
        return spec.nbytes


class Half:
    """`fp16`: half floats; within half a unit of their last place, up to 65504."""

    name = "fp16"
    lossless = False

    def encode(self, tensor: Tensor, spec: TensorSpec) -> Buffer:
        """See `Codec.encode`."""
        if tensor.dtype != torch.float32 or spec.dtype != "float32":
            raise CodecError(f"tensor {spec.name}", f"fp16 carries float32, not {spec.dtype}", "use fp32")
        half = tensor.detach().to(torch.float16)
        if not torch.isfinite(half).all():
            raise CodecError(f"tensor {spec.name}", "holds NaN, infinity or values beyond 65504")
        return raw_view(half.contiguous())

    def decode(self, buffer: Buffer, spec: TensorSpec) -> Tensor:
        """See `Codec.decode`."""
        if spec.dtype != "float32":
            raise CodecError(f"tensor {spec.name}", f"fp16 carries float32, not {spec.dtype}")
        half = from_raw(buffer, dataclasses.replace(spec, dtype="float16"))
        if not torch.isfinite(half).all():
            raise CodecError(f"tensor {spec.name}", "half floats hold NaN or infinity, which no sender makes")
        return half.to(torch.float32)

    def max_nbytes(self, spec: TensorSpec) -> int:
        """See `Codec.max_nbytes`; exact."""
        return 2 * spec.numel


register(Raw())
register(Half())
