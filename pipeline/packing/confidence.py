"""Confidence intervals of shares, and of the difference of two accuracies on the same frames. All at 95 %."""

from __future__ import annotations

import math

from pipeline.calibrate import Estimate

Z = 1.959964
"""The 97.5 % point of the normal distribution."""


def share(hits: int, count: int) -> Estimate:
    """A share of frames, with Wilson's score interval: sound near 0 and 1, where a normal interval is not.

    Args:
        hits: frames for which it holds.
        count: frames; at least one.
    """
    value = hits / count
    spread = Z * math.sqrt(value * (1 - value) / count + Z**2 / (4 * count**2))
    centre, scale = value + Z**2 / (2 * count), 1 + Z**2 / count
    return Estimate(value, max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale))


def paired_drop(lost: int, won: int, count: int) -> Estimate:
    """Accuracy before minus accuracy after, on the same frames (Agresti and Min, Statistics in Medicine 24, 2005).

    Only the frames that change sides carry information, so the interval is far narrower than that of two accuracies
    measured apart. The value is the plain difference; the interval is Wald's after adding half a frame to each of the
    four cells.

    Args:
        lost: frames right before and wrong after.
        won: frames wrong before and right after.
        count: frames; at least one.
    """
    total = count + 2
    centre = (lost - won) / total
    spread = Z * math.sqrt(max(lost + won + 1 - (lost - won) ** 2 / total, 0.0)) / total
    return Estimate((lost - won) / count, max(-1.0, centre - spread), min(1.0, centre + spread))
