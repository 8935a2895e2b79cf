"""The Trace type: exact cumulated capacity, its inverse, and what is derived from a trace."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.traces.strategies import traces
from traces.errors import TraceError
from traces.stats import autocorrelation, trace_stats
from traces.trace import Trace, join

TIMES_S = st.floats(0.0, 500.0)


def steps(*pairs: tuple[float, float], loop: bool = True) -> Trace:
    """A trace from (duration, rate) pairs."""
    edges = np.concatenate([[0.0], np.cumsum([pair[0] for pair in pairs])])
    return Trace(edges[:-1], np.array([pair[1] for pair in pairs], dtype=np.float64), float(edges[-1]), "t", loop)


@given(traces(), TIMES_S, TIMES_S, TIMES_S)
def test_bits_between_is_additive(trace: Trace, a: float, b: float, c: float) -> None:
    whole = trace.bits_between(a, c)
    scale = trace.bits_between(0.0, 1500.0) + 1.0
    assert trace.bits_between(a, b) + trace.bits_between(b, c) == pytest.approx(whole, abs=1e-9 * scale)
    assert trace.bits_between(c, a) == pytest.approx(-whole, abs=1e-12 * scale)


@given(traces(some_capacity=True), TIMES_S, st.floats(1.0, 1e10))
def test_time_to_send_is_the_inverse_of_bits_between(trace: Trace, start_s: float, bits: float) -> None:
    spent_s = trace.time_to_send(bits, start_s)
    if math.isinf(spent_s):
        assert not trace.loop and trace.rates_bps[-1] == 0
        assert trace.bits_between(start_s, start_s + 1e6) < bits
        return
    end_s = start_s + spent_s
    # A float of time near 1e7 s resolves 2 ns: allow the bits of that much time at the fastest rate.
    slack = 1e-9 * bits + trace.rates_bps.max() * 4 * np.spacing(max(end_s, 1.0)) + 1e-3
    assert trace.bits_between(start_s, end_s) == pytest.approx(bits, abs=slack)
    # It is the earliest such time: before it, fewer bits have passed (unless the step is below resolution).
    before_s = start_s + spent_s * (1 - 1e-6)
    assert trace.bits_between(start_s, before_s) <= bits + slack


@given(traces(), st.lists(st.floats(-100.0, 500.0), min_size=1, max_size=20))
def test_arrays_of_times_give_what_single_times_give(trace: Trace, times_s: list[float]) -> None:
    array = np.array(times_s)
    assert trace.rate_at(array).tolist() == [trace.rate_at(t) for t in times_s]
    each = [trace.bits_between(3.0, t) for t in times_s]
    assert trace.bits_between(3.0, array) == pytest.approx(np.array(each), rel=1e-12, abs=1e-3)


def test_one_step_by_hand() -> None:
    trace = steps((2.0, 10.0), (1.0, 0.0), (1.0, 40.0))
    assert trace.total_bits == 60 and trace.mean_bps == 15
    assert [trace.rate_at(t) for t in (0.0, 1.99, 2.0, 3.5, 4.0, -0.5)] == [10, 10, 0, 40, 10, 40]
    assert trace.bits_between(1.0, 3.5) == 30
    assert trace.bits_between(1.0, 81.0) == 20 * 60
    assert trace.time_to_send(20, 0.0) == 2.0  # not 3.0: all have passed when the outage begins
    assert trace.time_to_send(21, 0.0) == pytest.approx(3.025)
    assert trace.time_to_send(60 * 1000, 0.5) == pytest.approx(4000.0)
    assert trace.time_to_send(0, 7.0) == 0


def test_a_trace_that_does_not_loop_keeps_its_ends() -> None:
    trace = steps((1.0, 10.0), (1.0, 20.0), loop=False)
    assert trace.rate_at(100.0) == 20 and trace.rate_at(-5.0) == 10
    assert trace.bits_between(-1.0, 4.0) == 10 + 10 + 20 + 40
    assert trace.time_to_send(70, 0.0) == 4.0
    dead = steps((1.0, 10.0), (1.0, 0.0), loop=False)
    assert dead.time_to_send(10, 0.0) == 1.0 and math.isinf(dead.time_to_send(10.5, 0.0))
    assert math.isinf(steps((1.0, 0.0)).time_to_send(1, 0.0))


@given(traces(), TIMES_S, st.floats(0.01, 100.0), st.lists(st.floats(0.0, 1.0), min_size=1, max_size=5))
def test_a_slice_has_the_capacity_of_its_time(
    trace: Trace, start_s: float, length_s: float, shares: list[float]
) -> None:
    part = trace.slice(start_s, start_s + length_s)
    assert part.duration_s == pytest.approx(length_s)
    for share in shares:
        expected = trace.bits_between(start_s, start_s + share * part.duration_s)
        assert part.bits_between(0.0, share * part.duration_s) == pytest.approx(expected, rel=1e-6, abs=10.0)


@given(traces(), st.floats(0.001, 1.0))
def test_resampling_loses_no_bit(trace: Trace, share: float) -> None:
    even = trace.resample(share * trace.duration_s)
    assert even.total_bits == pytest.approx(trace.total_bits, rel=1e-9)
    assert even.duration_s == trace.duration_s


@given(traces(), st.floats(0.1, 10.0), st.floats(0.1, 10.0))
def test_scaling(trace: Trace, rate_factor: float, time_factor: float) -> None:
    scaled = trace.scale(rate_factor, time_factor)
    assert scaled.total_bits == pytest.approx(trace.total_bits * rate_factor * time_factor, rel=1e-9)


def test_joining_puts_one_after_the_other() -> None:
    both = join([steps((1.0, 5.0)), steps((2.0, 7.0))], "both")
    assert both.duration_s == 3.0 and both.rate_at(1.5) == 7.0 and both.name == "both"
    with pytest.raises(TraceError, match="no trace to join"):
        join([], "none")


def test_arrays_cannot_be_written_to_and_are_copies() -> None:
    rates = np.array([1.0])
    trace = Trace(np.zeros(1), rates, 1.0)
    rates[0] = 5.0
    assert trace.rate_at(0.0) == 1.0
    with pytest.raises(ValueError, match="read-only"):
        trace.rates_bps[0] = 2.0


@pytest.mark.parametrize(
    ("starts", "rates", "duration", "condition"),
    [
        ([0.0, 1.0], [1.0], 2.0, "do not go together"),
        ([], [], 2.0, "do not go together"),
        ([1.0], [1.0], 2.0, "begin at 0"),
        ([0.0, 2.0, 1.0], [1.0, 1.0, 1.0], 3.0, "increase"),
        ([0.0], [-1.0], 1.0, "negative"),
        ([0.0], [math.inf], 1.0, "not finite"),
        ([0.0, 1.0], [1.0, 1.0], 1.0, "does not end after"),
        ([0.0], [1.0], math.nan, "does not end after"),
    ],
)
def test_what_is_no_trace(starts: list[float], rates: list[float], duration: float, condition: str) -> None:
    with pytest.raises(TraceError, match=condition):
        Trace(np.array(starts), np.array(rates), duration, "bad")


def test_statistics_by_hand() -> None:
    stats = trace_stats(steps((4.0, 0.0), (6.0, 1e6), (1.0, 0.0), (9.0, 3e6)))
    assert stats.mean_bps == pytest.approx(33e6 / 20)
    assert (stats.p5_bps, stats.p50_bps, stats.p95_bps) == (0.0, 1e6, 3e6)
    assert stats.outage_share == 0.25 and stats.longest_outage_s == 4.0
    assert stats.cv == pytest.approx(np.std([0.0] * 5 + [1.0] * 6 + [3.0] * 9) / 1.65)
    constant = trace_stats(Trace.constant(5e6, 0.25))
    assert constant.cv == 0 and constant.correlation_s == 0 and constant.mean_bps == 5e6


def test_autocorrelation_of_a_known_process() -> None:
    # A first-order process with factor a has autocorrelation a^k: it falls below 1/e after 1/ln(1/a) steps.
    uniform = np.random.default_rng(5).normal(size=200_000)
    series = np.empty_like(uniform)
    level = 0.0
    for index, value in enumerate(uniform.tolist()):
        level = 0.9 * level + value
        series[index] = level
    found = autocorrelation(series)
    assert found[0] == pytest.approx(1.0) and found[5] == pytest.approx(0.9**5, abs=0.03)


def test_digest_tells_contents_not_names() -> None:
    one, other = steps((1.0, 5.0)), steps((1.0, 5.0)).named("other")
    assert one.digest() == other.digest() != steps((1.0, 6.0)).digest()


def test_time_to_send_is_fast_on_a_long_trace() -> None:
    starts = np.arange(500_000) / 1000.0
    trace = Trace(starts, np.abs(np.sin(starts)) * 1e7, 500.0)
    trace.time_to_send(1.0, 0.0)
    began = time.perf_counter()
    for index in range(2000):
        trace.time_to_send(1e7, index * 0.1)
    # Bisecting takes microseconds; a scan over the steps would take about ten milliseconds each.
    assert time.perf_counter() - began < 0.5


def test_a_link_opens_at_its_first_seconds_rate_or_the_mean_where_that_is_an_outage() -> None:
    assert steps((0.5, 2e6), (0.5, 4e6), (9.0, 1e6)).opening_bps == pytest.approx(3e6)
    assert steps((2.0, 0.0), (2.0, 4e6)).opening_bps == pytest.approx(2e6)
    assert steps((0.5, 4e6)).opening_bps == pytest.approx(4e6), "shorter than a second"
