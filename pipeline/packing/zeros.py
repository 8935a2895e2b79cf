"""`q8z` to `q2z`: ReLU's zeros as one bit each, and the codes of the others.

A map of zeros and non-zeros goes in front, and all codes are spent on the range of the non-zeros; zeros come back
exact. Without a lossless stage this is the smallest where more than a `bits`-th of the elements are zero.
"""

from __future__ import annotations

import struct

import numpy as np

from pipeline.errors import CodecError
from pipeline.model.graph import TensorSpec
from pipeline.packing import kernels, stages
from pipeline.packing.frame import HEAD, Bytes, FloatCodec, Floats
from pipeline.packing.linear import check_finite, read_range, step_of

_range = struct.Struct("<ff")


class ZeroMap(FloatCodec):
    """Parameters: low and step of the non-zeros, then the map of non-zeros, one bit for each element."""

    parameter_bytes = _range.size

    def __init__(self, bits: int) -> None:
        super().__init__(f"q{bits}z")
        self._bits = bits

    def max_nbytes(self, spec: TensorSpec) -> int:
        """See `Codec.max_nbytes`."""
        if not spec.numel:
            return 0
        return HEAD + _range.size + (spec.numel + 7) // 8 + stages.packed_nbytes(spec.numel, self._bits)

    def pack(self, elements: Floats, spec: TensorSpec, channels_last: bool) -> tuple[Bytes, int]:
        """See `FloatCodec.pack`."""
        kernels.value_range(elements, spec.name)
        present, rest = np.empty((spec.numel + 7) // 8, np.uint8), np.empty_like(elements)
        rest = rest[: kernels.split_zeros(elements, present, rest)]
        low, high = kernels.value_range(rest, spec.name) if rest.size else (0.0, 0.0)
        top = (1 << self._bits) - 1
        step = step_of(low, high, top)
        codes = np.empty(rest.size, np.uint8)
        kernels.to_clamped(rest, np.float32(low), np.float32(1 / step), np.float32(top), codes)
        payload, _ = stages.pack(codes, self._bits, stages.Stage.NONE)
        out = np.concatenate([np.empty(HEAD + _range.size, np.uint8), present, payload])
        _range.pack_into(out.data, HEAD, low, step)
        return out, 0

    def unpack(self, body: Bytes, flags: int, spec: TensorSpec, channels_last: bool) -> Floats:
        """See `FloatCodec.unpack`."""
        low, step = read_range(body, spec.name)
        start = _range.size + (spec.numel + 7) // 8
        if body.size < start:
            raise CodecError(f"tensor {spec.name}", "its map of zeros is cut short")
        present = body[_range.size : start]
        count = int(np.bitwise_count(present).sum())
        codes = stages.unpack(body[start:], count, self._bits, stages.Stage.NONE, spec.name)
        rest, out = np.empty(count, np.float32), np.empty(spec.numel, np.float32)
        kernels.from_bytes(codes, low, step, rest)
        check_finite(rest, float(step), spec.name)
        kernels.join_zeros(present, rest, out)
        return out
