"""Noise just before a step is of the old level: it must not be taken for the new one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.estimate import LinkEstimator
from scheduler.reports import Crossing
from scheduler.tracker import RatioTracker

BITS = 16_384.0


def followed(rates_bps: list[float]) -> tuple[float, int]:
    """The level after one sample a second of each rate, and the changes found."""
    tracker = RatioTracker()
    for second, rate_bps in enumerate(rates_bps):
        tracker.add(BITS, BITS / rate_bps, float(second))
    estimate = tracker.estimate(float(len(rates_bps)))
    assert estimate is not None
    return estimate.value, tracker.changes


@pytest.mark.parametrize("factor", [10.0, 0.1])
def test_a_step_behind_weak_deviations_is_followed_to_its_own_level(factor: float) -> None:
    weak = 1.15 if factor > 1 else 1 / 1.15
    before = [0.5e6 * each for each in (1.0, 1.2, 0.85, 1.1, 0.9, 1.0, weak, weak, weak)]
    level, changes = followed([*before, 0.5e6 * factor, 0.5e6 * factor])
    assert changes == 1
    assert level == pytest.approx(0.5e6 * factor, rel=0.01)


def test_a_short_crossing_that_is_timed_a_millisecond_wrong_is_no_change() -> None:
    link, rate_bps = LinkEstimator(), 50e6
    for number, nbytes in enumerate((65_536, 65_536, 8192, 8192, 8192)):
        late_s = 0.8e-3 if nbytes < 65_536 else 0.0
        link.add_crossing(Crossing(nbytes, 8.0 * nbytes / rate_bps - late_s, 0.0), float(number))
    found = link.goodput(5.0)
    assert found is not None
    assert link.tracker.changes == 0
    assert found.value < 1.5 * rate_bps, "by the short ones alone it were 2.6 times as much"


def test_a_change_is_found_all_the_same_where_crossings_are_long() -> None:
    link = LinkEstimator()
    for number, rate_bps in enumerate((2e6, 2e6, 2e6, 8e6, 8e6, 8e6)):
        link.add_crossing(Crossing(8192, 65_536 / rate_bps, 0.0), float(number))
    found = link.goodput(6.0)
    assert found is not None
    assert found.value == pytest.approx(8e6, rel=0.01)


@given(st.lists(st.floats(0.0, 0.09), max_size=4), st.floats(0.11, 2.0))
def test_what_was_left_over_before_a_pause_is_no_part_of_what_is_behind_it(ages: list[float], pause: float) -> None:
    """Samples close together count as one; those behind a pause are told apart, however the former were cut."""
    tracker, before_s = RatioTracker(), 10.0
    for second in range(8):
        tracker.add(BITS, BITS / 1e6, float(second))
    for age_s in sorted(ages):
        tracker.add(BITS, BITS / 1e6, before_s + age_s)
    at_s = before_s + max(ages, default=0.0) + pause
    for number in range(2):
        tracker.add(BITS, BITS / 10e6, at_s + number * 0.2)
    found = tracker.estimate(at_s + 0.2)
    assert found is not None
    assert found.value == pytest.approx(10e6, rel=0.01)
