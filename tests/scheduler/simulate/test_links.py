"""Simulated pipes: what is sent when, answers to pings included."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.simulate.links import PING_BYTES, PONG_BYTES, Pipe, SimulatedLink, Watch
from traces.library import library_trace
from traces.trace import Trace

UNEVEN = Trace(np.array([0.0, 0.5, 0.6, 2.0]), np.array([8e6, 0.0, 1e5, 4e6]), 3.0, "uneven")
TRACES = (UNEVEN, UNEVEN.looping(False), library_trace("lte-driving-1.up"), Trace.constant(1e6))
ZERO_S = 2.0


def sent_s(trace: Trace, messages: list[tuple[float, int]]) -> list[float]:
    """When each message has gone out, one after the other, by nothing but the trace's own arithmetic."""
    free_s, found = 0.0, []
    for now, nbytes in messages:
        start_s, bits = max(free_s, now), 8.0 * nbytes
        before = trace.opening_bps * max(0.0, ZERO_S - start_s)
        if start_s < ZERO_S and bits < before:
            free_s = start_s + bits / trace.opening_bps
        elif start_s < ZERO_S:
            free_s = ZERO_S + trace.time_to_send(bits - before, 0.0)
        elif start_s < math.inf:
            free_s = start_s + trace.time_to_send(bits, start_s - ZERO_S)
        found.append(free_s)
    return found


@given(st.sampled_from(TRACES), st.lists(st.tuples(st.floats(0.0, 0.4), st.integers(1, 40_000)), max_size=40))
def test_a_pipe_keeps_to_its_trace_to_the_last_digit(trace: Trace, gaps: list[tuple[float, int]]) -> None:
    times = np.cumsum([gap_s for gap_s, _ in gaps]).tolist()
    messages = [(now, nbytes) for now, (_, nbytes) in zip(times, gaps, strict=True)]
    pipe = Pipe(trace, ZERO_S)
    assert [pipe.send(nbytes, now)[1] for now, nbytes in messages] == sent_s(trace, messages)


@given(st.sampled_from(TRACES), st.lists(st.tuples(st.floats(0.0, 6.0), st.booleans()), max_size=30), st.floats(0, 8))
def test_answers_set_out_in_their_turn(trace: Trace, plan: list[tuple[float, bool]], end_s: float) -> None:
    """Whoever looks first, and in whatever order they were entered."""
    pipe = Pipe(trace, ZERO_S)
    link = SimulatedLink("device-1", "edge-1", pipe, 0.01, Watch("device-1"))
    answers = [at_s for at_s, is_answer in plan if is_answer]
    messages = sorted(at_s for at_s, is_answer in plan if not is_answer)
    for at_s in answers:
        pipe.answer(at_s, at_s, link)
    seen = [pipe.send(1000, now)[1] for now in messages]
    due = sorted([*((at_s, PONG_BYTES) for at_s in answers), *((at_s, 1000) for at_s in messages)])
    expected = sent_s(trace, due)
    assert seen == [out_s for (_, nbytes), out_s in zip(due, expected, strict=True) if nbytes == 1000]
    pipe.settle(end_s)
    pipe.settle(10.0)
    back = [(at_s, out_s) for (at_s, nbytes), out_s in zip(due, expected, strict=True) if nbytes == PONG_BYTES]
    lasting = [out_s + 0.01 - at_s for at_s, out_s in back if out_s < math.inf]
    assert link.take(math.inf).rtt_s == min(lasting, default=None)


def test_a_ping_takes_room_on_both_ways() -> None:
    there, back = (Pipe(Trace.constant(8e3)) for _ in range(2))
    link = SimulatedLink("device-1", "edge-1", there, 0.5, Watch("device-1"))
    link.ping(1.0)  # nobody knows the way back
    link.back = SimulatedLink("edge-1", "device-1", back, 0.25, Watch("edge-1"))
    link.ping(1.0)
    assert link.take(1.0).rtt_s is None
    assert back.send(1, 1.0)[0] == 1.0 + PING_BYTES / 1e3
    assert there.send(1, 10.0)[0] == 10.0
    assert link.take(10.0).rtt_s is not None
    link.ping(20.0)
    assert link.take(30.0).rtt_s == pytest.approx((PING_BYTES + PONG_BYTES) / 1e3 + 0.75)
