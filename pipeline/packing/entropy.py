"""`e40` to `e15`: quantisation in one step size for all channels, behind it an entropy coder with adaptive contexts.

The name says tenths of a bit that an element of a Gauss density would take; real maps take less. About a hundred
nanoseconds an element: for links so slow that bytes count for more (a map of 12,000 elements takes a millisecond).
"""

from __future__ import annotations

import numpy as np

from pipeline.errors import CodecError
from pipeline.model.graph import TensorSpec
from pipeline.packing import grid, kernels
from pipeline.packing.frame import HEAD, Bytes, FloatCodec, Floats, from_rows, to_rows

RATES = (40, 35, 30, 25, 20, 15)
"""Tenths of a bit."""

PLAIN = 2
"""Flag: the elements themselves, where the code would be longer (a handful of elements)."""


class Entropy(FloatCodec):
    """Parameters: grid (8 bytes)."""

    parameter_bytes = grid.GRID.size

    def __init__(self, tenths: int) -> None:
        super().__init__(f"e{tenths}")
        self._bits = tenths / 10

    def max_nbytes(self, spec: TensorSpec) -> int:
        """See `Codec.max_nbytes`."""
        return HEAD + grid.GRID.size + 4 * spec.numel if spec.numel else 0

    def pack(self, elements: Floats, spec: TensorSpec, channels_last: bool) -> tuple[Bytes, int]:
        """See `FloatCodec.pack`."""
        levels = grid.rate_grid(elements, self._bits, spec.name)
        payload, flags = grid.mix(to_rows(levels.codes(elements), spec, channels_last), spec), 0
        if payload.size > 4 * elements.size:
            payload, flags = elements.view(np.uint8), PLAIN
        out = np.empty(HEAD + grid.GRID.size + payload.size, np.uint8)
        levels.write(out, HEAD)
        out[HEAD + grid.GRID.size :] = payload
        return out, flags

    def unpack(self, body: Bytes, flags: int, spec: TensorSpec, channels_last: bool) -> Floats:
        """See `FloatCodec.unpack`."""
        levels, payload = grid.read_grid(body, spec.name), body[grid.GRID.size :]
        if not flags & PLAIN:
            codes = grid.unmix(payload, spec)
            return levels.values(from_rows(codes, spec, channels_last), spec.name)
        if payload.size != 4 * spec.numel:
            raise CodecError(f"tensor {spec.name}", f"{payload.size} bytes where {4 * spec.numel} belong")
        elements = payload.copy().view(np.float32)
        kernels.value_range(elements, spec.name)
        return elements
