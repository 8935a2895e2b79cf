"""The pure link queue: conservation, order, capacity, work, and what delay, jitter and loss do to arrival times."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.traces.strategies import traces
from traces.errors import TraceError
from traces.link.queue import Delivery, LinkQueue, LinkSettings
from traces.trace import Trace

EVENTS = st.lists(st.tuples(st.floats(0.0, 3.0), st.integers(0, 3), st.integers(1, 4000)), min_size=1, max_size=40)
SETTINGS = st.builds(
    LinkSettings,
    queue_bytes=st.integers(1500, 20_000),
    delay_s=st.sampled_from([0.0, 0.02, 1.0]),
    jitter_s=st.sampled_from([0.0, 0.01]),
    loss=st.sampled_from([0.0, 0.2]),
)


def feed(queue: LinkQueue, events: list[tuple[float, int, int]]) -> tuple[list[tuple[int, int]], list[Delivery], float]:
    """Pushes what fits at each time; returns what went in, what came out, and the last time."""
    pushed, popped, now_s = [], [], 0.0
    for wait_s, flow, nbytes in events:
        now_s += wait_s
        popped += queue.pop(now_s)
        nbytes = min(nbytes, queue.room_bytes)
        if nbytes:
            queue.push(flow, nbytes, now_s)
            pushed.append((flow, nbytes))
    return pushed, popped, now_s


def as_bytes(pieces: list[tuple[int, int]]) -> list[int]:
    """The flow of each single byte, in order."""
    return [flow for flow, nbytes in pieces for _ in range(nbytes)]


@given(traces(loop=True, some_capacity=True), SETTINGS, EVENTS)
def test_every_byte_comes_out_once_and_in_order(
    trace: Trace, settings: LinkSettings, events: list[tuple[float, int, int]]
) -> None:
    queue = LinkQueue(trace, settings)
    pushed, popped, now_s = feed(queue, events)
    inside = queue.queued_bytes + queue.flying_bytes
    assert sum(n for _, n in pushed) == sum(piece.nbytes for piece in popped) + inside
    assert queue.queued_bytes <= settings.queue_bytes
    popped += queue.pop(now_s + trace.time_to_send(8e6, now_s) + 10_000.0)
    assert (queue.queued_bytes, queue.flying_bytes) == (0, 0)
    assert as_bytes([(piece.flow, piece.nbytes) for piece in popped]) == as_bytes(pushed)
    arrivals = [piece.at_s for piece in popped]
    assert arrivals == sorted(arrivals)


@given(traces(loop=True), EVENTS)
def test_capacity_is_never_exceeded(trace: Trace, events: list[tuple[float, int, int]]) -> None:
    queue = LinkQueue(trace, LinkSettings(queue_bytes=10_000))
    _, popped, now_s = feed(queue, events)
    popped += queue.pop(now_s + 5.0)
    # Between any two departures, no more bits than the trace has between them.
    times = np.array([0.0] + [piece.at_s for piece in popped])
    bits = np.cumsum([0] + [piece.nbytes * 8 for piece in popped])
    for first in range(len(times)):
        allowed = trace.bits_between(float(times[first]), times[first:])
        passed = bits[first:] - bits[first]
        assert (passed <= allowed + 8 + 1e-6 * np.abs(passed) + 1e-6 * trace.rates_bps.max()).all()


@given(traces(loop=True), EVENTS, st.lists(st.floats(0.0, 1.0), max_size=5))
def test_no_capacity_is_wasted_while_bytes_wait(
    trace: Trace, events: list[tuple[float, int, int]], extra: list[float]
) -> None:
    queue = LinkQueue(trace, LinkSettings(queue_bytes=10_000))
    now_s, waiting, done, since_s, since_bits = 0.0, 0, 0, 0.0, 0
    for wait_s, flow, nbytes in [*events, *((wait, 0, 1) for wait in extra)]:
        now_s += wait_s
        done += sum(piece.nbytes for piece in queue.pop(now_s)) * 8
        if queue.queued_bytes:  # it was never empty since the last time that it was
            expected = trace.bits_between(since_s, now_s)
            assert done - since_bits >= expected - 8 - 1e-6 * expected
        else:
            since_s, since_bits = now_s, done
        if queue.room_bytes >= nbytes:
            queue.push(flow, nbytes, now_s)
            waiting += nbytes


@given(traces(loop=True, some_capacity=True), EVENTS, st.lists(st.floats(0.0, 100.0), max_size=10))
def test_how_often_it_is_told_the_time_does_not_matter(
    trace: Trace, events: list[tuple[float, int, int]], looks: list[float]
) -> None:
    often, seldom = (LinkQueue(trace, LinkSettings(queue_bytes=200_000)) for _ in range(2))
    moments = sorted(
        [(at, None) for at in looks] + [(0.0, (flow, nbytes)) for _, flow, nbytes in events], key=lambda m: m[0]
    )
    out = []
    for at_s, event in moments:
        out += often.pop(at_s)
        if event:
            often.push(*event, at_s)
            seldom.push(*event, at_s)
        assert seldom.queued_bytes >= often.queued_bytes
    end_s = 101.0
    total = sum(piece.nbytes for piece in out + often.pop(end_s))
    # A part of a byte may round the other way when it is looked at between.
    assert total == pytest.approx(sum(piece.nbytes for piece in seldom.pop(end_s)), abs=1)


def test_departures_by_hand() -> None:
    trace = Trace(np.array([0.0, 1.0, 2.0]), np.array([8000.0, 0.0, 16000.0]), 3.0)
    queue = LinkQueue(trace, LinkSettings(delay_s=0.5))
    queue.push(1, 500, 0.0)
    queue.push(2, 1500, 0.0)
    assert queue.next_event_s() == pytest.approx(0.5)  # 500 bytes are through
    assert queue.pop(0.9) == []
    assert queue.next_event_s() == pytest.approx(1.0)
    assert queue.pop(1.0) == [Delivery(1, 500, 1.0)]
    # 1000 of the 2000 bytes pass in the first second; the others wait for the outage to end.
    last = queue.pop(10.0)[-1]
    assert last.at_s == pytest.approx(2.0 + 0.5 + 0.5)


def test_capacity_that_finds_nobody_waiting_is_lost() -> None:
    queue = LinkQueue(Trace.constant(8000.0), LinkSettings())
    queue.push(1, 100, 10.0)
    assert queue.pop(10.05)[0].nbytes == 50
    assert math.isinf(LinkQueue(Trace.constant(8000.0), LinkSettings()).next_event_s())


def test_a_pause_holds_what_waits_and_lets_what_flies_arrive() -> None:
    queue = LinkQueue(Trace.constant(8000.0), LinkSettings(delay_s=1.0))
    queue.push(1, 1000, 0.0)
    queue.set_paused(True, 0.5)
    assert [piece.nbytes for piece in queue.pop(5.0)] == [500] and queue.rate_bps == 0
    assert math.isinf(queue.next_event_s())
    queue.set_paused(False, 5.0)
    assert queue.pop(6.499) == [] or queue.pop(6.499)[0].nbytes < 500
    assert queue.queued_bytes == 0 and queue.trace_time_s == pytest.approx(6.499)


def test_another_trace_applies_from_then_on() -> None:
    queue = LinkQueue(Trace.constant(8000.0), LinkSettings())
    queue.push(1, 3000, 0.0)
    queue.set_trace(Trace(np.array([0.0, 10.0]), np.array([1.0, 16000.0]), 20.0), 1.0, at_s=10.0)
    assert sum(piece.nbytes for piece in queue.pop(2.0)) == 1000 + 2000
    queue.push(1, 100, 2.0)
    assert queue.drop(1) == 100 and queue.queued_bytes == 0


def test_the_end_of_a_flow_stays_behind_its_bytes() -> None:
    queue = LinkQueue(Trace.constant(8000.0), LinkSettings())
    queue.push(1, 1000, 0.0)
    queue.push(1, 0, 0.0)
    assert [piece.nbytes for piece in queue.pop(0.5)] == [500]
    assert [piece.nbytes for piece in queue.pop(1.0)] == [500, 0]
    queue.push(2, 0, 1.0)
    assert [piece.nbytes for piece in queue.pop(1.0)] == [0]  # at once through an empty link


def test_losses_are_as_many_as_asked_and_hold_up_what_is_behind() -> None:
    settings = LinkSettings(queue_bytes=10**9, loss=0.01, loss_pause_s=0.2, delay_s=0.01)
    queue = LinkQueue(Trace.constant(12e6), settings)
    for _ in range(20_000):
        queue.push(1, 1500, 0.0)
    pieces = queue.pop(100.0)
    assert queue.lost_packets == pytest.approx(200, abs=45)  # three standard deviations of a binomial
    late = [piece.at_s - 0.001 * (index + 1) - 0.01 for index, piece in enumerate(pieces)]
    assert max(late) == pytest.approx(0.2, abs=1e-6) and min(late) == pytest.approx(0.0, abs=1e-6)
    # A packet is late if any of the 200 that pass within one pause before it was lost.
    assert np.mean(np.array(late) > 1e-6) == pytest.approx(1 - 0.99**200, abs=0.08)


def test_jitter_is_repeatable_by_its_seed() -> None:
    def arrivals(seed: int) -> list[float]:
        queue = LinkQueue(Trace.constant(1e6), LinkSettings(jitter_s=0.005, seed=seed))
        for _ in range(20):
            queue.push(1, 1500, 0.0)
        return [piece.at_s for piece in queue.pop(10.0)]

    assert arrivals(1) == arrivals(1) != arrivals(2)


@pytest.mark.parametrize(
    ("settings", "condition"),
    [({"queue_bytes": 100}, "no packet"), ({"delay_s": -1.0}, "negative"), ({"loss": 1.0}, "no share")],
)
def test_settings_that_make_no_link(settings: dict[str, float], condition: str) -> None:
    with pytest.raises(TraceError, match=condition):
        LinkSettings(**settings)  # type: ignore[arg-type]


def test_more_than_there_is_room_for_is_refused() -> None:
    queue = LinkQueue(Trace.constant(1e6), LinkSettings(queue_bytes=2000))
    with pytest.raises(TraceError, match="do not fit"):
        queue.push(1, 2001, 0.0)


def test_the_queue_is_as_long_as_100_ms_unless_it_is_given() -> None:
    queue = LinkQueue(Trace.constant(80e6), LinkSettings())
    assert queue.bound_bytes == queue.room_bytes == 1_000_000
    queue.set_trace(Trace.constant(1e6), 1.0)
    assert queue.bound_bytes == 64 * 1024
    queue.set_settings(LinkSettings(queue_bytes=5000), 1.0)
    assert queue.bound_bytes == 5000
