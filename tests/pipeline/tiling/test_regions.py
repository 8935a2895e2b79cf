"""Intervals, axis maps and grids: against brute force."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pipeline.errors import PlanError
from pipeline.tiling.regions import Interval, Mirror, Region, Window, boundaries, equal_shares, grid, shares_of, whole
from pipeline.tiling.windows import fit, outputs

windows = st.builds(
    Window,
    size=st.integers(1, 20),
    kernel=st.integers(1, 5),
    stride=st.integers(1, 4),
    before=st.integers(0, 5),
    dilation=st.integers(1, 3),
)


@given(windows, st.integers(0, 9), st.integers(1, 9))
def test_window_needs_exactly_the_positions_that_its_taps_touch(window: Window, start: int, count: int) -> None:
    out = Interval(start, start + count)
    taps = {
        o * window.stride - window.before + window.dilation * j
        for o in range(out.start, out.stop)
        for j in range(window.kernel)
    }
    inside = {tap for tap in taps if 0 <= tap < window.size}
    needed = window.needed(out)
    assert whole(window.size, 1).rows.holds(needed)
    first, last = max(min(taps), 0), min(max(taps) + 1, window.size)
    if first < last:  # a dilated window may straddle the map and touch nothing of it
        assert (needed.start, needed.stop) == (first, last)
        assert all(first <= tap < last for tap in inside)
    else:
        assert needed.size == 1


@given(windows, st.integers(0, 9), st.integers(1, 9), st.booleans())
def test_fit_makes_the_wanted_outputs_from_the_same_taps(window: Window, start: int, count: int, ceil: bool) -> None:
    out = Interval(start, start + count)
    held = window.needed(out)
    found = fit(window, out, held, None, ceil)
    assume(found is not None)
    assert found is not None
    assert found.buffer(out).holds(out)
    assert found.made == outputs(window, held.size, found.padding, ceil)
    for at in range(out.start, out.stop):
        on_piece = (at - out.start + found.lead) * window.stride - found.padding + held.start
        assert on_piece == at * window.stride - window.before


def test_padding_is_wanted_at_the_true_border_only() -> None:
    window = Window(10, 3, 1, 1)
    for out, expected in ((Interval(0, 5), (1, 0)), (Interval(5, 10), (0, 1)), (Interval(3, 7), (0, 0))):
        assert window.padding(out, window.needed(out)) == expected


def test_pool_of_alexnet_needs_no_overlap_that_its_stride_does_not_ask_for() -> None:
    """3x3 with stride 2 and no padding, where the rule of DeepThings (padding k/2, pool kernel = stride) is wrong."""
    assert Window(54, 3, 2).needed(Interval(13, 27)) == Interval(26, 54)


def test_mirror() -> None:
    assert Mirror(10).needed(Interval(0, 3)) == Interval(7, 10)


@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=6), st.integers(6, 300))
def test_boundaries_cover_the_axis_without_overlap(weights: list[float], size: int) -> None:
    parts = boundaries([weight / sum(weights) for weight in weights], size)
    assert parts[0].start == 0 and parts[-1].stop == size
    assert all(a.stop == b.start for a, b in itertools.pairwise(parts))
    assert boundaries(shares_of(parts, size), size) == parts


@pytest.mark.parametrize("shares", [(0.5, 0.4), (1.5, -0.5), (0.25,) * 4])
def test_bad_shares_are_refused(shares: tuple[float, ...]) -> None:
    with pytest.raises(PlanError):
        boundaries(shares, 3)


def test_empty_interval_is_refused() -> None:
    with pytest.raises(PlanError, match="fewer tiles"):
        Interval(3, 3)


def test_grid_is_row_major() -> None:
    tiles = grid(boundaries(equal_shares(2), 4), boundaries(equal_shares(2), 6))
    assert tiles[1] == Region(Interval(0, 2), Interval(3, 6))
    assert tiles[0].union(tiles[3]) == whole(4, 6)
