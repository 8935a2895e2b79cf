"""What every packed float tensor has in common on the wire: a sealed head, and the order of its elements.

    byte 0..3   checksum (low half of XXH3-64) over everything behind it, seeded by codec and tensor
    byte 4      flags: 1 = the elements are in channels-last order; the other bits belong to the codec
    byte 5..    the codec's own parameters, then its payload

TCP's 16-bit checksum lets damage through, and a flipped bit in a quantised payload is a valid payload; hence the
checksum. The seed makes a buffer of one codec or tensor unreadable as that of another. An empty tensor is an empty
buffer.
"""

from __future__ import annotations

import functools
import struct
import zlib
from abc import ABC, abstractmethod
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
import xxhash
from torch import Tensor

from pipeline.errors import CodecError
from pipeline.model.graph import TensorSpec
from pipeline.packing.codec import Buffer
from pipeline.packing.plain import DTYPES, is_channels_last

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
_Codes = TypeVar("_Codes", Bytes, npt.NDArray[np.int32])

HEAD = 5
"""Bytes of checksum and flags."""

CHANNELS_LAST = 1
"""Flag: elements are in memory order N, H, W, C."""

FLOATS = frozenset({"float32", "float16", "bfloat16"})
"""Element types that the quantising codecs carry."""

_checksum = struct.Struct("<I")


@functools.lru_cache(maxsize=4096)
def seed_of(codec: str, spec: TensorSpec) -> int:
    """Seed of the checksum: tied to the codec and to the tensor's name, shape and dtype."""
    return zlib.crc32(f"{codec}|{spec.name}|{spec.dtype}|{spec.shape}".encode())


def seal(packed: Bytes, flags: int, seed: int) -> memoryview:
    """Write flags and checksum into the first `HEAD` bytes of `packed`, and give it as a buffer."""
    view = packed.data
    view[4] = flags
    _checksum.pack_into(view, 0, xxhash.xxh3_64_intdigest(view[4:], seed) & 0xFFFFFFFF)
    return view


def unseal(buffer: Buffer, codec: str, spec: TensorSpec, least: int) -> tuple[Bytes, int]:
    """Check a buffer from a peer.

    Args:
        buffer: as `seal` made it.
        codec: name of the codec that it shall be of.
        spec: the tensor that it shall hold.
        least: bytes of parameters that must follow the head.

    Returns:
        The bytes behind the head (read-only, no copy), and the flags.

    Raises:
        CodecError: truncated, damaged, or made by another codec or for another tensor.
    """
    view = memoryview(buffer).cast("B")
    if len(view) < HEAD + least:
        raise CodecError(f"tensor {spec.name}", f"{len(view)} bytes are too few for {codec}")
    (found,) = _checksum.unpack_from(view)
    if found != xxhash.xxh3_64_intdigest(view[4:], seed_of(codec, spec)) & 0xFFFFFFFF:
        raise CodecError(f"tensor {spec.name}", f"checksum wrong for {codec} of {spec.dtype} {spec.shape}")
    body = np.frombuffer(view, np.uint8, offset=HEAD)
    body.flags.writeable = False
    return body, view[4]


def check(tensor: Tensor, spec: TensorSpec, codec: str, dtypes: frozenset[str] = FLOATS) -> None:
    """Refuse a tensor that is not what `spec` says, or that `codec` cannot carry.

    Raises:
        CodecError: another shape or dtype than the spec's, or a dtype that is not in `dtypes`.
    """
    if spec.dtype not in dtypes:
        raise CodecError(f"tensor {spec.name}", f"{codec} does not carry {spec.dtype}", "use fp32, which sends any")
    if tensor.dtype != DTYPES[spec.dtype] or tensor.shape != spec.shape:
        raise CodecError(
            f"tensor {spec.name}", f"{tensor.dtype} {tuple(tensor.shape)} is not {spec.dtype} {spec.shape}"
        )


def flatten(tensor: Tensor) -> tuple[Floats, bool]:
    """The elements as one run of float32, in memory order where the tensor is dense (no copy then).

    Returns:
        The elements, and whether they are in channels-last order.
    """
    if tensor.requires_grad:
        tensor = tensor.detach()
    last = not tensor.is_contiguous()
    if last:
        last = is_channels_last(tensor)
        tensor = tensor.permute(0, 2, 3, 1) if last else tensor.contiguous()
    if tensor.dtype is not torch.float32:
        tensor = tensor.to(torch.float32)
    elements: Floats = tensor.numpy().reshape(-1)
    return elements, last


def rebuild(elements: Floats, spec: TensorSpec, channels_last: bool) -> Tensor:
    """The tensor of which `flatten` gave the elements.

    Raises:
        CodecError: channels-last order for a tensor without channels, or elements that the dtype cannot hold.
    """
    flat = torch.from_numpy(elements)
    if spec.dtype != "float32":
        flat = flat.to(DTYPES[spec.dtype])
        if spec.dtype == "float16" and not torch.isfinite(flat).all():
            raise CodecError(f"tensor {spec.name}", "elements beyond float16")
    if not channels_last:
        return flat.view(spec.shape)
    batch, channels, height, width = image_shape(spec)
    return flat.view(batch, height, width, channels).permute(0, 3, 1, 2)


def image_shape(spec: TensorSpec) -> tuple[int, int, int, int]:
    """Batch, channels, height, width.

    Raises:
        CodecError: the tensor does not have four dimensions.
    """
    if len(spec.shape) != 4:
        raise CodecError(f"tensor {spec.name}", f"{spec.shape} has no channels-last order")
    return spec.shape[0], spec.shape[1], spec.shape[2], spec.shape[3]


def to_rows(codes: _Codes, spec: TensorSpec, channels_last: bool) -> _Codes:
    """Codes in row-major order, whose neighbours are neighbours in the map: what entropy coders and LZ4 live on."""
    if not channels_last:
        return codes
    batch, channels, height, width = image_shape(spec)
    rows: _Codes = torch.from_numpy(codes).view(batch, height, width, channels).permute(0, 3, 1, 2).reshape(-1).numpy()
    return rows


def from_rows(codes: _Codes, spec: TensorSpec, channels_last: bool) -> _Codes:
    """The inverse of `to_rows`."""
    if not channels_last:
        return codes
    maps = torch.from_numpy(codes if codes.flags.writeable else codes.copy()).view(image_shape(spec))
    elements: _Codes = maps.permute(0, 2, 3, 1).reshape(-1).numpy()
    return elements


class FloatCodec(ABC):
    """A lossy codec over the float elements of a tensor in memory order: the frame around `pack` and `unpack`."""

    lossless = False
    parameter_bytes = 0
    """Bytes that follow the head at least."""

    def __init__(self, name: str) -> None:
        self.name = name

    def encode(self, tensor: Tensor, spec: TensorSpec) -> Buffer:
        """See `Codec.encode`; no copy of a contiguous or channels-last tensor."""
        check(tensor, spec, self.name)
        if not spec.numel:
            return b""
        elements, last = flatten(tensor)
        packed, flags = self.pack(elements, spec, last)
        return seal(packed, flags | last, seed_of(self.name, spec))

    def decode(self, buffer: Buffer, spec: TensorSpec) -> Tensor:
        """See `Codec.decode`."""
        if not spec.numel:
            return decode_empty(buffer, spec)
        body, flags = unseal(buffer, self.name, spec, self.parameter_bytes)
        last = bool(flags & CHANNELS_LAST)
        if last:
            image_shape(spec)
        return rebuild(self.unpack(body, flags & ~CHANNELS_LAST, spec, last), spec, last)

    @abstractmethod
    def max_nbytes(self, spec: TensorSpec) -> int:
        """See `Codec.max_nbytes`."""

    @abstractmethod
    def pack(self, elements: Floats, spec: TensorSpec, channels_last: bool) -> tuple[Bytes, int]:
        """Pack a run of at least one element.

        Returns:
            A buffer whose first `HEAD` bytes are left free, and the codec's own flags (a multiple of 2).

        Raises:
            CodecError: NaN, infinity, or beyond `kernels.LIMIT`.
        """

    @abstractmethod
    def unpack(self, body: Bytes, flags: int, spec: TensorSpec, channels_last: bool) -> Floats:
        """The elements of what `pack` wrote behind the head; `spec.numel` of them, in memory order.

        Raises:
            CodecError: not a buffer that `pack` makes.
        """


def decode_empty(buffer: Buffer, spec: TensorSpec) -> Tensor:
    """A tensor without elements.

    Raises:
        CodecError: the buffer is not empty.
    """
    if memoryview(buffer).nbytes:
        raise CodecError(f"tensor {spec.name}", "bytes for a tensor without elements")
    return torch.empty(spec.shape, dtype=DTYPES[spec.dtype])
