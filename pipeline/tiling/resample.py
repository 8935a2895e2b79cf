"""Nearest and bilinear resizing by tables: which source positions an output position reads, and with what weight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from pipeline.model.operators import spec_of
from pipeline.tiling.operators import arguments, name_of
from pipeline.tiling.regions import Interval, Lookup

NEAREST = ("upsample_nearest2d", "upsample_nearest_exact2d")
BILINEAR = ("upsample_bilinear2d",)


@dataclass(frozen=True)
class Axis:
    """One axis of a resize."""

    size: int
    """Positions of the input."""
    source: tuple[int, ...]
    """For each output position, the (lower) source position."""
    weight: tuple[float, ...] = ()
    """For each output position, the weight of the source position above; empty for nearest."""
    factor: int = 0
    """Where output = input * factor, and blocks of `factor` outputs repeat one pattern; 0 otherwise."""

    @property
    def lookup(self) -> Lookup:
        """The axis map."""
        above = 1 if self.weight else 0
        return Lookup(self.size, self.source, tuple(min(at + above, self.size - 1) for at in self.source))

    def tables(self, out: Interval, held: Interval) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Lower index, upper index (both within `held`) and upper weight (float64) for the output positions `out`."""
        lower = torch.tensor(self.source[out.start : out.stop])
        upper = torch.clamp(lower + 1, max=self.size - 1)
        weight = torch.tensor(self.weight[out.start : out.stop], dtype=torch.float64)
        return lower - held.start, torch.clamp(upper, max=held.stop - 1) - held.start, weight


def axes_of(node: fx.Node, height: int, width: int, out_height: int, out_width: int) -> tuple[Axis, Axis] | None:
    """The two axes of a resize; None where it is of another kind (bicubic, ...)."""
    if name_of(node) in NEAREST:
        return _nearest(node, height, width)
    if name_of(node) not in BILINEAR:
        return None
    bound = arguments(node)
    scales = bound.get("scale_factors") or (bound.get("scales_h"), bound.get("scales_w"))
    corners, dtype = bool(bound["align_corners"]), getattr(torch, spec_of(node).dtype)
    return (
        _bilinear(height, out_height, corners, scales[0], dtype),
        _bilinear(width, out_width, corners, scales[1], dtype),
    )


def _nearest(node: fx.Node, height: int, width: int) -> tuple[Axis, Axis]:
    """Ask the operator itself, on ramps of indices: its rounding, in single precision, is its own affair."""
    rows = torch.arange(height, dtype=torch.float32).view(1, 1, height, 1).expand(1, 1, height, width)
    columns = torch.arange(width, dtype=torch.float32).view(1, 1, 1, width).expand(1, 1, height, width)
    target: Any = node.target
    down = target(rows, *node.args[1:], **node.kwargs)[0, 0, :, 0].long().tolist()
    across = target(columns, *node.args[1:], **node.kwargs)[0, 0, 0, :].long().tolist()
    return _with_factor(Axis(height, tuple(down))), _with_factor(Axis(width, tuple(across)))


def _with_factor(axis: Axis) -> Axis:
    factor = len(axis.source) // axis.size
    exact = factor and all(source == at // factor for at, source in enumerate(axis.source))
    return Axis(axis.size, axis.source, factor=factor) if exact and len(axis.source) == axis.size * factor else axis


def _bilinear(size: int, out: int, corners: bool, scale: float | None, dtype: torch.dtype) -> Axis:
    """Source coordinates as in `torch.nn.functional.interpolate`: corners aligned, or pixel areas.

    Worked out in the precision of the map, as PyTorch does, so that the weights are the same.
    """
    if corners:
        step = torch.tensor(size - 1, dtype=dtype) / max(out - 1, 1)
        at = step * torch.arange(out, dtype=dtype)
    else:
        step = torch.tensor(1 / scale, dtype=dtype) if scale else torch.tensor(size, dtype=dtype) / out
        at = torch.clamp(step * (torch.arange(out, dtype=dtype) + 0.5) - 0.5, min=0)
    source = torch.clamp(at.long(), max=size - 1)
    weight = torch.clamp(at - source, 0, 1)
    factor = 0 if corners or out % size or abs(float(step) * out - size) > 1e-6 * size else out // size
    return Axis(size, tuple(source.tolist()), tuple(weight.tolist()), factor)
