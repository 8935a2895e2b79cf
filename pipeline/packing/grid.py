"""Quantisation to unbounded integers on a grid that is fixed once: for entropy coding and for differences of frames."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.errors import CodecError
from pipeline.model.graph import TensorSpec
from pipeline.packing import kernels, mixing
from pipeline.packing.frame import Bytes, Floats

Integers = npt.NDArray[np.int32]

GRID = struct.Struct("<ff")
"""Origin and step, as they travel."""

GAUSS_BITS = 2.05
"""Entropy in bits of a Gauss variable in steps of one standard deviation: log2(sqrt(2 pi e))."""


@dataclass(frozen=True)
class Grid:
    """Where the integers lie on the axis of values: origin + step * integer."""

    origin: float
    step: float

    def write(self, buffer: Bytes, offset: int) -> None:
        """Put the grid at `offset`."""
        GRID.pack_into(buffer.data, offset, self.origin, self.step)

    def holds(self, elements: Floats, name: str) -> bool:
        """Whether all elements lie within `mixing.LARGEST` / 4 steps of the origin.

        Raises:
            CodecError: NaN, infinity, or beyond `kernels.LIMIT`.
        """
        low, high = kernels.value_range(elements, name)
        return max(high - self.origin, self.origin - low) <= mixing.LARGEST / 4 * self.step

    def codes(self, elements: Floats) -> Integers:
        """The nearest integers; the same order and count as the elements."""
        out = np.empty(elements.size, np.int32)
        kernels.to_integers(elements, np.float32(self.origin), np.float32(1 / self.step), out)
        return out

    def steady_codes(self, elements: Floats, last: Integers) -> Integers:
        """The nearest integers, but the last ones where those are off by no more than one step."""
        out = np.empty(elements.size, np.int32)
        kernels.to_steady(elements, np.float32(self.origin), np.float32(1 / self.step), last, out)
        return out

    def halved(self) -> Grid:
        """The grid of half the step: what is n here is 2 n there."""
        return Grid(self.origin, self.step / 2)

    def values(self, codes: Integers, name: str) -> Floats:
        """The values at the integers.

        Raises:
            CodecError: one is not finite, so that no sender can have made it.
        """
        out = np.empty(codes.size, np.float32)
        kernels.from_integers(codes.reshape(-1), np.float32(self.origin), np.float32(self.step), out)
        if self.step * mixing.LARGEST > kernels.LIMIT and not np.isfinite(out).all():
            raise CodecError(f"tensor {name}", "values beyond float32")
        return out


def read_grid(body: Bytes, name: str, offset: int = 0) -> Grid:
    """The grid at `offset` of a packed tensor.

    Raises:
        CodecError: not a grid that a sender makes.
    """
    origin, step = GRID.unpack_from(body.data, offset)
    if not (abs(origin) <= kernels.LIMIT and kernels.LEAST_STEP <= step <= 4 * kernels.LIMIT):
        raise CodecError(f"tensor {name}", f"grid from {origin} in steps of {step}")
    return Grid(origin, step)


def rate_grid(elements: Floats, bits: float, name: str) -> Grid:
    """The grid on which a Gauss density of the tensor's deviation has an entropy of `bits`.

    One step for all channels: the least squared error for the bits spent, where the entropy coder knows how each
    channel spreads. The origin is zero, which ReLU leaves exact, unless the tensor lies far from it.

    Raises:
        CodecError: NaN, infinity, or beyond `kernels.LIMIT`.
    """
    kernels.value_range(elements, name)
    mean, deviation = kernels.moments(elements)
    origin = float(np.float32(mean)) if abs(mean) > 4 * deviation else 0.0
    step = float(np.float32(max(deviation * 2 ** (GAUSS_BITS - bits), abs(mean) * 1e-6, kernels.LEAST_STEP)))
    return Grid(origin, step)


def map_shape(spec: TensorSpec) -> tuple[int, int, int]:
    """The tensor as maps: all but the last two dimensions together, height, width."""
    height, width = (1, 1, *spec.shape)[-2:]
    return spec.numel // (height * width), height, width


def mix(codes: Integers, spec: TensorSpec) -> Bytes:
    """Entropy-code integers of a tensor in row-major order (see `mixing`)."""
    maps = codes.reshape(map_shape(spec))
    data = np.empty(codes.size + 64, np.uint8)
    used = mixing.code_maps(maps, data, False)
    if used > data.size:
        data = np.empty(used, np.uint8)
        mixing.code_maps(maps, data, False)
    return data[:used]


def unmix(payload: Bytes, spec: TensorSpec) -> Integers:
    """The inverse of `mix`. Takes time and memory in proportion to the tensor, whatever the payload says.

    Raises:
        CodecError: the payload is longer or shorter than these integers take.
    """
    maps = np.zeros(map_shape(spec), np.int32)
    used = mixing.code_maps(maps, payload.copy(), True)
    if used != payload.size:
        raise CodecError(f"tensor {spec.name}", f"{payload.size} bytes of entropy code where {used} belong")
    return maps.reshape(-1)
