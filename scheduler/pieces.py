"""Frames that a device computes alone beside a plan with other nodes: in pieces, with the plan's frames in between."""

from __future__ import annotations

PIECES = 16
"""At most: a larger piece would hold frames of the plan up, smaller ones would cost memory traffic and calls."""

LONGER = 0.15
"""By this share a frame may take longer in pieces than in one."""


def pieces_for(whole_s: float, in_pieces_s: float) -> int:
    """In how many pieces a frame is computed.

    Args:
        whole_s: what it takes in one.
        in_pieces_s: what it takes in `PIECES`.
    """
    each_s = (in_pieces_s - whole_s) / (PIECES - 1)
    return PIECES if each_s <= 0.0 else max(1, min(PIECES, 1 + int(LONGER * whole_s / each_s)))
