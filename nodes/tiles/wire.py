"""What tiles take to cross, from the crossings that were seen: a fixed part, and a part for each byte."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.tiling.crew import MEETING_S

FIRST_BPS = 1e9
FIRST_FIXED_S = 6e-4
"""Two messages over loopback between idle processes."""

BPS_RANGE = (1e5, 2e11)

FEW = 3
"""Crossings below which the first figures stand."""

UNDISTURBED = 0.25
"""Quantile of crossings that the fixed part is read off. Where both ends compute on the machine's last cores, a message
waits for one, and nobody for the message: what counts is how fast it crosses when somebody waits."""

APART_BYTES = 16384
"""Tiles whose sizes differ by less say nothing of a link's goodput."""


@dataclass(frozen=True)
class Wire:
    """What tiles take to cross, there and back together."""

    goodput_bps: float = FIRST_BPS
    fixed_s: float = FIRST_FIXED_S
    """Whatever their size: two messages, and the threads that wait for them."""
    meeting_s: float = MEETING_S
    """What each meeting of the workers takes beyond that, as measured of whole frames."""


def fit_wire(crossings: Sequence[tuple[int, float]]) -> Wire:
    """A line through crossings by Theil and Sen: the median slope of all pairs, which outliers do not move.

    Were all time put down to bytes, a fixed cost of 2 ms would make a tile of 0.5 MB look like a link of 2 Gbit/s, and
    stacks be fused too deep. Where all tiles are of one size no line is determined: then `FIRST_FIXED_S` of their time
    is taken for fixed, and the rest for their bytes.

    Args:
        crossings: (bytes both ways, seconds) of each tile.
    """
    if len(crossings) < FEW:
        return Wire()
    nbytes, seconds = (np.array(column, dtype=np.float64) for column in zip(*crossings, strict=True))
    first, second = np.triu_indices(len(nbytes), 1)
    more_bytes, more_s = nbytes[second] - nbytes[first], seconds[second] - seconds[first]
    apart = np.abs(more_bytes) >= APART_BYTES
    if 2 * apart.sum() >= len(nbytes):
        slopes = more_s[apart] / more_bytes[apart]
    elif (large := nbytes >= APART_BYTES).any():
        slopes = (seconds[large] - FIRST_FIXED_S) / nbytes[large]
    else:
        return Wire(FIRST_BPS, _fixed_s(seconds - nbytes * 8 / FIRST_BPS))
    low, high = BPS_RANGE
    s_per_byte = min(8 / low, max(8 / high, float(np.median(slopes))))
    return Wire(8 / s_per_byte, _fixed_s(seconds - nbytes * s_per_byte))


def _fixed_s(rest_s: NDArray[np.float64]) -> float:
    return max(FIRST_FIXED_S, float(np.quantile(rest_s, UNDISTURBED)))
