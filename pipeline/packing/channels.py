"""Linear quantisation with a range for each channel: `q8c` to `q2c`, and their clipped and compressed kin."""

from __future__ import annotations

import struct

import numpy as np

from pipeline.errors import CodecError
from pipeline.model.graph import TensorSpec
from pipeline.packing import clipping, kernels, stages
from pipeline.packing.frame import HEAD, Bytes, FloatCodec, Floats
from pipeline.packing.linear import Quantiser, check_finite, pack_codes, unpack_codes

_outer = struct.Struct("<ff")

ENDS = 255
"""The ends of a channel's range are multiples of 1/255 of the whole tensor's range: two bytes instead of eight."""

CHANNEL_ELEMENTS = 16
"""Channels of fewer elements share one range: two bytes for each would cost more than they gain."""


def row_shape(spec: TensorSpec, channels_last: bool) -> tuple[int, int, int]:
    """The elements in memory order as [outer, channel, inner]; one channel where elements are too few for more."""
    batch, channels = (*spec.shape, 1, 1)[:2]
    if len(spec.shape) < 3 or spec.numel < channels * CHANNEL_ELEMENTS:
        return 1, 1, spec.numel
    inner = spec.numel // (batch * channels)
    return (batch * inner, channels, 1) if channels_last else (batch, channels, inner)


class LinearChannels(FloatCodec):
    """One range per channel. Parameters: the tensor's low and high, then two bytes for each channel."""

    parameter_bytes = _outer.size

    def __init__(self, quantiser: Quantiser) -> None:
        super().__init__(quantiser.name)
        self.quantiser = quantiser

    def max_nbytes(self, spec: TensorSpec) -> int:
        """See `Codec.max_nbytes`; exact where there is no lossless stage."""
        if not spec.numel:
            return 0
        table = _outer.size + 2 * row_shape(spec, False)[1]
        return HEAD + table + stages.packed_nbytes(spec.numel, self.quantiser.bits)

    def pack(self, elements: Floats, spec: TensorSpec, channels_last: bool) -> tuple[Bytes, int]:
        """See `FloatCodec.pack`."""
        settings = self.quantiser
        low, high = kernels.value_range(elements, spec.name)
        rows = elements.reshape(row_shape(spec, channels_last))
        lows, highs = np.empty(rows.shape[1], np.float32), np.empty(rows.shape[1], np.float32)
        kernels.channel_ranges(rows.view(np.int32), lows.view(np.int32), highs.view(np.int32))
        if settings.clipped:
            lows, highs = clipping.analytic_channels(rows, lows, highs, settings.bits)
        ends = _round_outwards(lows, highs, low, high)
        lows, steps = _grid(ends, low, high, settings.top)
        codes = np.empty(rows.shape, np.uint8)
        kernels.channel_codes(rows, lows, np.float32(1) / steps, np.float32(settings.top), codes)
        payload, flags = pack_codes(settings, codes.reshape(-1), spec, channels_last)
        table = _outer.size + ends.size
        out = np.empty(HEAD + table + payload.size, np.uint8)
        _outer.pack_into(out.data, HEAD, low, high)
        out[HEAD + _outer.size : HEAD + table] = ends.reshape(-1)
        out[HEAD + table :] = payload
        return out, flags

    def unpack(self, body: Bytes, flags: int, spec: TensorSpec, channels_last: bool) -> Floats:
        """See `FloatCodec.unpack`."""
        low, high = _outer.unpack_from(body.data)
        if not -kernels.LIMIT <= low <= high <= kernels.LIMIT:
            raise CodecError(f"tensor {spec.name}", f"range from {low} to {high}")
        shape = row_shape(spec, channels_last)
        table = _outer.size + 2 * shape[1]
        ends = body[_outer.size : table]
        if ends.size != 2 * shape[1] or (ends[: shape[1]] > ends[shape[1] :]).any():
            raise CodecError(f"tensor {spec.name}", "its channels' ranges are damaged")
        lows, steps = _grid(ends.reshape(2, -1), low, high, self.quantiser.top)
        codes = unpack_codes(self.quantiser, body[table:], flags, spec, channels_last)
        out = np.empty(spec.numel, np.float32)
        kernels.channel_values(codes.reshape(shape), lows, steps, out.reshape(shape))
        check_finite(out, float(steps.max()), spec.name)
        return out


def _round_outwards(lows: Floats, highs: Floats, low: float, high: float) -> Bytes:
    """Ends of the channels' ranges on the grid of `ENDS` steps, never inside the range. Shape [2, channels]."""
    unit = max((high - low) / ENDS, kernels.LEAST_STEP)
    below = np.floor((lows.astype(np.float64) - low) / unit)
    above = np.ceil((highs.astype(np.float64) - low) / unit)
    return np.stack([below, above]).clip(0, ENDS).astype(np.uint8)


def _grid(ends: Bytes, low: float, high: float, top: int) -> tuple[Floats, Floats]:
    """Low end and step of each channel, from what travels: the same at the sender and at the receiver."""
    unit = max((high - low) / ENDS, kernels.LEAST_STEP)
    lows = low + ends[0] * unit
    steps = (ends[1].astype(np.float64) - ends[0]) * unit / top
    return lows.astype(np.float32), np.maximum(steps, kernels.LEAST_STEP).astype(np.float32)
