"""Windows, deadlines and detours: what a device does on its own, as a function of time."""

from __future__ import annotations

import math
from collections import deque

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pipeline.frames.ledger import MAX_OPEN, Ledger
from pipeline.plan import Link, Plan, Stage, Tier
from scheduler.flow import HEDGE_NEAR, LEAST_MORE, LEAST_SPARE, PATIENCE, SCOUT_S, STUCK, Flow, has_detour
from scheduler.meter import Series
from scheduler.outage import RESULT_TIMEOUT_S, SILENT_LATENCIES, SILENT_S
from scheduler.pieces import LONGER, PIECES, pieces_for
from scheduler.window import MAX_WINDOW, RATE_FRAMES, CreditWindow, least_window

ALONE_S = 0.2


def plan(epoch: int = 1, *, alone: bool = False) -> Plan:
    own = Stage(Tier.DEVICE, "device-1", "output" if alone else "input")
    stages = (own,) if alone else (own, Stage(Tier.EDGE, "edge-1", "output"))
    return Plan(epoch=epoch, stream="s", model="m", stages=stages, links=() if alone else (Link("fp16"),))


@settings(deadline=None, max_examples=50)
@given(st.floats(0.005, 0.1), st.floats(0.0, 0.2))
def test_a_window_fills_what_lies_between_the_nodes_and_no_queue(period_s: float, propagation_s: float) -> None:
    """A server of one frame a period behind a delay: the window settles where the server is always busy."""
    window, free_s, now = CreditWindow(plan()), 0.0, 0.0
    in_flight: deque[tuple[float, float]] = deque()
    times = []
    for _ in range(3000):
        while len(in_flight) < window.size:
            free_s = max(free_s, now) + period_s
            in_flight.append((now, free_s + propagation_s))
        admitted_s, now = in_flight.popleft()
        window.result(now - admitted_s, now)
        times.append(now)
    needed = (period_s + propagation_s) / period_s
    rate = 1000 / (times[-1] - times[-1001])
    assert rate >= 0.9 * min(1.0, MAX_WINDOW / needed) / period_s
    assert window.size <= max(least_window(plan()), math.ceil(1.1 * needed) + 3)


@settings(deadline=None, max_examples=50)
@given(st.floats(0.002, 0.1), st.floats(0.0, 0.2))
def test_a_new_plan_has_its_rate_within_a_few_round_trips(period_s: float, propagation_s: float) -> None:
    """As long as it takes the window to double from its least to what is needed, and no longer."""
    window, free_s, now = CreditWindow(plan()), 0.0, 0.0
    in_flight: deque[tuple[float, float]] = deque()
    most = min(1.0, MAX_WINDOW * period_s / (period_s + propagation_s)) / period_s
    rounds = 1 + math.ceil(math.log2(MAX_WINDOW / least_window(plan())))
    late_s, began_s, results = rounds * (propagation_s + least_window(plan()) * period_s), math.inf, 0
    for _ in range(1000):
        while len(in_flight) < window.size:
            free_s = max(free_s, now) + period_s
            in_flight.append((now, free_s + propagation_s))
        admitted_s, now = in_flight.popleft()
        window.result(now - admitted_s, now)
        if now > late_s:
            began_s = min(began_s, now)
            results += 1
    assert (results - 1) / (now - began_s) >= 0.9 * most


@settings(deadline=None, max_examples=50)
@given(st.floats(0.002, 0.1), st.integers(1, 32))
def test_results_that_come_in_bursts_at_most_double_the_window(period_s: float, burst: int) -> None:
    """Whatever a round seems to say of the rate, the next one holds at most twice as many frames."""
    window, now, size, since = CreditWindow(plan()), 0.0, least_window(plan()), 0
    for number in range(500):
        now += 1e-6 if number % burst else burst * period_s
        window.result(2.0 * period_s, now)
        since += 1
        if window.size > size:
            assert window.size <= 2 * size or since > RATE_FRAMES
        if window.size != size:
            size, since = window.size, 0


def test_a_queue_does_not_feed_itself() -> None:
    window, now = CreditWindow(plan()), 0.0
    for _ in range(5000):
        now += 0.01
        window.result(0.01 * window.size if now > 1.0 else 0.02, now)
    assert window.size == least_window(plan())


def test_a_slow_first_frame_and_the_queue_behind_it_leave_the_window_as_it_is() -> None:
    """A server of one frame in 0.1 s: the first frame takes 1 s, and behind it frames wait for one another for ever."""
    window, now = CreditWindow(plan()), 1.0
    window.result(1.0, now)
    for _ in range(500):
        now += 0.1
        window.result(0.1 * window.size, now, queued_s=0.1 * (window.size - 1))
    assert window.size == least_window(plan())


def flowing(flow: Flow, until_s: float = 10.0) -> float:
    """Results at ten a second, the last one at the time that is returned."""
    now = 0.0
    for number in range(int(until_s * 10)):
        now = 0.1 * (number + 1)
        flow.result((number, number), 1, now - 0.1, now)
    return now


def a_flow() -> tuple[Flow, Ledger[None, None]]:
    flow = Flow(plan(0, alone=True))
    flow.detour.alone_s, flow.detour.piece_s = ALONE_S, ALONE_S / PIECES
    flow.begin(plan(), 0.0)
    return flow, Ledger(flow.window)


def test_a_silence_leads_to_a_detour_and_the_next_result_back() -> None:
    flow, ledger = a_flow()
    now = flowing(flow)
    assert flow.detour_s(ledger.entries(), now) == math.inf, "nothing is under way"
    ledger.admit(1000, 1, None, now)
    due_s = flow.detour_s(ledger.entries(), now)
    assert now + 2.0 * ALONE_S <= due_s < now + 2.0
    ledger.admit(1001, 0, None, due_s, credit=False)
    assert has_detour(ledger.entries())
    ledger.complete(1001, None)
    flow.result((1000, 0), 1, now, due_s + 1.0)
    assert flow.detour_s(ledger.entries(), now) > due_s + 1.0


def full(period_s: float, own_s: float) -> tuple[Flow, Ledger[None, None], float]:
    """A flow that fills its device up, with a plan at a steady rate and no credit left; and the time."""
    flow, ledger = a_flow()
    flow.fills_up, now = True, 0.0
    for number in range(4 * RATE_FRAMES):
        now = period_s * (number + 1)
        flow.result((number, number), 1, now - 2.0 * period_s, now, own_s=own_s)
    ledger.window = flow.window
    while ledger.has_credit:
        ledger.admit(1000 + ledger.admitted, 1, None, now)
    return flow, ledger, now


@given(st.floats(0.02, 0.5), st.floats(0.0, 1.0))
def test_frames_are_computed_alone_in_time_that_the_plan_leaves_and_is_worth_it(period_s: float, share: float) -> None:
    flow, ledger, _ = full(period_s, share * period_s)
    left = 1.0 - share
    needed = max(LEAST_SPARE, LEAST_MORE * ALONE_S / period_s)
    assume(abs(left - needed) > 1e-3)
    meanwhile = ALONE_S / period_s / left if left > 0.0 else math.inf
    assume(abs(meanwhile - (MAX_OPEN - ledger.open)) > 1e-3)
    more, lost = left / ALONE_S, ALONE_S / PIECES / 2 / period_s**2 / ledger.window
    assume(abs(more - 2 * lost) > 1e-3)
    pays = left > needed and more > 2 * lost
    assert flow.takes_spare(ledger) == (pays and meanwhile < MAX_OPEN - ledger.open)


def test_no_frame_is_computed_alone_in_pieces_for_which_the_plans_frames_would_be_late() -> None:
    """A frame of the plan takes 0.2 s without a queue."""
    flow, ledger, _ = full(0.1, 0.01)
    flow.detour.piece_s = 0.19
    assert flow.takes_spare(ledger)
    flow.detour.piece_s = 0.21
    assert not flow.takes_spare(ledger)


@given(st.floats(1e-3, 2.0), st.floats(-1e-4, 0.1))
def test_a_frame_in_pieces_takes_little_longer_than_in_one(whole_s: float, more_s: float) -> None:
    """Where each piece costs `more_s` beyond its share."""
    count = pieces_for(whole_s, whole_s + (PIECES - 1) * more_s)
    assert 1 <= count <= PIECES
    assert (count - 1) * more_s <= LONGER * whole_s * (1 + 1e-6)
    assert count == PIECES or count * more_s > LONGER * whole_s * (1 - 1e-6)


def test_one_frame_at_a_time_is_computed_alone_and_none_where_the_plan_takes_it() -> None:
    flow, ledger, now = full(0.1, 0.01)
    assert flow.takes_spare(ledger)
    own = ledger.admit(2000, 0, None, now, credit=False)
    assert not flow.takes_spare(ledger), "one is under way"
    ledger.complete(own.frame, None)
    assert flow.takes_spare(ledger)
    ledger.complete(1000, None)
    assert not flow.takes_spare(ledger), "the plan takes the next frame"
    flow.fills_up = False
    ledger.admit(2001, 1, None, now)
    assert not flow.takes_spare(ledger), "nobody wants it"
    flow.fills_up = True
    flow.begin(plan(2, alone=True), now)
    assert not flow.takes_spare(ledger), "the plan is the device alone"


def test_a_frame_that_leaves_no_room_for_those_behind_it_is_computed_as_well_although_others_come_home() -> None:
    flow, ledger, now = full(0.1, 0.01)
    while ledger.has_room:
        ledger.complete(ledger.admit(2000 + ledger.admitted, 0, None, now, credit=False).frame, None)
    least_s = 0.2
    assert flow.stuck(ledger, waits=True, may_detour=True, now=now + 0.9 * SILENT_LATENCIES * least_s) is None
    later_s = now + 1.1 * SILENT_LATENCIES * least_s
    flow.result((1, 1), 1, None, later_s)
    entry = flow.stuck(ledger, waits=True, may_detour=True, now=later_s)
    assert entry is not None
    assert entry.frame == 1000
    flow.fills_up = False
    assert flow.stuck(ledger, waits=True, may_detour=True, now=later_s) is None, "it is no outage"


@given(st.floats(0.01, 1.0))
def test_the_newest_frame_is_computed_as_well_where_the_device_is_about_as_fast(latency_s: float) -> None:
    assume(abs(latency_s - HEDGE_NEAR * ALONE_S) > 1e-6)
    flow, ledger = a_flow()
    flow.hedges = True
    for number in range(20):
        flow.result((number, number), 1, 0.5 * number, 0.5 * number + latency_s)
    assert flow.hedge(ledger) is None, "nothing is on its way"
    for number in (1000, 1001, 1002):
        ledger.admit(number, 1, None, 20.0)
    entry = flow.hedge(ledger)
    assert (entry is not None) == (latency_s > HEDGE_NEAR * ALONE_S)
    if entry is None:
        return
    assert entry.frame == 1002
    ledger.readmit(1002, entry.attempt, 0, "hedged", 20.0, hedged=True)
    assert flow.hedge(ledger) is None, "one at a time"
    ledger.complete(1002, None, entry.attempt + 1)
    older = flow.hedge(ledger)
    assert older is not None
    assert older.frame == 1001
    flow.hedges = False
    assert flow.hedge(ledger) is None


def test_a_queue_that_was_does_not_make_a_silence_longer() -> None:
    """Ten results a second, each of a frame that waited 2 s in a queue: a second without any is an outage."""
    flow, ledger = a_flow()
    flow.result((0, 0), 1, 0.0, 0.1)
    for number in range(1, 100):
        flow.result((number, number), 1, 0.1 * number - 1.9, 0.1 * (number + 1))
    ledger.admit(1000, 1, None, 10.0)
    assert flow.detour_s(ledger.entries(), 10.0) < 10.0 + 2.0 * max(SILENT_S, 2.0 * ALONE_S)


def test_no_detour_is_taken_where_the_device_is_too_slow_for_it() -> None:
    """Sixty frames a second against one in four seconds: no outage of a minute is worth one."""
    flow, ledger = a_flow()
    flow.detour.alone_s = 4.0
    for number in range(600):
        flow.result((number, number), 1, number / 60.0 - 0.05, number / 60.0)
    ledger.admit(1000, 1, None, 10.0)
    assert flow.detour_s(ledger.entries(), 10.0) > 70.0


def test_frames_that_were_given_up_leave_one_scout() -> None:
    flow, ledger = a_flow()
    now = flowing(flow)
    flow.give_up(99, 0, 1)
    assert flow.detour_s(ledger.entries(), now) == math.inf, "the next frame is the scout"
    ledger.admit(1000, 1, None, now)
    assert flow.detour_s(ledger.entries(), now) == -math.inf
    flow.result((99, 0), 1, None, now)
    assert flow.detour_s(ledger.entries(), now) > now


def test_a_device_leaves_a_plan_that_stays_silent_and_no_other() -> None:
    flow, _ = a_flow()
    now = flowing(flow)
    limit_s = flow.limit_s(Series(), now)
    assert flow.is_hopeless(plan(), may_detour=False, limit_s=limit_s, now=now)
    assert not flow.is_hopeless(plan(), may_detour=True, limit_s=limit_s, now=now + limit_s)
    assert flow.is_hopeless(plan(), may_detour=True, limit_s=limit_s, now=now + PATIENCE * limit_s + 0.1)
    flow.begin(plan(2, alone=True), now)
    assert not flow.is_hopeless(plan(), may_detour=False, limit_s=limit_s, now=now + 100.0)


def test_a_deadline_that_was_too_early_is_doubled_and_comes_back() -> None:
    flow, _ = a_flow()
    now = 0.0
    for turn in range(1, 4):
        now += 50.0
        flow.give_up(turn, 7, 1)
        flow.result((turn, 7), 1, None, now)
        assert flow.limit_s(Series(), now) == pytest.approx(RESULT_TIMEOUT_S * 2.0**turn)
    flow.result((1, 7), 1, None, now + 50.0)
    assert flow.limit_s(Series(), now + 61.0) == RESULT_TIMEOUT_S


def test_late_frames_are_computed_one_at_a_time_on_a_detour_and_all_at_once_without() -> None:
    flow, ledger = a_flow()
    now = flowing(flow)
    for frame in range(1000, 1003):
        ledger.admit(frame, 1, None, now)
    late = ledger.entries()
    assert flow.to_give_up(late, late, may_detour=False, now=now + 6.0) == late
    assert flow.to_give_up(late, late, may_detour=True, now=now + 6.0) == late[:1]
    ledger.readmit(1000, 0, 0, "late", now + 6.0)
    assert not flow.to_give_up(late[1:], ledger.entries(), may_detour=True, now=now + 6.0)
    ledger.complete(1000, None)
    assert flow.to_give_up(late[1:], ledger.entries(), may_detour=True, now=now + 6.0) == late[1:2]


def test_a_device_with_nothing_else_to_do_computes_the_oldest_stuck_frame_too() -> None:
    flow, ledger = a_flow()
    now = flowing(flow)
    for frame in range(1000, 1003):
        ledger.admit(frame, 1, None, now)
    due_s = flow.detour_s(ledger.entries(), now)
    assert flow.stuck(ledger, waits=False, may_detour=True, now=due_s - 0.01) is None
    assert flow.stuck(ledger, waits=False, may_detour=False, now=due_s) is None
    assert flow.stuck(ledger, waits=True, may_detour=True, now=due_s) is None, "a frame that waits goes first"
    for frame in range(1000, 1003):
        entry = flow.stuck(ledger, waits=False, may_detour=True, now=due_s)
        assert entry is not None and entry.frame == frame, "the others wait for it"
        flow.double(entry, STUCK)
        ledger.readmit(frame, 0, 0, "stuck", due_s)
        assert flow.stuck(ledger, waits=False, may_detour=True, now=due_s) is None, "one at a time"
        ledger.complete(frame, None)
    assert flow.detour_s(ledger.entries(), due_s) < due_s, "those three will tell when the link is back"
    assert flow.detour_s(ledger.entries(), now + SCOUT_S) == math.inf, "they may be lost: another has to find out"
    flow.result((1001, 0), 0, None, due_s)
    assert flow.detour_s(ledger.entries(), due_s) == math.inf, "one of them is home"


def handing_over(latency_s: float, period_s: float) -> tuple[Flow, Ledger[None, int], float]:
    """A flow that goes over to the device alone, with a window full of frames under way."""
    flow, now = Flow(plan()), 0.0
    for number in range(100):
        now = number * period_s
        flow.result((number, number), 1, now - latency_s, now)
    ledger = Ledger[None, int](flow.window)
    for number in range(100, 100 + flow.window):
        ledger.admit(number, 1, None, now)
    flow.begin(plan(2, alone=True), now)
    ledger.renew(flow.window)
    return flow, ledger, now


@settings(deadline=None, max_examples=50)
@given(st.floats(0.02, 0.09), st.booleans())
def test_while_older_frames_come_home_one_follows_for_each(period_s: float, quick: bool) -> None:
    """However quick the new plan is: what is ahead of its turn only waits, and may be in the older ones' way."""
    flow, ledger, now = handing_over(least_window(plan()) * period_s, period_s)
    window = ledger.open
    number = first = 100 + ledger.open
    until_s = now + SILENT_S
    for older in range(100, first):
        while ledger.has_credit and not flow.handover.waits(ledger, now):
            ledger.admit(number, 2, None, now)
            if quick:
                ledger.complete(number, number)
            number += 1
        assert ledger.open <= window or now >= until_s
        now += period_s
        ledger.complete(older, older)
        flow.result((older, older), 1, None, now)
        list(ledger.ready())
    assert number > first, "the device is not idle meanwhile"
    assert not flow.handover.waits(ledger, now)


@given(st.floats(0.01, 10.0))
def test_frames_that_are_stuck_hold_nobody_up(latency_s: float) -> None:
    flow, ledger, now = handing_over(latency_s, 0.01)
    assert flow.handover.waits(ledger, now)
    rounded = 1e-9  # the flow has the latency from two times
    assert not flow.handover.waits(ledger, now + min(latency_s, SILENT_S) + rounded)


def test_a_plan_whose_frames_never_came_home_holds_nobody_up() -> None:
    flow, ledger = a_flow()
    for number in range(flow.window):
        ledger.admit(number, 1, None, 0.0)
    flow.begin(plan(2, alone=True), 0.1)
    ledger.renew(flow.window)
    assert not flow.handover.waits(ledger, 0.1)


@given(st.floats(0.01, 2.0))
def test_a_device_that_left_its_plan_computes_what_it_left_behind_too(latency_s: float) -> None:
    """Results leave in order: frames that went into a dead link would hold all others up until they are late."""
    flow, ledger, now = handing_over(latency_s, 0.01)
    left = [entry.frame for entry in ledger.entries()]
    if ledger.has_credit:
        ledger.admit(1000, 2, None, now)
    assert flow.may_be_stuck(ledger, now)
    stuck_s = flow.stuck_s(ledger, ledger.entries(), now)
    assert now + SILENT_S <= stuck_s <= now + max(SILENT_S, 3.1 * latency_s)
    assert flow.stuck(ledger, waits=False, may_detour=True, now=stuck_s - 0.01) is None
    assert flow.stuck(ledger, waits=False, may_detour=False, now=stuck_s) is None
    for frame in left:
        entry = flow.stuck(ledger, waits=False, may_detour=True, now=stuck_s)
        assert entry is not None and entry.frame == frame
        flow.double(entry, STUCK)
        ledger.readmit(frame, 0, 0, "stuck", stuck_s)
        assert flow.stuck(ledger, waits=False, may_detour=True, now=stuck_s) is None, "one at a time"
        ledger.complete(frame, frame)
    assert flow.stuck(ledger, waits=False, may_detour=True, now=stuck_s + 60.0) is None, "its own are on their way"
    assert not flow.may_be_stuck(ledger, stuck_s)
