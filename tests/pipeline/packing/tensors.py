"""Tensors of every kind that a codec may meet, as hypothesis strategies."""

from __future__ import annotations

import math

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

from pipeline.model.graph import TensorSpec
from pipeline.packing.plain import DTYPES

SHAPES: tuple[tuple[int, ...], ...] = (
    (), (1,), (0,), (1, 0, 3, 3), (7,), (1, 9), (2, 3, 5), (1, 1, 1, 1), (1, 3, 5, 7), (1, 8, 4, 4), (2, 5, 3, 6),
    (1, 4, 16, 16), (1, 33, 9, 7), (1, 64, 1, 1),
)  # fmt: skip
"""Empty, scalar, one element, not a multiple of eight, with and without channels worth a range of their own."""

LAYOUTS = ("contiguous", "channels-last", "strided", "transposed")
SCALES = (1.0, 1e-30, 1e-3, 300.0, 1e30)


def arrange(tensor: Tensor, layout: str) -> Tensor:
    """The same values with other strides, where the number of dimensions allows it."""
    if layout == "channels-last" and tensor.dim() == 4:
        return tensor.contiguous(memory_format=torch.channels_last)
    if layout == "strided" and tensor.dim() and tensor.numel():
        wide = torch.zeros((*tensor.shape[:-1], 2 * tensor.shape[-1]), dtype=tensor.dtype)
        wide[..., ::2] = tensor
        return wide[..., ::2]
    if layout == "transposed" and tensor.dim() >= 2:
        return tensor.transpose(-1, -2).contiguous().transpose(-1, -2)
    return tensor


@st.composite
def floats(draw: st.DrawFn, dtypes: tuple[str, ...] = ("float32",)) -> tuple[Tensor, TensorSpec]:
    """A finite float tensor and its spec: dense, ReLU-like, constant, far from zero, or with outliers."""
    shape, dtype = draw(st.sampled_from(SHAPES)), draw(st.sampled_from(dtypes))
    kind = draw(st.sampled_from(("dense", "relu", "constant", "shifted", "outlier", "zero")))
    scale = draw(st.sampled_from(SCALES if dtype != "float16" else SCALES[2:4]))
    values = np.random.default_rng(draw(st.integers(0, 2**32 - 1))).standard_normal(math.prod(shape))
    if kind == "relu":
        values = values.clip(0, None)
    elif kind == "constant":
        values[:] = draw(st.sampled_from((-3.25, 0.1, 5.0)))
    elif kind == "shifted":
        values = values * 1e-3 + draw(st.sampled_from((-2.0, 2.0)))
    elif kind == "outlier" and values.size:
        values[0] = 60.0
    elif kind == "zero":
        values[:] = 0
    tensor = torch.from_numpy(values * scale).to(DTYPES[dtype]).reshape(shape)
    spec = TensorSpec("features.3", shape, dtype, unsigned=bool((tensor >= 0).all()))
    return arrange(tensor, draw(st.sampled_from(LAYOUTS))), spec


def pictures() -> st.SearchStrategy[tuple[Tensor, TensorSpec]]:
    """One smooth RGB picture of uint8 and its spec."""

    def make(height: int, width: int, seed: int) -> tuple[Tensor, TensorSpec]:
        random = np.random.default_rng(seed)
        rows, columns = np.mgrid[:height, :width]
        waves = [np.sin(rows / random.uniform(3, 9) + columns / random.uniform(3, 9)) for _ in range(3)]
        pixels = torch.from_numpy((np.stack(waves) * 100 + 128).astype(np.uint8))[None]
        return pixels, TensorSpec("input", (1, 3, height, width), "uint8", unsigned=True)

    return st.builds(make, st.integers(1, 40), st.integers(1, 40), st.integers(0, 999))
