"""`l4` to `l2`: non-uniform levels, those that suit a Gauss density best (Lloyd 1957, Max 1960).

Each channel is scaled by its own mean and deviation. An element takes the nearest level, so it is off by at most half
the gap between the levels around it, if it lies between the outermost ones.
"""

from __future__ import annotations

import functools
import struct

import numpy as np
from scipy.special import ndtr

from pipeline.errors import CodecError
from pipeline.model.graph import TensorSpec
from pipeline.packing import kernels, stages
from pipeline.packing.channels import row_shape
from pipeline.packing.frame import HEAD, Bytes, FloatCodec, Floats

_scale = struct.Struct("<ff")


@functools.cache
def gauss_levels(bits: int) -> Floats:
    """The 2^bits levels of least squared error for a standard Gauss density, ascending.

    Lloyd's iteration on the density itself: edges halfway between levels, levels at the means between edges.
    """
    count = 1 << bits
    levels = np.linspace(-2, 2, count)
    for _ in range(500):
        edges = np.concatenate([[-np.inf], (levels[1:] + levels[:-1]) / 2, [np.inf]])
        density = np.exp(-np.square(edges) / 2) / np.sqrt(2 * np.pi)
        levels = (density[:-1] - density[1:]) / np.diff(ndtr(edges))
    return levels.astype(np.float32)


class Levels(FloatCodec):
    """Parameters: greatest mean and deviation, then for each channel its mean (int8) and deviation (uint8) in 127ths
    and 255ths of those."""

    parameter_bytes = _scale.size

    def __init__(self, bits: int) -> None:
        super().__init__(f"l{bits}")
        self._bits = bits

    def max_nbytes(self, spec: TensorSpec) -> int:
        """See `Codec.max_nbytes`; exact."""
        if not spec.numel:
            return 0
        table = 2 * row_shape(spec, False)[1]
        return HEAD + _scale.size + table + stages.packed_nbytes(spec.numel, self._bits)

    def pack(self, elements: Floats, spec: TensorSpec, channels_last: bool) -> tuple[Bytes, int]:
        """See `FloatCodec.pack`."""
        kernels.value_range(elements, spec.name)
        rows = elements.reshape(row_shape(spec, channels_last))
        wide = rows.astype(np.float64)
        means, deviations = wide.mean(axis=(0, 2)), wide.std(axis=(0, 2))
        scale = float(np.float32(abs(means).max())), float(np.float32(deviations.max()))
        table = np.stack([np.rint(means / (scale[0] or 1) * 127) + 128, np.ceil(deviations / (scale[1] or 1) * 255)])
        table = table.clip(0, 255).astype(np.uint8)
        centres, spreads = _moments(table, *scale)
        levels = gauss_levels(self._bits)
        scaled = (rows - centres[:, None]) / np.maximum(spreads, kernels.LEAST_STEP)[:, None]
        codes = np.searchsorted((levels[1:] + levels[:-1]) / 2, scaled).astype(np.uint8)
        payload, _ = stages.pack(codes.reshape(-1), self._bits, stages.Stage.NONE)
        out = np.concatenate([np.empty(HEAD + _scale.size, np.uint8), table.reshape(-1), payload])
        _scale.pack_into(out.data, HEAD, *scale)
        return out, 0

    def unpack(self, body: Bytes, flags: int, spec: TensorSpec, channels_last: bool) -> Floats:
        """See `FloatCodec.unpack`."""
        mean, deviation = _scale.unpack_from(body.data)
        shape = row_shape(spec, channels_last)
        start = _scale.size + 2 * shape[1]
        if not (0 <= mean <= kernels.LIMIT and 0 <= deviation <= kernels.LIMIT) or body.size < start:
            raise CodecError(f"tensor {spec.name}", f"damaged scale (mean {mean}, deviation {deviation})")
        centres, spreads = _moments(body[_scale.size : start].reshape(2, -1), mean, deviation)
        codes = stages.unpack(body[start:], spec.numel, self._bits, stages.Stage.NONE, spec.name)
        with np.errstate(over="ignore"):
            out = gauss_levels(self._bits)[codes].reshape(shape) * spreads[:, None] + centres[:, None]
        if mean + 4 * deviation > kernels.LIMIT and not np.isfinite(out).all():
            raise CodecError(f"tensor {spec.name}", f"elements beyond float32 (mean {mean}, deviation {deviation})")
        return out.reshape(-1)


def _moments(table: Bytes, mean: float, deviation: float) -> tuple[Floats, Floats]:
    """Means and deviations of the channels from what travels."""
    centres = (table[0].astype(np.float64) - 128) / 127 * mean
    return centres.astype(np.float32), (table[1].astype(np.float64) / 255 * deviation).astype(np.float32)
