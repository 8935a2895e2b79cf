"""Codecs that send the elements as they are, or as half floats."""

from __future__ import annotations

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
    return tensor.detach().reshape(-1).view(torch.uint8).numpy().data


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


register(Raw())
