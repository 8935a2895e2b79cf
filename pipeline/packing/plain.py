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
    """`fp32`: the elements in native (little-endian) bytes, whatever the dtype.

    Row-major elements are sent as they lie, without a copy. Channels-last ones are sent in their own order, with one
    more byte behind them that says so.
    """

    name = "fp32"
    lossless = True

    def encode(self, tensor: Tensor, spec: TensorSpec) -> Buffer:
        """See `Codec.encode`; no copy for a contiguous tensor."""
        _require(tensor, spec)
        if tensor.is_contiguous() or not is_channels_last(tensor):
            return raw_view(tensor.contiguous())
        packed = torch.empty(spec.nbytes + 1, dtype=torch.uint8)
        packed[-1] = 1
        packed[:-1].copy_(tensor.detach().permute(0, 2, 3, 1).reshape(-1).view(torch.uint8))
        return packed.numpy().data

    def decode(self, buffer: Buffer, spec: TensorSpec) -> Tensor:
        """See `Codec.decode`; no copy."""
        view = memoryview(buffer).cast("B")
        if len(spec.shape) != 4 or not spec.nbytes or len(view) != spec.nbytes + 1 or view[-1] != 1:
            return from_raw(view, spec)
        return ROWS.decode(view[:-1], spec)

    def max_nbytes(self, spec: TensorSpec) -> int:
        """See `Codec.max_nbytes`."""
        return spec.nbytes + (len(spec.shape) == 4)


class RawRows:
    """`fp32-nhwc`: a map in the order batch, height, width, channels; no copy where it lies like that.

    In no plan, and not among the codecs that are offered: tiles of channels-last maps, which are rows of them, travel
    by it, and need neither the copy nor the mark that `Raw` makes of them.
    """

    name = "fp32-nhwc"
    lossless = True

    def encode(self, tensor: Tensor, spec: TensorSpec) -> Buffer:
        """See `Codec.encode`; no copy for a channels-last tensor."""
        _require(tensor, spec)
        if tensor.dim() != 4:
            raise CodecError(f"tensor {spec.name}", f"shape {spec.shape} is no batch of maps")
        if not spec.nbytes:
            return memoryview(b"")
        # By numpy: behind a convolution caches are cold, and each operator of torch takes a hundredth of a millisecond.
        rows = tensor.detach().contiguous(memory_format=torch.channels_last).numpy().transpose(0, 2, 3, 1)
        return rows.data.cast("B")

    def decode(self, buffer: Buffer, spec: TensorSpec) -> Tensor:
        """See `Codec.decode`; no copy."""
        if len(spec.shape) != 4:
            raise CodecError(f"tensor {spec.name}", f"shape {spec.shape} is no batch of maps")
        view = memoryview(buffer)
        if view.nbytes != spec.nbytes or not spec.nbytes:
            return from_raw(view, spec)
        _, channels, height, width = spec.shape
        strides = (height * width * channels, 1, width * channels, channels)
        return torch.frombuffer(view, dtype=DTYPES[spec.dtype]).as_strided(spec.shape, strides)

    def max_nbytes(self, spec: TensorSpec) -> int:
        """See `Codec.max_nbytes`."""
        return spec.nbytes


def is_channels_last(tensor: Tensor) -> bool:
    """Whether the elements lie densely in the order batch, height, width, channels."""
    return tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)


def _require(tensor: Tensor, spec: TensorSpec) -> None:
    if tensor.shape != spec.shape or tensor.dtype != DTYPES[spec.dtype]:
        found = f"{tensor.dtype} {tuple(tensor.shape)}"
        raise CodecError(f"tensor {spec.name}", f"{found} is not {spec.dtype} {spec.shape}")


ROWS = RawRows()

register(Raw())
