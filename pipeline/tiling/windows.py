"""Fitting a sliding window onto the piece of a map that a tile holds.

ATen pads both ends of an axis alike, but a tile needs padding at one end only (the true border) or at none. Copying
the piece to pad it costs a pass over memory. So where it can be, an end is padded that needs none, and the outputs
that this adds are dropped again: along rows of channels-last maps, dropping costs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.tiling.regions import Interval, Window


@dataclass(frozen=True, slots=True)
class Fit:
    """How an operator that pads both ends alike is put on a piece of an axis."""

    padding: int
    """Symmetric padding for the operator."""
    lead: int
    """Outputs to drop at the low end."""
    made: int
    """Outputs that the operator makes, dropped ones counted."""

    def buffer(self, out: Interval) -> Interval:
        """Positions of the output axis that the result covers; those outside of `out` are to be dropped."""
        return Interval(out.start - self.lead, out.start - self.lead + self.made)


Fits = tuple[Fit | None, Fit | None]
"""Of rows and columns; None for an axis whose padding is written out."""

WRITTEN_OUT: Fits = (None, None)


def outputs(window: Window, size: int, padding: int, ceil_mode: bool = False) -> int:
    """Outputs of a window over `size` positions; as PyTorch counts them."""
    span = size + 2 * padding - window.extent
    if span < 0:
        return 0
    count = (span + window.stride - 1 if ceil_mode else span) // window.stride + 1
    # In ceil mode the last window must still start inside of the map or its low padding.
    if ceil_mode and (count - 1) * window.stride >= size + padding:
        count -= 1
    return count


def fit(window: Window, out: Interval, held: Interval, limit: int | None, ceil_mode: bool = False) -> Fit | None:
    """The symmetric padding that gives the outputs `out`, and perhaps more, from `held`; None where there is none.

    Args:
        window: the operator's axis.
        out: outputs that are wanted.
        held: input positions at hand, exactly those that `out` needs.
        limit: most padding that the operator takes (poolings: half the kernel); None: any.
        ceil_mode: whether the operator rounds its number of outputs up.
    """
    below, above = window.padding(out, held)
    for padding in sorted({max(below, 0), max(above, 0)}):
        lead, rest = divmod(padding - below, window.stride)
        made = outputs(window, held.size, padding, ceil_mode)
        if rest == 0 and lead >= 0 and made >= lead + out.size and (limit is None or padding <= limit):
            return Fit(padding, lead, made)
    return None
