"""Lossless stages behind quantisation: bits packed; then LZ4 on bit planes, or zstd on codes, where that is smaller."""

from __future__ import annotations

import threading
from enum import StrEnum

import lz4.block
import numpy as np
import zstandard

from pipeline.errors import CodecError
from pipeline.packing import planes
from pipeline.packing.frame import Bytes

COMPRESSED = 2
"""Flag: the payload went through the stage's compressor (else it is packed bits only)."""

ZSTD_LEVEL = 1
"""Levels 2 to 6 gained under 3 % on activations and cost twice the time and more."""


class Stage(StrEnum):
    """What follows the packed bits."""

    NONE = ""
    LZ4 = "lz4"
    """LZ4 finds the zeros of ReLU in bit planes (DynO's packing); it has no entropy coder."""
    ZSTD = "zstd"
    """zstd's entropy coder wants whole codes; two codes of up to four bits share a byte, so that pairs are modelled."""


class _Contexts(threading.local):
    """zstd's contexts are large, and not to be shared between threads."""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL)
        self.decompressor = zstandard.ZstdDecompressor()


_contexts = _Contexts()


def packed_nbytes(count: int, width: int) -> int:
    """Bytes of `count` codes of `width` bits: as they are (8 bits), or as bit planes."""
    return count if width == 8 else width * planes.plane_nbytes(count)


def pack(codes: Bytes, width: int, stage: Stage) -> tuple[Bytes, int]:
    """Pack codes.

    Args:
        codes: values below 2 ** width.
        width: bits of a code, 1 to 8.
        stage: compressor to try.

    Returns:
        The payload, never longer than `packed_nbytes`, and `COMPRESSED` or 0.
    """
    if stage is not Stage.NONE:
        squeezed = (
            _lz4(codes, width) if stage is Stage.LZ4 else _contexts.compressor.compress(_paired(codes, width).data)
        )
        if len(squeezed) < packed_nbytes(codes.size, width):
            return np.frombuffer(squeezed, np.uint8), COMPRESSED
    return (codes if width == 8 else _planes(codes, width)), 0


def unpack(payload: Bytes, count: int, width: int, stage: Stage, name: str) -> Bytes:
    """The inverse of `pack`, where the compressor was used if `stage` names one.

    Args:
        payload: what `pack` gave.
        count: number of codes.
        width: bits of a code.
        stage: compressor that the payload went through.
        name: of the tensor, for the error.

    Returns:
        `count` codes; those of damaged payloads may be any value of 8 bits.

    Raises:
        CodecError: not as many bytes as these codes take, before or behind the compressor.
    """
    if stage is Stage.ZSTD:
        return _unpaired(_unzstd(payload, _paired_nbytes(count, width), name), count, width)
    if stage is Stage.LZ4:
        payload = _unlz4(payload, width * planes.plane_nbytes(count), name)
    elif payload.size != packed_nbytes(count, width):
        raise CodecError(f"tensor {name}", f"{payload.size} bytes where {packed_nbytes(count, width)} belong")
    elif width == 8:
        return payload
    codes = np.empty(count, np.uint8)
    planes.from_planes(payload, width, codes)
    return codes


def _planes(codes: Bytes, width: int) -> Bytes:
    out = np.empty(width * planes.plane_nbytes(codes.size), np.uint8)
    planes.to_planes(codes, width, out)
    return out


def _lz4(codes: Bytes, width: int) -> bytes:
    squeezed: bytes = lz4.block.compress(_planes(codes, width).data, store_size=False)
    return squeezed


def _unlz4(payload: Bytes, size: int, name: str) -> Bytes:
    """LZ4's block format has no length of its own: the decoder stops with an error at `size`."""
    try:
        data = lz4.block.decompress(payload.data, uncompressed_size=size)
    except lz4.block.LZ4BlockError as error:
        raise CodecError(f"tensor {name}", "its LZ4 block is damaged") from error
    if len(data) != size:
        raise CodecError(f"tensor {name}", f"its LZ4 block holds {len(data)} bytes where {size} belong")
    return np.frombuffer(data, np.uint8)


def _unzstd(payload: Bytes, size: int, name: str) -> Bytes:
    """zstd would allocate what the frame claims, so the claim is checked first."""
    try:
        claimed = zstandard.get_frame_parameters(payload.data).content_size
        if claimed != size:
            raise CodecError(f"tensor {name}", f"its zstd frame claims {claimed} bytes where {size} belong")
        data = _contexts.decompressor.decompress(payload.data)
    except zstandard.ZstdError as error:
        raise CodecError(f"tensor {name}", "its zstd frame is damaged") from error
    return np.frombuffer(data, np.uint8)


def _paired_nbytes(count: int, width: int) -> int:
    return (count + 1) // 2 if width <= 4 else count


def _paired(codes: Bytes, width: int) -> Bytes:
    if width > 4:
        return codes
    pairs = codes[::2].copy()
    pairs[: codes.size // 2] |= codes[1::2] << 4
    return pairs


def _unpaired(pairs: Bytes, count: int, width: int) -> Bytes:
    if width > 4:
        return pairs
    codes = np.empty(count, np.uint8)
    codes[::2] = pairs & 15
    codes[1::2] = pairs[: count // 2] >> 4
    return codes
