"""The inner loops over elements, compiled by Numba: each touches memory once and releases the GIL.

Torch and NumPy need four to six passes for what is one pass here; `anabranch bench packing` holds the figures beside
each other. No fast-math: a node on another processor must compute the same values bit for bit.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable
from typing import Any, NoReturn

import numba
import numpy as np

from pipeline.errors import CodecError
from pipeline.packing.frame import Bytes, Floats

logger = logging.getLogger(__name__)

LIMIT = 1e38
"""Greatest magnitude that is packed: up to here the width of any range is a finite float32."""

LEAST_STEP = float(np.finfo(np.float32).tiny)
"""Least quantisation step: its inverse is a finite float32."""

_LIMIT_BITS = int(np.float32(LIMIT).view(np.uint32))
_SIGN = 0x80000000
_as_words = struct.Struct("=II")
_as_floats = struct.Struct("=ff")


def compiled(function: Callable[..., Any]) -> Any:
    """Compile at first use, keep on disk for the next process. Scalars must come as np.float32 to stay that wide."""
    try:
        return numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:
        # Neither beside this file nor in the home folder can anything be written: each process compiles for itself.
        logger.info("compiled code of %s is not kept: nowhere to write", function.__name__)
        return numba.njit(nogil=True)(function)


@compiled
def _range(words: Any) -> Any:
    """Bits of the least and greatest float of which `words` are the bits, and whether all are within the limit.

    As signed integers, positive floats sort by value and above all negative ones; as unsigned integers, negative
    floats sort by magnitude and above all positive ones; NaN and infinity come behind all finite ones of their sign.
    So two integer maxima, which processors take many at a time, give range and validity at once. Only where zero lies
    outside the range does its inner end need a second look.
    """
    signed = np.int32(-2147483648)
    unsigned = np.uint32(0)
    for i in range(words.size):
        word = words[i]
        signed = max(signed, word)
        unsigned = max(unsigned, np.uint32(word))
    ok = signed <= _LIMIT_BITS and unsigned <= _SIGN + _LIMIT_BITS
    low = np.uint32(unsigned)
    high = np.uint32(signed)
    if unsigned < _SIGN:
        least = words[0]
        for i in range(words.size):
            least = min(least, words[i])
        low = np.uint32(least)
    elif signed < 0:
        nearest = np.uint32(words[0])
        for i in range(words.size):
            nearest = min(nearest, np.uint32(words[i]))
        high = nearest
    return low, high, ok


def value_range(elements: Floats, name: str) -> tuple[float, float]:
    """Least and greatest element.

    Args:
        elements: at least one.
        name: of the tensor, for the error.

    Raises:
        CodecError: an element is NaN, infinite, or beyond `LIMIT`.
    """
    low, high, ok = _range(elements.view(np.int32))
    if not ok:
        refuse(name)
    least, greatest = _as_floats.unpack(_as_words.pack(low, high))
    return least, greatest


def refuse(name: str) -> NoReturn:
    """Raise for a tensor with elements that cannot be packed."""
    raise CodecError(f"tensor {name}", "holds NaN, infinity or values beyond 1e38", "look for the layer that diverges")


@compiled
def to_bytes(elements: Floats, low: float, inverse: float, out: Bytes) -> None:
    """out[i] = round((x[i] - low) * inverse); `low` and `inverse` must be np.float32, and the result within 0..255."""
    for i in range(out.size):
        out[i] = np.uint8(np.int32((elements[i] - low) * inverse + np.float32(0.5)))


@compiled
def to_clamped(elements: Floats, low: float, inverse: float, top: float, out: Bytes) -> None:
    """As `to_bytes`, for elements outside the range too: they take the nearest of the codes 0..top."""
    for i in range(out.size):
        code = (elements[i] - low) * inverse + np.float32(0.5)
        out[i] = np.uint8(np.int32(min(max(code, np.float32(0)), top)))


@compiled
def to_nibbles(elements: Floats, low: float, inverse: float, out: Bytes) -> None:
    """Codes 0..15, element i in the low half of byte i and element i + out.size in the high half."""
    rest = elements[out.size :]
    for i in range(rest.size):
        first = np.int32((elements[i] - low) * inverse + np.float32(0.5))
        second = np.int32((rest[i] - low) * inverse + np.float32(0.5))
        out[i] = np.uint8(first | (second << 4))
    for i in range(rest.size, out.size):
        out[i] = np.uint8(np.int32((elements[i] - low) * inverse + np.float32(0.5)))


@compiled
def from_bytes(codes: Bytes, low: float, step: float, out: Floats) -> None:
    """out[i] = low + step * code[i]."""
    for i in range(out.size):
        out[i] = low + step * np.float32(codes[i])


@compiled
def from_nibbles(packed: Bytes, low: float, step: float, out: Floats) -> None:
    """The inverse of `to_nibbles`."""
    rest = out[packed.size :]
    for i in range(packed.size):
        out[i] = low + step * np.float32(packed[i] & np.uint8(15))
    for i in range(rest.size):
        rest[i] = low + step * np.float32(packed[i] >> np.uint8(4))


@compiled
def channel_codes(rows: Any, lows: Floats, inverses: Floats, top: float, out: Any) -> None:
    """As `to_clamped` for rows[outer, channel, inner] with a range for each channel; `out` has the same shape."""
    outer, channels, inner = rows.shape
    for o in range(outer):
        if inner == 1:
            for c in range(channels):
                code = (rows[o, c, 0] - lows[c]) * inverses[c] + np.float32(0.5)
                out[o, c, 0] = np.uint8(np.int32(min(max(code, np.float32(0)), top)))
        else:
            for c in range(channels):
                low = lows[c]
                inverse = inverses[c]
                for i in range(inner):
                    code = (rows[o, c, i] - low) * inverse + np.float32(0.5)
                    out[o, c, i] = np.uint8(np.int32(min(max(code, np.float32(0)), top)))


@compiled
def channel_values(codes: Any, lows: Floats, steps: Floats, out: Any) -> None:
    """The inverse of `channel_codes`: out = low + step * code."""
    outer, channels, inner = codes.shape
    for o in range(outer):
        if inner == 1:
            for c in range(channels):
                out[o, c, 0] = lows[c] + steps[c] * np.float32(codes[o, c, 0])
        else:
            for c in range(channels):
                low = lows[c]
                step = steps[c]
                for i in range(inner):
                    out[o, c, i] = low + step * np.float32(codes[o, c, i])


@compiled
def channel_ranges(rows: Any, lows: Any, highs: Any) -> None:
    """Least and greatest element of each channel of rows[outer, channel, inner]; all elements finite.

    Args:
        rows: the elements' bits as int32.
        lows: room for the bits of the least elements, as int32.
        highs: as `lows`, for the greatest.
    """
    outer, channels, inner = rows.shape
    mask = np.int32(0x7FFFFFFF)
    lows[:] = mask
    highs[:] = np.int32(-2147483648)
    for o in range(outer):
        if inner == 1:
            for c in range(channels):
                word = rows[o, c, 0] ^ ((rows[o, c, 0] >> 31) & mask)
                lows[c] = min(lows[c], word)
                highs[c] = max(highs[c], word)
        else:
            for c in range(channels):
                least, greatest = lows[c], highs[c]
                for i in range(inner):
                    word = rows[o, c, i] ^ ((rows[o, c, i] >> 31) & mask)
                    least = min(least, word)
                    greatest = max(greatest, word)
                lows[c], highs[c] = least, greatest
    for c in range(channels):
        lows[c] ^= (lows[c] >> 31) & mask
        highs[c] ^= (highs[c] >> 31) & mask


@compiled
def to_integers(elements: Floats, origin: float, inverse: float, out: Any) -> None:
    """out[i] = round((x[i] - origin) * inverse) as int32, without bounds."""
    for i in range(out.size):
        out[i] = np.int32(np.floor((elements[i] - origin) * inverse + np.float32(0.5)))


@compiled
def to_steady(elements: Floats, origin: float, inverse: float, last: Any, out: Any) -> None:
    """As `to_integers`, but an element that lies within one step of its last integer keeps it."""
    for i in range(out.size):
        place = (elements[i] - origin) * inverse
        if abs(place - np.float32(last[i])) <= np.float32(1):
            out[i] = last[i]
        else:
            out[i] = np.int32(np.floor(place + np.float32(0.5)))


@compiled
def from_integers(codes: Any, origin: float, step: float, out: Floats) -> None:
    """out[i] = origin + step * code[i]."""
    for i in range(out.size):
        out[i] = origin + step * np.float32(codes[i])


@compiled
def moments(elements: Floats) -> Any:
    """Mean and standard deviation, in float64 and in two passes: neither overflows nor cancels."""
    total = 0.0
    for i in range(elements.size):
        total += elements[i]
    mean = total / elements.size
    square = 0.0
    for i in range(elements.size):
        square += (elements[i] - mean) ** 2
    return mean, np.sqrt(square / elements.size)


@compiled
def split_zeros(elements: Floats, present: Bytes, rest: Floats) -> Any:
    """Take out what is not zero.

    Args:
        elements: n of them.
        present: room for ceil(n / 8) bytes: bit j of byte k tells whether element 8 k + j is not zero.
        rest: room for n; the non-zeros, in order.

    Returns:
        Number of non-zeros.
    """
    count = 0
    for k in range(present.size):
        bits = 0
        for i in range(8 * k, min(8 * k + 8, elements.size)):
            rest[count] = elements[i]
            one = 1 if elements[i] != 0 else 0
            bits |= one << (i & 7)
            count += one
        present[k] = bits
    return count


@compiled
def join_zeros(present: Bytes, rest: Floats, out: Floats) -> None:
    """The inverse of `split_zeros`; never reads beyond `rest`, whatever the bits say."""
    place = 0
    for k in range(present.size):
        bits = present[k]
        for i in range(8 * k, min(8 * k + 8, out.size)):
            if (bits >> (i & 7)) & 1 and place < rest.size:
                out[i] = rest[place]
                place += 1
            else:
                out[i] = 0
