"""The decision core: prepare, commit, faults, sharing, refusals, and that decisions can be replayed."""

from __future__ import annotations

import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.plan import Tier, same
from scheduler.core import CoreConfig, SchedulerCore
from scheduler.estimate import LinkEstimator
from scheduler.events import (
    VIEWERS,
    Announcement,
    ClusterState,
    LogDecision,
    LogLine,
    Publish,
    Refusal,
    ReportReceived,
    StreamConfigured,
    StreamSettings,
    Tick,
    UnreadableReport,
    decode_line,
    encode_line,
)
from scheduler.registry import Registry
from scheduler.reports import MAX_LINKS, Figure, Report
from tests.scheduler.toys import MODEL, ToyAdvisor, ToyCluster, ToyDevice, ToyNode, plan_of

FAST = 100e6


def cluster(seed: int = 0, goodput_bps: float = FAST, **network: float) -> tuple[ToyCluster, ToyDevice, ToyNode]:
    """A device and an edge node over one link."""
    made = ToyCluster(seed, **network)
    device = ToyDevice("phone", Tier.DEVICE, made.rng)
    edge = ToyNode("edge", Tier.EDGE, made.rng, goodput_bps={"phone": goodput_bps})
    made.add(device)
    made.add(edge)
    return made, device, edge


def test_a_stream_moves_to_the_edge_once_the_link_is_known() -> None:
    made, device, _ = cluster()
    made.run(8.0)
    assert _nodes(device) == ("phone", "edge")
    assert made.decisions("stream", "prepare", "commit", "switched") == ["stream", "prepare", "commit", "switched"]
    epochs = [plan.epoch for _, plan in device.stamped]
    assert epochs == sorted(epochs)
    assert len(device.results) == device.number


def test_a_slow_link_keeps_everything_on_the_device() -> None:
    made, device, _ = cluster(goodput_bps=1e6)
    made.run(20.0)
    assert _nodes(device) == ("phone",)
    assert made.decisions("prepare") == ["prepare"], (
        "the device waits for the scheduler's word, were it the plan it has"
    )


def test_nothing_is_committed_before_every_node_is_ready() -> None:
    made, device, edge = cluster()
    edge.build_s = 5.0
    made.run(6.0)
    assert made.decisions("prepare", "commit") == ["prepare"]
    assert device.epoch == 0
    made.run(6.0)
    assert _nodes(device) == ("phone", "edge")


def test_a_plan_whose_reason_has_gone_while_it_was_built_is_not_committed() -> None:
    made, device, edge = cluster()
    edge.build_s = 8.0
    made.run(4.0)
    assert made.decisions("prepare", "commit") == ["prepare"]
    edge.goodput_bps["phone"] = 0.5e6  # far too slow for the frames by the time that the edge is ready
    made.run(30.0)
    assert made.decisions("commit", "switched", "abandon")[0] == "abandon"
    assert _nodes(device) == ("phone",)
    edge.goodput_bps["phone"], edge.build_s = FAST, 0.3
    made.run(40.0)
    assert _nodes(device) == ("phone", "edge"), "the plan was given up, not banned"
    assert len(device.results) == device.number


@pytest.mark.parametrize("unused", [True, False])
def test_before_the_first_frame_a_small_gain_is_enough(unused: bool) -> None:
    """A switch that no frame sees costs nothing; later a gain of 7 % has to last."""
    made, device, _ = cluster(goodput_bps=10e6)
    told = device.streams
    if unused:
        device.streams = lambda now: tuple(  # type: ignore[method-assign]
            msgspec.structs.replace(each, fps=Figure(), latency_s=Figure(), in_flight_epochs=()) for each in told(now)
        )
    made.run(8.0)
    assert _nodes(device) == ("phone", "edge")
    made.add(ToyNode("edge-2", Tier.EDGE, made.rng, goodput_bps={"phone": 10.7e6}))
    made.run(3.5)
    assert _nodes(device) == ("phone", "edge-2" if unused else "edge")


def test_no_link_is_left_for_the_device_while_it_recovers(monkeypatch: pytest.MonkeyPatch) -> None:
    made, device, edge = cluster()
    made.run(8.0)
    monkeypatch.setattr(LinkEstimator, "recovers", lambda self, now: now < 20.0)
    edge.goodput_bps["phone"] = 1e6  # far too slow for the frames
    made.run(11.0)
    assert _nodes(device) == ("phone", "edge")
    made.run(6.0)
    assert _nodes(device) == ("phone",)


@pytest.mark.parametrize("swings", [True, False])
def test_a_link_that_comes_and_goes_is_not_left_for_a_dip(swings: bool) -> None:
    """Of 8 and 1 Mbit/s, second by second, the mean is better than the device's 5 frames a second."""
    made, device, edge = cluster(goodput_bps=8e6)
    made.run(8.0)
    assert _nodes(device) == ("phone", "edge")
    for _ in range(10 if swings else 0):
        for goodput_bps in (1e6, 8e6):
            edge.goodput_bps["phone"] = goodput_bps
            made.run(1.0)
    switched = len(made.decisions("switched"))
    edge.goodput_bps["phone"] = 1e6
    made.run(2.5)
    assert _nodes(device) == (("phone", "edge") if swings else ("phone",))
    assert len(made.decisions("switched")) == switched + (not swings)
    made.run(20.0)
    assert _nodes(device) == ("phone",), "it lasts"


def test_no_gain_is_read_off_a_time_without_results() -> None:
    made, device, _ = cluster()
    silent = Figure(0.0, 0.0, 0.0)
    told = device.streams
    device.streams = lambda now: tuple(  # type: ignore[method-assign]
        msgspec.structs.replace(each, fps=silent if each.epoch == 0 else each.fps) for each in told(now)
    )
    made.run(20.0)
    assert "switched" in made.decisions()
    assert not made.decisions("measured")


def test_a_dead_node_is_left_at_once_and_its_frames_come_back() -> None:
    made, device, edge = cluster()
    made.run(8.0)
    edge.alive = False
    died = made.now
    made.run(5.0)
    assert _nodes(device) == ("phone",)
    fallback = next(each.record for each in made.log if each.record.kind == "fallback")
    assert fallback.at_s - died <= 3.0 + 1.0 + 0.3
    assert len(device.results) >= device.number - 1
    edge.restart()
    made.run(8.0)
    assert _nodes(device) == ("phone", "edge")
    assert len(device.results) == device.number


def test_a_restart_within_the_heartbeat_is_noticed() -> None:
    made, device, edge = cluster()
    made.run(8.0)
    edge.restart()
    made.run(10.0)
    assert made.decisions("restart", "fallback") == ["restart", "fallback"]
    assert _nodes(device) == ("phone", "edge")
    assert len(device.results) == device.number


def test_a_scheduler_that_returns_learns_the_state_and_reuses_no_epoch() -> None:
    made, device, edge = cluster()
    made.run(8.0)
    before = device.plan
    made.core = None
    made.run(10.0)
    assert device.plan == before
    made.start_scheduler()
    made.run(8.0)
    assert device.plan == before
    assert made.core is not None
    assert made.core.streams["cam"].current == before
    edge.alive = False
    made.run(6.0)
    assert _nodes(device) == ("phone",)
    assert device.epoch > before.epoch


def test_a_frozen_scheduler_declares_nobody_dead() -> None:
    made, _, _ = cluster()
    made.run(8.0)
    core, made.core = made.core, None
    made.run(30.0)
    made.core = core
    made.run(5.0)
    assert made.decisions("death", "fallback") == []


def test_a_fallback_of_the_device_itself_is_adopted() -> None:
    made, device, _ = cluster()
    made.run(8.0)
    left = device.epoch
    device.fall_back("peer edge is silent")
    made.run(20.0)
    assert "adopt" in made.decisions()
    assert _nodes(device) == ("phone", "edge")
    assert device.epoch > left


def test_a_plan_that_the_device_gives_up_again_and_again_is_tried_ever_less() -> None:
    made, device, edge = cluster()
    for _ in range(240):
        made.run(0.5)
        if _nodes(device) == ("phone", "edge"):
            device.fall_back("peer edge takes nothing")
    tries = made.decisions("commit").count("commit")
    assert 3 <= tries <= 8, "3 s, 6 s, 12 s, ...: not once a second, for two minutes"
    edge.restart()
    made.run(15.0)
    assert _nodes(device) == ("phone", "edge"), "a node that starts anew gets another chance at once"


def test_a_plan_that_was_given_up_in_a_long_outage_is_back_soon_after_it() -> None:
    """However often the device gave it up meanwhile: while the link carries nothing, it is seldom tried."""
    made, device, edge = cluster()
    made.run(8.0)
    edge.goodput_bps["phone"] = 0.0
    for _ in range(300):
        made.run(0.5)
        if _nodes(device) == ("phone", "edge"):
            made.run(6.0)
            device.fall_back("no result in 5 s")
    assert made.decisions("commit").count("commit") <= 8
    edge.goodput_bps["phone"] = FAST
    back = made.now
    while _nodes(device) == ("phone",) and made.now - back < 40.0:
        made.run(0.25)
    assert made.now - back <= 10.0
    commits = made.decisions("commit").count("commit")
    made.run(120.0)
    assert _nodes(device) == ("phone", "edge")
    assert made.decisions("commit").count("commit") == commits


def test_a_refusing_node_is_planned_without_for_a_while() -> None:
    made, device, edge = cluster()
    edge.refuses = True
    made.run(12.0)
    assert _nodes(device) == ("phone",)
    assert made.decisions("abandon") == ["abandon"]
    assert "no memory left" in next(each.record.reason for each in made.log if each.record.kind == "abandon")
    edge.refuses = False
    made.run(40.0)
    assert _nodes(device) == ("phone", "edge")


def test_another_model_is_refused_and_both_sides_are_told() -> None:
    made, device, edge = cluster()
    edge.model = "beef" * 16
    made.run(10.0)
    assert _nodes(device) == ("phone",)
    assert "beef" in edge.refusal
    assert made.decisions("refuse") == ["refuse"]
    assert _state(made).nodes[-1].refused or _state(made).nodes[0].refused


def test_another_protocol_version_is_refused() -> None:
    core = SchedulerCore(ToyAdvisor(), CoreConfig("s"))
    messages = [each.message for each in core.handle(UnreadableReport("old", "i", 7), 0.0) if isinstance(each, Publish)]
    refusals = [each for each in messages if isinstance(each, Refusal)]
    assert len(refusals) == 1
    assert "version 7" in refusals[0].reason


def test_a_fixed_plan_is_published_once_its_nodes_are_there_and_missing_ones_are_named() -> None:
    made, device, edge = cluster(goodput_bps=1e5)
    edge.alive = False
    wanted = plan_of("cam", "phone", (Tier.EDGE, "edge"))
    made._handle(StreamConfigured("cam", StreamSettings(planner="fixed", plan=wanted)))
    made.run(15.0)
    assert "edge" in _state(made).streams[0].problem
    assert device.epoch == 0
    edge.restart()
    made.run(5.0)
    assert same(device.plan, wanted)
    assert _state(made).streams[0].problem == ""


def test_a_fixed_plan_for_any_device_is_every_stream_s_own() -> None:
    made, device, _ = cluster()
    other = ToyDevice("tablet", Tier.DEVICE, made.rng, stream="cam2")
    made.add(other)
    wanted = plan_of("*", "*", (Tier.EDGE, "edge"))
    made._handle(StreamConfigured(VIEWERS, StreamSettings(planner="fixed", plan=wanted)))
    made.run(10.0)
    assert (_nodes(device), _nodes(other)) == (("phone", "edge"), ("tablet", "edge"))
    assert all(state.problem == "" for state in _state(made).streams)


def test_a_planner_that_fails_leaves_the_plan_as_it_is() -> None:
    made, device, _ = cluster()
    made.run(8.0)
    made.advisor.broken = True
    assert made.core is not None
    made.core.streams["cam"].advised_for = None
    made.run(5.0)
    assert _nodes(device) == ("phone", "edge")
    assert "it is broken" in _state(made).streams[0].problem


def test_streams_share_the_edge_and_a_lost_one_leaves_room() -> None:
    made, _, edge = cluster()
    other = ToyDevice("tablet", Tier.DEVICE, made.rng, stream="cam2")
    edge.goodput_bps["tablet"] = FAST
    made.add(other)
    made.run(10.0)
    assert other.plan.nodes == ("tablet", "edge")
    assert made.core is not None
    assert set(made.core.streams) == {"cam", "cam2"}
    other.alive = False
    made.run(70.0)
    assert set(made.core.streams) == {"cam"}


@pytest.mark.parametrize("seed", range(4))
def test_streams_spread_over_the_nodes_of_a_tier_and_survive_the_death_of_one(seed: int) -> None:
    made = ToyCluster(seed)
    devices = [ToyDevice(f"phone{number}", Tier.DEVICE, made.rng, stream=f"cam{number}") for number in range(4)]
    clouds = {
        name: ToyNode(name, Tier.CLOUD, made.rng, goodput_bps={device.name: FAST for device in devices})
        for name in ("cloud-1", "cloud-2")
    }
    for node in (*devices, *clouds.values()):
        made.add(node)
    made.run(12.0)
    used = [_nodes(device)[1] for device in devices]
    assert {name: used.count(name) for name in clouds} == {"cloud-1": 2, "cloud-2": 2}
    clouds[used[0]].alive = False
    made.run(12.0)
    (left,) = clouds.keys() - {used[0]}
    assert [_nodes(device)[1:] for device in devices] == [(left,)] * 4
    for device in devices:
        assert len(device.results) == device.number, "frames of the dead node came back"


def test_a_step_of_one_link_asks_the_planner_about_the_stream_that_it_touches_alone() -> None:
    """The others share the edge with it: they are looked at in their turn, and nothing of theirs has changed."""
    made, asked = ToyCluster(), list[str]()
    edge = ToyNode("edge", Tier.EDGE, made.rng)
    edge.rng.lognormvariate = lambda mu, sigma: 1.0  # type: ignore[method-assign]
    made.add(edge)
    for number in range(30):
        name = f"phone{number}"
        edge.goodput_bps[name] = FAST
        made.add(ToyDevice(name, Tier.DEVICE, made.rng, stream=f"cam{number}"))
    made.run(60.0)
    advise = made.advisor.advise
    made.advisor.advise = lambda world: asked.append(world.stream) or advise(world)  # type: ignore[method-assign,func-returns-value]
    made.run(20.0)
    assert asked == [], "nothing moves"
    edge.goodput_bps["phone7"] = FAST / 200.0
    log = len(made.log)
    while not any(each.record.kind == "prepare" for each in made.log[log:]) and made.now < 100.0:
        made.run(0.25)
    assert {each.record.stream for each in made.log[log:] if each.record.kind == "prepare"} == {"cam7"}
    assert set(asked) == {"cam7"} and len(asked) <= 8


def test_one_stream_name_belongs_to_one_device() -> None:
    made, _, _ = cluster()
    made.run(3.0)
    rival = ToyDevice("rival", Tier.DEVICE, made.rng)
    made.add(rival)
    made.run(3.0)
    assert "already phone's" in rival.refusal


def test_two_processes_of_one_name_are_told_apart() -> None:
    made, _, edge = cluster()
    twin = ToyNode("edge", Tier.EDGE, made.rng)
    made.run(3.0)
    for _ in range(6):
        made.report(twin)
        made.run(0.5)
        made.report(edge)
        made.run(0.5)
    assert made.decisions("restart") == ["restart"]


def test_a_probe_keeps_to_its_budget_on_an_idle_link() -> None:
    made, _, edge = cluster(goodput_bps=1e6)
    made.run(120.0)
    phone = made.nodes["phone"]
    sent = sum(order.payload_bytes for order in phone.orders if order.target == "edge")
    assert 8.0 * (sent - 65536) <= 0.012 * 1e6 * 120.0
    assert edge.alive


def test_links_that_are_not_there_are_not_probed() -> None:
    """In a replay all nodes are on one machine, and the way past a shaper is as fast as its memory."""
    made, _, _ = cluster(goodput_bps=1e6)
    made.core = SchedulerCore(made.advisor, CoreConfig("scheduler", settings=made.settings, links=frozenset()))
    made.run(20.0)
    assert not made.nodes["phone"].orders


def test_a_retreat_to_the_device_is_not_for_ever() -> None:
    made, device, edge = cluster()
    made.run(8.0)
    edge.goodput_bps["phone"] = 0.5e6
    made.run(6.0)
    assert _nodes(device) == ("phone",)
    made.run(30.0)
    edge.goodput_bps["phone"] = FAST
    back = made.now
    while _nodes(device) == ("phone",) and made.now - back < 20.0:
        made.run(0.25)
    assert made.now - back <= 8.0


def test_announcements_are_repeated_and_name_endpoints() -> None:
    made, _, _ = cluster()
    made.run(10.0)
    sent = [
        each.message for found in made.instructions for each in found
        if isinstance(each, Publish) and isinstance(each.message, Announcement)
    ]  # fmt: skip
    assert len(sent) >= 9
    assert sent[-1].peers["edge"].frames == "tcp://edge:1"
    assert [each.sequence for each in sent] == sorted({each.sequence for each in sent})


def test_maps_stay_bounded_when_names_are_made_up() -> None:
    core = SchedulerCore(ToyAdvisor(), CoreConfig("s"))
    for number in range(6000):
        core.handle(ReportReceived(Report(f"n{number}", Tier.EDGE, "i", 1, 0.0, MODEL)), 0.001 * number)
    assert len(core.registry) == 5000
    core.handle(Tick(), 7.0)
    for second in range(8, 100):
        core.handle(Tick(), float(second))
    assert len(core.registry) == 0


def test_links_of_peers_that_never_registered_are_not_kept() -> None:
    registry = Registry()
    registry.heard(Report("edge-1", Tier.EDGE, "a", 1, 0.0), 0.0)
    registry.heard(Report("device-1", Tier.DEVICE, "b", 1, 0.0), 0.0)
    record = registry.get("edge-1")
    assert record is not None
    assert all(registry.link_of(record, f"made-up-{number}") is None for number in range(2 * MAX_LINKS))
    assert registry.link_of(record, "device-1") is registry.link("device-1", "edge-1") is not None


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    loss=st.sampled_from([0.0, 0.1, 0.4]),
    delay_s=st.sampled_from([0.001, 0.3, 1.0]),
    twice=st.sampled_from([0.0, 0.3]),
    faults=st.lists(st.sampled_from(["edge", "phone", "scheduler", "both", "link", "freeze"]), max_size=5),
)
def test_lost_late_doubled_and_reordered_messages_delay_switches_and_break_nothing(
    seed: int, loss: float, delay_s: float, twice: float, faults: list[str]
) -> None:
    made, device, edge = cluster(seed, loss=loss, delay_s=delay_s, twice=twice)
    rng = random.Random(seed)
    made.run(6.0)
    for fault in faults:
        _inject(made, fault, rng)
        made.run(rng.uniform(0.2, 6.0))
    _mend(made)
    made.loss = made.twice = 0.0
    made.delay_s = 0.002
    made.run(75.0)
    assert _nodes(device) == ("phone", "edge")
    assert edge.runs(device.plan, made.now)
    _check_epochs(device)


def _inject(made: ToyCluster, fault: str, rng: random.Random) -> None:
    """One fault; dead things come back as the next one strikes."""
    _mend(made)
    edge, phone = made.nodes["edge"], made.nodes["phone"]
    if fault in ("edge", "both"):
        edge.alive = False
    if fault == "phone":
        phone.restart()
    if fault in ("scheduler", "both"):
        made.core = None
    if fault == "link":
        edge.goodput_bps["phone"] = rng.choice([0.3e6, 5e6, FAST])
    if fault == "freeze":
        edge.alive = False
        made.at(made.now + rng.uniform(0.1, 8.0), lambda: setattr(edge, "alive", True))


def _mend(made: ToyCluster) -> None:
    if made.core is None:
        made.start_scheduler()
    edge = made.nodes["edge"]
    if not edge.alive:
        edge.restart()
    edge.goodput_bps["phone"] = FAST


def _check_epochs(device: ToyDevice) -> None:
    """While a device lives, a number means one plan, and numbers grow."""
    meaning: dict[int, object] = {}
    for _, plan in device.stamped:
        if plan.epoch == 0:
            meaning.clear()
        assert meaning.setdefault(plan.epoch, plan) == plan


def test_a_log_of_events_replays_every_decision() -> None:
    made, _, edge = cluster(3, loss=0.1, twice=0.1)
    made.run(10.0)
    edge.alive = False
    made.run(8.0)
    edge.restart()
    made.run(10.0)
    lines = [encode_line(LogLine(now, event=event)) for now, event in made.events]
    again = SchedulerCore(ToyAdvisor(), CoreConfig("scheduler1"))
    for line, expected in zip(map(decode_line, lines), made.instructions, strict=True):
        assert line.event is not None
        assert again.handle(line.event, line.now) == expected
    decisions = [each for found in made.instructions for each in found if isinstance(each, LogDecision)]
    assert [decode_line(encode_line(LogLine(0.0, instruction=each))).instruction for each in decisions] == decisions


@pytest.mark.parametrize("noise", [0.1, 0.3])
@pytest.mark.parametrize("ratio", [0.7, 0.95, 1.0, 1.05, 1.4])
def test_a_noisy_but_stationary_link_does_not_flap(noise: float, ratio: float) -> None:
    made, _, edge = cluster(goodput_bps=50_000 * 8 / 0.2 * ratio)
    plain = edge.rng.lognormvariate
    edge.rng.lognormvariate = lambda mu, sigma: plain(mu, noise)  # type: ignore[method-assign]
    made.run(300.0)
    assert made.decisions("prepare").count("prepare") <= 2


def _nodes(device: ToyDevice) -> tuple[str, ...]:
    return device.plan.nodes


def _state(made: ToyCluster) -> ClusterState:
    states = [
        each.message for found in made.instructions for each in found
        if isinstance(each, Publish) and isinstance(each.message, ClusterState)
    ]  # fmt: skip
    return states[-1]
