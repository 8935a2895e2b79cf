"""Receiver-side timing: heads and payloads, held messages, echoes, offsets, and bounded logs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.estimate import FRESH, OUTAGE_S, LinkEstimator
from scheduler.reports import MAX_CROSSINGS
from scheduler.timing import CrossingLog, PathClock, RoundTrip


def test_an_idle_link_is_timed_from_the_head_and_a_busy_one_from_the_message_before() -> None:
    log = CrossingLog("p")
    log.started(10_000, 1.0)
    log.finished(10_000, 1.2)
    log.started(20_000, 1.1)
    log.finished(20_000, 1.5)
    crossings = log.take(2.0).crossings
    assert [each.busy_s for each in crossings] == pytest.approx([0.2, 0.3])
    assert [each.age_s for each in crossings] == pytest.approx([0.8, 0.5])
    assert log.take(3.0).crossings == ()


def test_a_message_that_this_node_held_up_is_not_the_links_time() -> None:
    log = CrossingLog("p")
    log.started(10_000, 1.0)
    log.finished(10_000, 9.0, held=True)
    assert log.take(9.0).crossings == ()
    assert log.take(9.0).bytes_total == 10_000


@pytest.mark.parametrize("lost_bytes", [10_000, 30_000])
def test_heads_of_lost_messages_are_skipped_and_messages_without_a_head_are_not_timed(lost_bytes: int) -> None:
    log = CrossingLog("p")
    log.started(lost_bytes, 1.0)
    for at in (5.0, 6.0):
        log.started(30_000, at)
        log.finished(30_000, at + 0.3)
    log.finished(40_000, 9.0)
    assert [each.busy_s for each in log.take(9.0).crossings] == pytest.approx([0.3, 0.3])
    assert log.take(9.5).waiting_bytes == 0


def test_a_message_under_way_is_reported() -> None:
    log = CrossingLog("p")
    log.started(10_000, 1.0)
    report = log.take(4.0)
    assert (report.waiting_bytes, report.waiting_s) == (10_000, 3.0)


def test_a_message_that_met_an_outage_is_no_sample_and_is_told_at_once() -> None:
    log, estimator = CrossingLog("p"), LinkEstimator()
    for number in range(FRESH):
        now = cross(log, float(number), 0.1)
        estimator.add(log.take(now), now)
    log.started(10_000, 4.0)
    estimator.add(log.take(6.0), 6.0)
    assert estimator.held_up
    log.finished(10_000, 7.0)
    assert log.jumped(7.0)
    report = log.take(7.0)
    assert not report.crossings
    estimator.add(report, 7.0)
    assert (estimator.freed, estimator.held_up) == (True, False)
    assert (estimate := estimator.goodput(7.0)) is not None
    assert estimate.value == pytest.approx(800_000)
    for number in range(FRESH):
        assert estimator.doubtful
        now = cross(log, 8.0 + number, 0.1)
        estimator.add(log.take(now), now)
        assert not estimator.freed
    assert not estimator.doubtful


def test_a_link_that_slowed_down_is_no_outage_twice() -> None:
    log, now = CrossingLog("p"), 0.0
    for busy in (0.1, 0.1, 3.0, 3.0, 3.0):
        now = cross(log, now, busy)
    assert [round(each.busy_s, 3) for each in log.take(now).crossings][-1] == 3.0
    assert (estimate := log.estimator.goodput(now)) is not None
    assert estimate.value < 100_000


def cross(log: CrossingLog, now: float, busy: float) -> float:
    """One message of 10,000 bytes; returns its end."""
    log.started(10_000, now)
    log.finished(10_000, now + busy)
    return now + busy


@given(st.lists(st.tuples(st.integers(3000, 10**6), st.floats(0.001, 0.9 * OUTAGE_S)), min_size=1, max_size=200))
def test_merging_keeps_bytes_and_seconds_within_the_bound(frames: list[tuple[int, float]]) -> None:
    log, now = CrossingLog("p"), 0.0
    for size, busy in frames:
        log.started(size, now)
        now += busy
        log.finished(size, now)
    report = log.take(now)
    assert len(report.crossings) <= MAX_CROSSINGS
    assert sum(each.payload_bytes for each in report.crossings) == sum(size for size, _ in frames)
    assert sum(each.messages for each in report.crossings) == len(frames)
    assert sum(each.busy_s for each in report.crossings) == pytest.approx(now)
    ages = [each.age_s for each in report.crossings]
    assert ages == sorted(ages, reverse=True)


def test_a_jump_is_told_at_once_and_small_moves_are_not() -> None:
    log, now = CrossingLog("p"), 0.0
    for number in range(200):
        busy = 0.02 if number < 100 else 0.08
        log.started(25_000, now)
        now += busy
        log.finished(25_000, now)
        if number == 50:
            log.take(now)
        if number == 99:
            assert not log.jumped(now)
        now += 0.05
    assert log.jumped(now)


def test_the_first_crossing_is_told_at_once_though_it_is_what_the_wait_for_it_said() -> None:
    log = CrossingLog("p")
    log.started(10_000, 1.0)
    log.take(1.15)
    log.finished(10_000, 1.16)
    assert log.jumped(1.3)


def test_an_outage_is_a_jump() -> None:
    log = CrossingLog("p")
    for number in range(20):
        log.started(25_000, number * 0.1)
        log.finished(25_000, number * 0.1 + 0.02)
    log.take(2.0)
    log.started(25_000, 2.0)
    assert not log.jumped(2.01)
    assert log.jumped(2.5)


def test_clocks_of_two_machines_are_joined_by_the_least_delay() -> None:
    path = PathClock()
    assert path.arrival_s(1.0) is None
    for sent, delay in ((0.0, 0.05), (1.0, 0.02), (2.0, 0.4)):
        path.add(sent, 1000.0 + sent + delay)
    assert path.arrival_s(3.0) == pytest.approx(1003.02)


@given(st.floats(-1e4, 1e4), st.floats(0.0, 0.5), st.floats(0.0, 0.5), st.floats(0.0, 1.0))
def test_a_round_trip_bounds_the_offset(offset: float, out_s: float, back_s: float, held_s: float) -> None:
    received = 10.0 + out_s + offset
    trip = RoundTrip(10.0, received, received + held_s, 10.0 + out_s + held_s + back_s)
    assert trip.rtt_s == pytest.approx(out_s + back_s, abs=1e-6)
    assert abs(trip.offset_s - offset) <= trip.rtt_s / 2 + 1e-6


def settled(busy_s: float = 0.1) -> tuple[CrossingLog, float]:
    """A link that has been known for long, and the time; the scheduler knows the same."""
    log, now = CrossingLog("p"), 0.0
    for _ in range(30):
        now = cross(log, now + 0.02, busy_s)
        log.take(now)
    return log, now


@pytest.mark.parametrize("factor", [1.0, 5.0])
def test_a_probe_that_contradicts_is_told_at_once_though_the_level_stays(factor: float) -> None:
    """Whoever sent it sends the next one as soon as he hears of it."""
    log, now = settled()
    level = log.estimator.goodput(now)
    log.started(10_000, now + 1.0)
    log.finished(10_000, now + 1.0 + 0.1 / factor, probe=True)
    at_s = now + 1.2
    assert log.jumped(at_s) == (factor > 1.0)
    found = log.estimator.goodput(at_s)
    assert level is not None and found is not None
    assert found.value < 1.1 * level.value, "one sample is no change"


@pytest.mark.parametrize("behind", [0, 1, 3])
def test_a_link_that_is_back_is_news_as_soon_as_something_has_crossed_it_since(behind: int) -> None:
    log, now = settled()
    estimator = LinkEstimator()
    for number in range(FRESH):
        end_s = cross(log, now + 1.0 + number, 0.1)
        estimator.add(log.take(end_s), end_s)
    began_s = now + 10.0
    log.started(10_000, began_s)
    estimator.add(log.take(began_s + 3.0), began_s + 3.0)
    assert estimator.held_up
    log.finished(10_000, began_s + 4.0)
    end_s = began_s + 4.0
    for _ in range(behind):
        end_s = cross(log, end_s, 0.02)
    estimator.add(log.take(end_s), end_s)
    assert not estimator.held_up
    assert estimator.freed == (behind < 2), "a single message may be what was stuck"
