"""Long gaps: machines that sleep, links that are away for an hour, clocks that jump, streams that end and return."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.plan import Tier
from scheduler.core import CoreConfig, SchedulerCore
from scheduler.events import Instruction, LogDecision, ReportReceived, StreamSettings, decode_report, encode
from scheduler.registry import FORGET_S
from tests.scheduler.toys import ToyAdvisor, ToyCluster, ToyDevice, ToyNode

HOUR_S = 3600.0
BACK_S = 40.0
"""Within this, everybody is back where they were: the longest pause before a plan is tried again is 30 s."""


def running(seed: int = 0, fps: float = 1.0) -> tuple[ToyCluster, ToyDevice, ToyNode]:
    """A stream over an edge node."""
    made = ToyCluster(seed)
    device = ToyDevice("phone", Tier.DEVICE, made.rng, fps=fps)
    edge = ToyNode("edge", Tier.EDGE, made.rng, goodput_bps={"phone": 100e6})
    made.add(device)
    made.add(edge)
    made.run(15.0)
    assert device.plan.nodes == ("phone", "edge")
    return made, device, edge


def core_of(made: ToyCluster) -> SchedulerCore:
    assert made.core is not None
    return made.core


def check_sound(device: ToyDevice) -> None:
    """Every frame has its result, or is still held by the device; epochs only grow, but for the device's own plan."""
    assert len(device.results) + len(device.in_flight) == device.number
    epochs = [plan.epoch for _, plan in device.stamped if plan.epoch]
    assert epochs == sorted(epochs)


@pytest.mark.parametrize("who", ["edge", "phone", "both"])
@pytest.mark.parametrize("seconds", [2 * FORGET_S, HOUR_S])
def test_a_node_whose_link_to_the_scheduler_is_away_for_an_hour_comes_back(who: str, seconds: float) -> None:
    made, device, edge = running()
    before = device.epoch
    for node in (device, edge):
        node.alive = who not in (node.name, "both")
    made.run(seconds)
    names = {record.name for record in core_of(made).registry}
    assert names == {"phone", "edge"} - ({"phone", "edge"} if who == "both" else {who}), "the dead are forgotten"
    if who == "edge":
        assert device.plan.nodes == ("phone",) and not device.in_flight
    else:
        assert not core_of(made).streams, "a stream without a device is forgotten too"
    device.alive = edge.alive = True
    made.run(BACK_S)
    assert device.plan.nodes == ("phone", "edge")
    # A device that was away has kept its plan, and the scheduler takes it over; without the edge it had to leave it.
    assert device.epoch > before if who == "edge" else device.epoch >= before
    check_sound(device)


@pytest.mark.parametrize("seconds", [3.0, HOUR_S, 30 * 24 * HOUR_S])
def test_a_scheduler_whose_machine_sleeps_takes_nobody_for_dead(seconds: float) -> None:
    """Its monotonic clock may or may not have gone on meanwhile: here it has."""
    made, device, _ = running()
    epoch = device.epoch
    asleep, made.core = made.core, None
    for pending in range(len(made._queue)):  # all others sleep as well: a whole rack, or a laptop with all nodes
        at_s, number, action = made._queue[pending]
        made._queue[pending] = at_s + seconds, number, action
    made.now += seconds
    made.core = asleep
    made.run(BACK_S)
    assert made.decisions("death", "fallback", "abandon") == []
    assert device.epoch == epoch and device.plan.nodes == ("phone", "edge")
    check_sound(device)


def test_a_scheduler_that_nobody_can_reach_for_an_hour_changes_nothing() -> None:
    made, device, _ = running()
    epoch = device.epoch
    made.loss = 1.0
    made.run(HOUR_S)
    assert device.epoch == epoch, "the last plan goes on"
    made.loss = 0.0
    made.run(BACK_S)
    assert device.plan.nodes == ("phone", "edge")
    check_sound(device)


def test_a_device_that_slept_with_frames_under_way_gets_them_done() -> None:
    made, device, edge = running()
    edge.restart()  # it has forgotten the plan: frames on their way are lost
    made.run(1.5)
    device.alive = False
    made.run(HOUR_S)
    device.alive = True
    made.run(BACK_S)
    assert device.plan.nodes == ("phone", "edge") and not device.in_flight
    check_sound(device)


@given(shifts=st.lists(st.floats(-1e12, 1e12), min_size=1, max_size=8))
@settings(max_examples=20, deadline=None)
def test_what_clock_a_node_has_decides_nothing(shifts: list[float]) -> None:
    """A node's clock may be put forward and back as often as one likes."""
    made, _, _ = running()
    made.run(10.0)
    plain, shifted = _decisions(made, [0.0]), _decisions(made, shifts)
    assert plain == shifted
    assert any(isinstance(each, LogDecision) for each in plain)


def _decisions(made: ToyCluster, shifts: list[float]) -> list[Instruction]:
    core = SchedulerCore(ToyAdvisor(), CoreConfig("scheduler1", settings=StreamSettings()))
    found: list[Instruction] = []
    for number, (now, event) in enumerate(made.events):
        if isinstance(event, ReportReceived):
            sent_s = event.report.sent_s + shifts[number % len(shifts)]
            event = ReportReceived(decode_report(encode(msgspec.structs.replace(event.report, sent_s=sent_s))))
        found += core.handle(event, now)
    return found


def test_a_stream_that_ends_and_comes_back_uses_no_epoch_again() -> None:
    made, device, edge = running()
    used = device.epoch
    report = device.report(made.now)
    ended = tuple(msgspec.structs.replace(each, ended=True) for each in report.streams)
    made._handle(ReportReceived(msgspec.structs.replace(report, streams=ended, sequence=report.sequence + 1)))
    assert not core_of(made).streams
    device.restart()
    made.run(BACK_S)
    assert device.plan.nodes == ("phone", "edge")
    assert device.epoch > used, "frames of before may still be under way"
    assert edge.alive and len(device.results) + len(device.in_flight) >= device.number - 1
