"""How long levels last, and what a link is in the mean of them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.swings import STEADY, SWINGS_MEMORY_S, Swings
from scheduler.tracker import HORIZON_S


def swinging(period_s: float, until_s: float = 40.0, low: float = 1e6, high: float = 9e6) -> Swings:
    """A link that is high for half of each period, then low; looked at every tenth of a second."""
    swings = Swings(high, 0.0)
    for tick in range(1, round(until_s * 10)):
        swings.see(high if tick / 10 % period_s < period_s / 2 - 1e-9 else low, tick / 10)
    return swings


def test_a_link_that_never_changed_is_steady() -> None:
    swings = Swings(5e6, 0.0)
    assert swings.swing(5e6, 0.0) == STEADY
    for second in range(1, 60):
        swings.see(5e6 * (1.2 if second % 2 else 0.9), float(second))
    assert swings.swing(5e6, 60.0) == STEADY
    assert STEADY.change == 0.0


@pytest.mark.parametrize("period_s", [1.0, 2.0, 8.0])
def test_a_level_holds_for_as_long_as_those_before_it(period_s: float) -> None:
    found = swinging(period_s, 40.0).swing(1e6, 40.0)
    assert found.slower == pytest.approx(1.0 / 5.0, rel=0.15), "5 Mbit/s in the mean"
    ends = HORIZON_S / (period_s / 2)
    assert found.stays == pytest.approx((1.0 - math.exp(-ends)) / ends, rel=0.15)


def test_a_level_that_lasts_is_likely_to_last_and_old_changes_are_forgotten() -> None:
    swings = swinging(2.0)
    stays = [swings.swing(1e6, 40.0 + later).stays for later in (0.0, 2.0, 4.0, 10.0)]
    assert stays == sorted(stays)
    assert stays[0] < 0.5 < 0.9 < stays[-1]
    later = swings.swing(1e6, 40.0 + 6.0 * SWINGS_MEMORY_S)
    assert later.stays > 0.98
    assert later.slower == pytest.approx(1.0, rel=0.02)


@given(st.lists(st.tuples(st.floats(0.0, 1e4), st.floats(0.0, 1e12)), max_size=30))
def test_whatever_is_seen_the_share_is_one_and_the_mean_is_there(seen: list[tuple[float, float]]) -> None:
    swings, now = Swings(1e6, 0.0), 0.0
    for pause_s, level_bps in seen:
        now += pause_s
        swings.see(level_bps, now)
        found = swings.swing(level_bps, now)
        assert 0.0 < found.stays <= 1.0
        assert 0.0 < found.slower < math.inf
        assert 0.0 <= found.change < math.inf
