"""Ranges narrower than the tensor's: fewer elements inside, finer steps for those.

The rule is ACIQ's (Banner et al., "Post training 4-bit quantization", 2019) for a Laplace density. Of the rules tried
on MobileNetV2 (that, the same for a Gauss density, percentiles, search for the least squared error) it kept the most
answers at 2 and 3 bits, though not always the least squared error: a clipped outlier can matter more than its square.
`docs/packing.md` has the figures.
"""

from __future__ import annotations

import math

import numpy as np

from pipeline.packing.frame import Floats


def laplace_width(weight: float, bits: int) -> float:
    """Best clipping width of a Laplace density, in units of its mean deviation.

    A width t costs 2 exp(-t) for what is clipped and t^2 / (weight 4^bits) for the steps inside; the sum is least
    where t exp(t) = weight 4^bits: Lambert's W, found by Newton's method.

    Args:
        weight: 3 for a range on both sides of the mean; 12 times the share of non-zeros for one side.
        bits: bits of a code.
    """
    target = weight * 4.0**bits
    width = math.log1p(target)
    for _ in range(20):
        width -= (width * math.exp(width) - target) / (math.exp(width) * (width + 1))
    return width


def analytic(elements: Floats, low: float, high: float, bits: int) -> tuple[float, float]:
    """Clipped range of one tensor, within [low, high].

    Args:
        elements: at least one; finite.
        low: least element; 0 or more asks for the one-sided rule (ReLU: zeros and an exponential density).
        high: greatest element.
        bits: bits of a code.
    """
    if low >= 0:
        positive = np.count_nonzero(elements)
        if not positive:
            return low, high
        spread = float(elements.sum(dtype=np.float64)) / positive
        return low, max(low, min(high, laplace_width(12 * positive / elements.size, bits) * spread))
    mean = float(elements.mean(dtype=np.float64))
    width = laplace_width(3, bits) * float(np.abs(elements - np.float32(mean)).mean(dtype=np.float64))
    return max(low, mean - width), min(high, mean + width)


def analytic_channels(rows: Floats, lows: Floats, highs: Floats, bits: int) -> tuple[Floats, Floats]:
    """Clipped ranges of each channel of rows[outer, channel, inner], within [lows, highs]; two-sided."""
    means = rows.mean(axis=(0, 2), dtype=np.float32)
    spreads = np.abs(rows - means[:, None]).mean(axis=(0, 2), dtype=np.float32)
    widths = np.float32(laplace_width(3, bits)) * spreads
    return np.maximum(lows, means - widths), np.minimum(highs, means + widths)
