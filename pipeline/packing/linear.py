"""Linear quantisation: `q8` to `q2` with one range for the tensor, `q8c` to `q2c` with one for each channel.

An element x of the range [low, high] becomes the code round((x - low) / step), step = (high - low) / (2^bits - 1),
and comes back as low + step * code. A letter behind the bits, `c`, asks for a range per channel; `a` for a range that
is clipped by an analytic rule (see `clipping`); `-lz4` or `-zstd` for a lossless stage, kept where it is smaller.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np

from pipeline.errors import CodecError
from pipeline.model.graph import TensorSpec
from pipeline.packing import clipping, kernels, stages
from pipeline.packing.frame import HEAD, Bytes, FloatCodec, Floats, from_rows, to_rows
from pipeline.packing.stages import COMPRESSED, Stage

_range = struct.Struct("<ff")

CHANNEL_ELEMENTS = 16
"""Channels of fewer elements share one range: two bytes for each would cost more than they gain."""


@dataclass(frozen=True)
class Quantiser:
    """The settings of a linear codec, which also make its name."""

    bits: int
    per_channel: bool = False
    clipped: bool = False
    stage: Stage = Stage.NONE

    @property
    def name(self) -> str:
        """Such as `q4`, `q3ca-lz4`."""
        suffix = f"-{self.stage}" if self.stage else ""
        return f"q{self.bits}{'c' * self.per_channel}{'a' * self.clipped}{suffix}"

    @property
    def top(self) -> int:
        """The greatest code."""
        return (1 << self.bits) - 1


def step_of(low: float, high: float, top: int) -> float:
    """Quantisation step, as the float32 that travels; no subnormal, so that its inverse is finite."""
    return float(np.float32(max((high - low) / top, kernels.LEAST_STEP)))


def read_range(body: Bytes, name: str) -> tuple[np.float32, np.float32]:
    """Low end and step from the front of a packed tensor.

    Raises:
        CodecError: not a range that a sender makes.
    """
    low, step = _range.unpack_from(body.data)
    if not (abs(low) <= kernels.LIMIT * 1.01 and kernels.LEAST_STEP <= step <= 2.02 * kernels.LIMIT):
        raise CodecError(f"tensor {name}", f"range from {low} in steps of {step}")
    return np.float32(low), np.float32(step)


class Linear(FloatCodec):
    """One range for the whole tensor. Parameters: low, step (8 bytes)."""

    parameter_bytes = _range.size

    def __init__(self, quantiser: Quantiser) -> None:
        super().__init__(quantiser.name)
        self.quantiser = quantiser
        self._fused = quantiser.bits in (4, 8) and not quantiser.clipped and not quantiser.stage

    def max_nbytes(self, spec: TensorSpec) -> int:
        """See `Codec.max_nbytes`; exact where there is no lossless stage."""
        return HEAD + _range.size + self._payload_nbytes(spec.numel) if spec.numel else 0

    def pack(self, elements: Floats, spec: TensorSpec, channels_last: bool) -> tuple[Bytes, int]:
        """See `FloatCodec.pack`. One pass for the range, and one that quantises and packs where bits are 8 or 4."""
        settings = self.quantiser
        low, high = kernels.value_range(elements, spec.name)
        if settings.clipped:
            low, high = clipping.analytic(elements, low, high, settings.bits)
        step = step_of(low, high, settings.top)
        grid = np.float32(low), np.float32(1 / step)
        if self._fused:
            out, flags = np.empty(self.max_nbytes(spec), np.uint8), 0
            kernel = kernels.to_nibbles if settings.bits == 4 else kernels.to_bytes
            kernel(elements, *grid, out[HEAD + _range.size :])
        else:
            codes = np.empty(elements.size, np.uint8)
            kernels.to_clamped(elements, *grid, np.float32(settings.top), codes)
            payload, flags = pack_codes(settings, codes, spec, channels_last)
            out = np.empty(HEAD + _range.size + payload.size, np.uint8)
            out[HEAD + _range.size :] = payload
        _range.pack_into(out.data, HEAD, low, step)
        return out, flags

    def unpack(self, body: Bytes, flags: int, spec: TensorSpec, channels_last: bool) -> Floats:
        """See `FloatCodec.unpack`."""
        low, step = read_range(body, spec.name)
        payload, out = body[_range.size :], np.empty(spec.numel, np.float32)
        if self._fused and self.quantiser.bits == 4:
            if payload.size != self._payload_nbytes(spec.numel):
                raise CodecError(f"tensor {spec.name}", f"{payload.size} bytes of payload are not {self.name}")
            kernels.from_nibbles(payload, low, step, out)
        else:
            codes = unpack_codes(self.quantiser, payload, flags, spec, channels_last)
            kernels.from_bytes(codes, low, step, out)
        check_finite(out, float(step), spec.name)
        return out

    def _payload_nbytes(self, count: int) -> int:
        nibbles = self._fused and self.quantiser.bits == 4
        return (count + 1) // 2 if nibbles else stages.packed_nbytes(count, self.quantiser.bits)


def check_finite(elements: Floats, step: float, name: str) -> None:
    """Refuse what no sender makes: a wide step, with codes (damaged ones may be any byte) that lead beyond float32.

    Raises:
        CodecError: an element is not finite.
    """
    if 255.0 * step > kernels.LIMIT and not np.isfinite(elements).all():
        raise CodecError(f"tensor {name}", f"elements beyond float32, in steps of {step}")


def pack_codes(quantiser: Quantiser, codes: Bytes, spec: TensorSpec, channels_last: bool) -> tuple[Bytes, int]:
    """Payload and flags of a whole tensor's codes in memory order; a stage sees them in row-major order."""
    if quantiser.stage:
        codes = to_rows(codes, spec, channels_last)
    return stages.pack(codes, quantiser.bits, quantiser.stage)


def unpack_codes(quantiser: Quantiser, payload: Bytes, flags: int, spec: TensorSpec, channels_last: bool) -> Bytes:
    """The inverse of `pack_codes` (see `stages.unpack`)."""
    stage = quantiser.stage if flags & COMPRESSED else Stage.NONE
    codes = stages.unpack(payload, spec.numel, quantiser.bits, stage, spec.name)
    return from_rows(codes, spec, channels_last) if quantiser.stage else codes
