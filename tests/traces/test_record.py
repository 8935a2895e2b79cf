"""The recorder."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from traces.errors import TraceError
from traces.formats import read_trace
from traces.record import TraceRecorder


def test_deliveries_become_a_rate_over_the_time_that_the_link_was_busy() -> None:
    recorder = TraceRecorder()
    recorder.add_delivery(100.5, 1e6, busy_s=0.25)  # 4 Mbit/s while it lasted
    recorder.add_delivery(101.2, 2e6)  # a saturated second
    recorder.add_delivery(101.7, 1e6)
    recorder.add_delivery(104.0, 4e6, busy_s=2.0)  # 2 Mbit/s over two steps
    trace = recorder.trace()
    assert trace.starts_s.tolist() == [0, 1, 2, 3]
    assert trace.rates_bps.tolist() == pytest.approx([4e6, 3e6, 2e6, 2e6])
    assert trace.duration_s == 4


def test_estimates_fill_what_deliveries_do_not_tell() -> None:
    recorder = TraceRecorder("field", step_s=0.5)
    recorder.add_rate(10.1, 4e6)
    recorder.add_rate(10.2, 6e6)
    recorder.add_rate(11.0, 1e6)
    recorder.add_delivery(11.4, 1e6)
    recorder.add_rate(13.0, 7e6)
    trace = recorder.trace()
    assert len(recorder) == 3
    assert trace.starts_s.tolist() == [0, 1.0, 3.0]
    assert trace.rates_bps.tolist() == [5e6, 2e6, 7e6]
    assert trace.rate_at(2.0) == 2e6  # nothing is known: the rate before goes on


def test_a_silence_carries_nothing_and_behind_it_the_rate_before_goes_on() -> None:
    recorder = TraceRecorder()
    recorder.add_delivery(10.5, 4e6, busy_s=0.5)
    recorder.add_silence(11.25, 14.5)
    recorder.add_delivery(20.0, 1e6, busy_s=1.0)
    trace = recorder.trace()
    assert [trace.rate_at(at_s) for at_s in (0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 8.5, 9.5)] == pytest.approx(
        [8e6, 2e6, 0.0, 0.0, 4e6, 8e6, 8e6, 1e6]
    )


@given(st.lists(st.floats(0.0, 3.0), min_size=2, max_size=20))
def test_silences_take_away_what_would_have_passed_in_them(lengths: list[float]) -> None:
    """Times of life and of silence take turns."""
    recorder, at_s, silent_s = TraceRecorder(step_s=0.5), 100.0, 0.0
    recorder.add_rate(at_s, 1e6)
    for number, length_s in enumerate(lengths):
        if number % 2:
            recorder.add_silence(at_s, at_s + length_s)
            silent_s += length_s
        at_s += length_s
    recorder.add_rate(at_s + 1.0, 1e6)
    trace = recorder.trace()
    assert trace.total_bits == pytest.approx(1e6 * (trace.duration_s - silent_s), abs=10.0)


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 1e8), st.floats(0.001, 5)), min_size=1, max_size=30))
def test_a_link_that_is_never_used_twice_at_a_time_keeps_its_bits(deliveries: list[tuple[float, float, float]]) -> None:
    recorder, at_s, total = TraceRecorder(), 1000.0, 0.0
    for _, bits, busy_s in deliveries:
        at_s += busy_s
        recorder.add_delivery(at_s, bits, busy_s)
        total += bits
    trace = recorder.trace()
    # The first and the last step are recorded whole, though the link was busy in a part of them only.
    most = max(bits / busy_s for _, bits, busy_s in deliveries)
    assert total * (1 - 1e-9) - 1 <= trace.total_bits <= total + 2 * most + 1


def test_what_was_recorded_can_be_read_again(tmp_path: Path) -> None:
    recorder = TraceRecorder()
    for second in range(5):
        recorder.add_rate(float(second), 1e6 * (second + 1))
    back = read_trace(recorder.write(tmp_path / "day.csv"))
    assert back.rates_bps.tolist() == [1e6, 2e6, 3e6, 4e6, 5e6] and back.duration_s == 5


def test_what_cannot_be_recorded() -> None:
    recorder = TraceRecorder("link")
    with pytest.raises(TraceError, match="nothing was recorded"):
        recorder.trace()
    for act in (recorder.add_rate, recorder.add_delivery):
        with pytest.raises(TraceError, match="cannot record"):
            act(float("nan"), 1.0)
        with pytest.raises(TraceError, match="cannot record"):
            act(1.0, -1.0)
    with pytest.raises(TraceError, match="cannot record"):
        recorder.add_silence(2.0, 1.0)
    with pytest.raises(TraceError, match="is no time"):
        TraceRecorder(step_s=0.0)
