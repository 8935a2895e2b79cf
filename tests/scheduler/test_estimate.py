"""Estimators: steps, outages, noise, cellular traces, idle links, and nodes slower than their profile."""

from __future__ import annotations

import math
import random
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.estimate import LONG_S, TIMING_S, LinkEstimator, RecentLeast
from scheduler.reports import Crossing, LinkReport
from scheduler.slowdown import SlowdownEstimator
from scheduler.swings import STEADY
from scheduler.tracker import MAX_UNCERTAINTY, RatioTracker
from tests.data import DATA, needs_data
from tests.scheduler.receivers import Receiver, Traffic
from traces.formats import read_trace
from traces.trace import Trace

CELLULAR = [
    "mahimahi/Verizon-LTE-short.down", "mahimahi/Verizon-LTE-short.up", "mahimahi/ATT-LTE-driving-2016.down",
    "mahimahi/TMobile-UMTS-driving.up", "lumos5g/4g_trace_driving_50086_dr.txt",
    "lumos5g/4g_trace_walking_50093_a.txt", "lumos5g/5g_trace_22_driving.txt",
    "norway_hsdpa/metro.kalbakken-jernbanetorget-report.2010-09-14_2303CEST.txt",
]  # fmt: skip
HALF_IDLE_FPS = 10.0


def step(*rates_bps: float, each_s: float = 20.0) -> Trace:
    """Rates that hold for 20 s each."""
    starts, rates = np.arange(len(rates_bps)) * each_s, np.array(rates_bps)
    return Trace(starts.astype(np.float64), rates.astype(np.float64), each_s * len(rates_bps), loop=False)


@pytest.mark.parametrize("fps", [0.0, 5.0, 30.0])
@pytest.mark.parametrize(("before", "after"), [(20e6, 5e6), (5e6, 20e6), (40e6, 10e6), (1e6, 4e6)])
def test_a_step_is_followed_within_a_second_or_five_frames(before: float, after: float, fps: float) -> None:
    trace = step(before, after)
    mean_bytes = min(before, after) / 8.0 / (2.0 * fps or 20.0)
    late = 0
    for seed in range(10):
        receiver = Receiver(trace, Traffic(mean_bytes, fps), seed)
        receiver.run(20.0)
        frames = receiver.frames
        assert receiver.estimate_bps() == pytest.approx(before, rel=0.1)
        receiver.run(21.0)
        while receiver.frames < frames + 5:
            receiver.run(receiver.now + 0.05)
        late += abs(receiver.estimate_bps() / after - 1.0) > 0.2
    assert late == 0


@pytest.mark.parametrize("fps", [0.0, HALF_IDLE_FPS])
@needs_data
def test_the_median_error_on_cellular_traces_is_at_most_15_percent(fps: float) -> None:
    medians = []
    for name in CELLULAR:
        trace = read_trace(DATA / "traces" / name)
        mean_bytes = trace.mean_bps / 8.0 / (15.0 if fps == 0.0 else 2.0 * fps)
        receiver = Receiver(trace, Traffic(mean_bytes, fps), seed=1)
        errors = []
        for tenth in range(20, 600):
            receiver.run(tenth / 10.0 * 2.0)
            truth = receiver.truth_bps()
            if truth > 0.02 * trace.mean_bps:
                errors.append(abs(receiver.estimate_bps() / truth - 1.0))
        medians.append(statistics.median(errors))
    assert statistics.median(medians) <= 0.15
    assert max(medians) <= 0.20


def test_an_outage_shows_before_it_ends_and_is_over_within_a_second() -> None:
    trace = step(10e6, 1.0, 10e6, each_s=10.0)
    receiver = Receiver(trace, Traffic(30_000, 15.0))
    receiver.run(9.9)
    receiver.run(12.5)
    assert receiver.estimate_bps() < 0.3e6
    receiver.run(21.0)
    assert receiver.estimate_bps() == pytest.approx(10e6, rel=0.2)


def test_half_idle_and_busy_links_give_the_same_goodput() -> None:
    busy, idle = (Receiver(step(8e6), Traffic(20_000, fps)) for fps in (0.0, 2.0))
    busy.run(10.0)
    idle.run(10.0)
    assert busy.estimate_bps() == pytest.approx(8e6, rel=0.05)
    assert idle.estimate_bps() == pytest.approx(8e6, rel=0.05)


def test_small_messages_are_kept_out() -> None:
    estimator = LinkEstimator()
    estimator.add(LinkReport("p", (Crossing(100, 1e-6, 0.0), Crossing(2000 * 50, 1.0, 0.0, 50))), 0.0)
    assert estimator.goodput(0.0) is None
    estimator.add(LinkReport("p", (Crossing(100_000, 0.1, 0.0),)), 1.0)
    found = estimator.goodput(1.0)
    assert found is not None
    assert found.value == pytest.approx(8e6)


def test_uncertainty_grows_while_nothing_is_seen_and_is_bounded() -> None:
    receiver = Receiver(step(8e6), Traffic(20_000, 10.0))
    receiver.run(10.0)
    found = [receiver.estimator.goodput(10.0 + idle) for idle in (0.0, 1.0, 10.0, 100.0, 1e9)]
    sizes = [each.uncertainty for each in found if each is not None]
    assert sizes == sorted(sizes)
    assert sizes[0] < 0.2
    assert sizes[-1] == MAX_UNCERTAINTY


def test_a_link_recovers_for_as_long_as_its_spell_of_outages_lasted() -> None:
    estimator = LinkEstimator()
    quick, slow = Crossing(6000, 0.02, 0.0), Crossing(6000, 1.2, 0.0)
    for tick in range(10):
        estimator.add(LinkReport("p", (quick,)), 0.5 * tick)
    assert not estimator.recovers(5.0)
    for tick in range(4):  # held up from 5 s to 8 s, but for one message between
        estimator.add(LinkReport("p", (slow,) if tick == 2 else (), None, 6000, 1.0 + tick), 5.0 + tick)
    estimator.add(LinkReport("p", (slow, slow)), 9.0)
    assert estimator.recovers(9.0)
    assert estimator.recovers(10.9)
    assert not estimator.recovers(11.1), "three seconds of outage, and three behind them"
    estimator.add(LinkReport("p", (quick,)), 9.5)
    estimator.add(LinkReport("p", (quick,)), 10.0)
    assert not estimator.recovers(10.0), "it is settled"


@pytest.mark.parametrize("settled", [True, False])
def test_what_a_link_is_in_the_mean_is_of_levels_that_it_settled_at(settled: bool) -> None:
    estimator = LinkEstimator()
    assert estimator.swing(0.0) is STEADY
    for second in range(20):
        size, busy_s = (100_000 if second % 6 < 3 else 1_000_000), (0.3 if settled else LONG_S + 0.1)
        for tick in range(3 if settled else 1):
            estimator.add(LinkReport("p", (Crossing(round(size * busy_s), busy_s, 0.0),)), second + 0.3 * tick)
    found = estimator.swing(20.0)
    assert (found == STEADY) is not settled
    assert not settled or (found.stays < 0.8 and found.slower < 0.5), "0.8 Mbit/s now, and 8 a moment ago"


def test_a_level_of_samples_no_longer_than_their_timing_error_is_as_uncertain() -> None:
    """Two packets of a probe that ride on one burst: 2 KiB in 0.7 ms tell little of a link."""
    found = []
    for seconds in (0.0007, 0.07):
        estimator = LinkEstimator()
        estimator.add(LinkReport("p", (Crossing(2048, seconds, 0.0, 1, True),)), 0.0)
        found.append(estimator.goodput(0.0))
    short, long = (each for each in found if each is not None)
    assert short.noise > TIMING_S / 0.0007
    assert long.noise < 0.2


def test_uncertainty_tells_how_far_the_next_seconds_lie_off() -> None:
    """On a link that wanders by 20% a second, errors two seconds ahead are about as large as stated."""
    rng = random.Random(4)
    level, rates = math.log(10e6), []
    for _ in range(400):
        level = 0.95 * level + 0.05 * math.log(10e6) + rng.gauss(0.0, 0.2)
        rates.append(math.exp(level))
    receiver = Receiver(step(*rates, each_s=1.0), Traffic(30_000, 15.0))
    scores = []
    for second in range(10, 390):
        receiver.run(float(second))
        found = receiver.estimator.goodput(receiver.now)
        assert found is not None
        ahead = receiver.trace.bits_between(receiver.now, receiver.now + 2.0) / 2.0
        scores.append(math.log(found.value / ahead) / found.uncertainty)
    assert 0.5 <= statistics.pstdev(scores) <= 1.5


@given(
    st.lists(st.tuples(st.floats(1e3, 1e8), st.floats(1e-4, 10.0), st.floats(0.0, 5.0)), min_size=1, max_size=60),
)
def test_the_estimate_lies_within_what_was_seen(samples: list[tuple[float, float, float]]) -> None:
    tracker, now = RatioTracker(bin_s=0.0), 0.0
    for top, bottom, gap in samples:
        now += gap
        tracker.add(top, bottom, now)
    found = tracker.estimate(now)
    ratios = [top / bottom for top, bottom, _ in samples]
    assert found is not None
    assert min(ratios) * (1 - 1e-9) <= found.value <= max(ratios) * (1 + 1e-9)
    assert 0.0 <= found.noise <= found.uncertainty <= MAX_UNCERTAINTY


def test_a_stationary_link_seldom_looks_changed() -> None:
    rng, tracker = random.Random(1), RatioTracker()
    for number in range(9000):
        tracker.add(1.0, rng.lognormvariate(0.0, 0.3), number / 30.0)
    assert tracker.changes <= 60
    found = tracker.estimate(300.0)
    assert found is not None
    assert found.uncertainty < 0.25


def test_one_outlier_is_no_change() -> None:
    tracker = RatioTracker()
    for number in range(40):
        tracker.add(1.0, 1.0 + 0.01 * (number % 2), number * 0.2)
    assert not tracker.add(1.0, 0.05, 8.0)
    assert tracker.doubtful
    assert not tracker.add(1.0, 1.0, 8.2)
    assert tracker.changes == 0


def test_the_round_trip_is_the_least_of_a_window() -> None:
    least = RecentLeast(10.0)
    assert least.value is None
    for at, value in ((0.0, 0.02), (1.0, 0.05), (2.0, 0.03)):
        least.add(value, at)
    assert least.value == 0.02
    least.add(0.04, 11.5)
    assert least.value == 0.03
    least.add(0.9, 500.0)
    assert least.value == 0.9


def test_a_slow_node_scales_its_profile_and_an_old_figure_gives_way_to_the_load() -> None:
    slowdown = SlowdownEstimator()
    assert slowdown.estimate(0.0).value == 1.0
    for second in range(10):
        slowdown.add_stage(0.030, 0.020, float(second))
    assert slowdown.estimate(9.0).value == pytest.approx(1.5)
    for second in range(10, 16):
        slowdown.add_stage(0.080, 0.020, float(second))
    assert slowdown.estimate(15.0).value == pytest.approx(4.0, rel=0.05)
    slowdown.add_load(0.75, 1.0, 4)
    assert slowdown.estimate(16.0).value == pytest.approx(4.0, rel=0.05)
    assert slowdown.estimate(60.0).value == pytest.approx(2.0)
    assert slowdown.estimate(60.0).uncertainty > slowdown.estimate(15.0).uncertainty / 10
