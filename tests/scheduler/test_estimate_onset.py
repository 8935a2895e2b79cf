"""Noise just before a step is of the old level: it must not be taken for the new one."""

from __future__ import annotations

import pytest

from scheduler.estimate import RatioTracker

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
