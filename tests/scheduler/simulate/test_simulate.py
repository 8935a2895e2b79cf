from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ConfigError
from pipeline.plan import Tier
from scheduler.cost import evaluate
from scheduler.objective import Objective
from scheduler.outage import RESULT_TIMEOUT_S
from scheduler.problem import DEVICE_EDGE, LinkEstimate, Problem
from scheduler.simulate import Scenario, first_plan_s, simulate
from scheduler.simulate.links import Pipe
from scheduler.simulate.record import RunRecord
from scheduler.simulate.scenario import POLICIES
from scheduler.simulate.scenes import ROUND, SCENE_FRAMES
from tests.scheduler.simulate.nets import GRAPH, scenario, split_plan
from tests.traces.strategies import traces
from traces.trace import Trace

LINK_BPS = 20e6
STEPS = Trace(np.array([0.0, 8.0, 12.0]), np.array([20e6, 0.0, 2e6]), 20.0, "steps")
"""Good, then nothing for four seconds, then poor."""


def check_conserved(run: Scenario) -> RunRecord:
    """Every admitted frame has exactly one result."""
    record = simulate(run)
    keys = list(zip(record.frames.stream, record.frames.frame, strict=True))
    assert len(keys) == len(set(keys)) == record.totals.results == record.totals.frames_admitted > 0
    assert all(latency > 0 for latency in record.frames.latency_s)
    return record


@pytest.mark.parametrize("policy", [name for name in POLICIES if name != "fixed"])
def test_every_admitted_frame_has_one_result(policy: str) -> None:
    check_conserved(scenario(STEPS, policy=policy))


def test_frames_are_conserved_while_the_newest_takes_the_waiting_ones_place() -> None:
    record = check_conserved(scenario(STEPS, admit="latest", fps=30.0))
    assert record.totals.frames_admitted + record.totals.drops["superseded"] == 600


def test_frames_admitted_into_an_outage_are_admitted_again() -> None:
    # Between the start of a stall of 7 s and its end, the device gives the link up and admits frames again.
    stall = Trace(np.array([0.0, 6.0, 13.0]), np.array([20e6, 0.0, 20e6]), 100.0, "stall")
    record = check_conserved(scenario(stall, policy="fixed", fixed=split_plan(), seconds=18.0))
    assert record.totals.readmitted["late"] > 0
    assert record.totals.epochs[0] > 0


STALL = Trace(np.array([0.0, 6.0, 18.0]), np.array([20e6, 0.0, 20e6]), 100.0, "stall")


def test_in_an_outage_a_device_computes_what_is_stuck_once_its_source_has_ended() -> None:
    record = check_conserved(scenario(STALL, fps=10.0, seconds=7.0))
    assert record.totals.readmitted.keys() == {"stuck"}, "no frame is waited for until it is late"
    assert max(record.frames.done_s) < 6.0 + RESULT_TIMEOUT_S


def test_in_an_outage_a_device_goes_on_at_its_own_pace() -> None:
    """Results leave in order: those behind a frame that is stuck would take all the room there is."""
    alone_fps = simulate(scenario(STALL, policy="device-only")).totals.fps
    done_s = check_conserved(scenario(STALL, seconds=18.0)).frames.done_s
    first_s = min(at_s for at_s in done_s if at_s > 6.5)
    assert first_s < 12.0
    assert sum(first_s <= at_s < 18.0 for at_s in done_s) > 0.95 * alone_fps * (18.0 - first_s)


@pytest.mark.parametrize("policy", ["joint", "fixed"])
@pytest.mark.parametrize("away_s", [60.0, 900.0, pytest.param(3600.0, marks=pytest.mark.slow)])
def test_a_link_that_vanishes_for_long_costs_no_frame_and_is_used_again_soon(away_s: float, policy: str) -> None:
    back_s, soon_s = 10.0 + away_s, 8.0
    link = Trace(np.array([0.0, 10.0, back_s]), np.array([20e6, 0.0, 20e6]), 1e5, "away")
    plan = {"fixed": split_plan()} if policy == "fixed" else {}
    record = check_conserved(scenario(link, fps=0.5, seconds=back_s + 40.0, policy=policy, **plan))
    split = {use.plan.epoch for use in record.plans if len(use.plan.stages) > 1}
    done = [at_s for at_s, epoch in zip(record.frames.done_s, record.frames.epoch, strict=True) if epoch in split]
    assert [at_s for at_s in done if at_s < 10.0]
    assert not [at_s for at_s in done if 20.0 < at_s < back_s], "nothing crosses a link that is away"
    # Neither the frames and probes that were sent into the outage nor the rest that its length brought are in the way.
    assert len([at_s for at_s in done if back_s < at_s < back_s + soon_s]) > 0
    assert len([at_s for at_s in done if at_s > back_s + soon_s]) > 0.9 * 0.5 * (40.0 - soon_s)


def test_the_same_seed_gives_the_same_run() -> None:
    first, second = (simulate(scenario(STEPS, seed=3)) for _ in range(2))
    assert first == second
    assert simulate(scenario(STEPS, seed=4)).frames != first.frames


def test_frames_meet_a_trace_at_another_moment_with_another_seed() -> None:
    quiet = [simulate(scenario(STEPS, seed=seed, noise=0.0)).frames.done_s for seed in range(3)]
    assert len({tuple(each) for each in quiet}) == 3


def fixed(**changes: object) -> tuple[RunRecord, float, float]:
    """A fixed plan on a constant link without noise; its run, and the cost model's period and latency."""
    run = scenario(LINK_BPS, policy="fixed", fixed=split_plan(), noise=0.0, **changes)
    problem = Problem(
        graph=GRAPH,
        stream="stream-1",
        nodes={Tier.DEVICE: "device-1", Tier.EDGE: "edge-1"},
        times={"device-1": run.times[Tier.DEVICE], "edge-1": run.times[Tier.EDGE]},
        packing=run.packing,
        links={DEVICE_EDGE: LinkEstimate(LINK_BPS, rtt_s=0.008)},
    )
    cost = evaluate(problem, split_plan())
    return simulate(run), cost.period_s, cost.latency_s


def test_a_constant_link_gives_the_cost_models_period() -> None:
    record, period_s, _ = fixed()
    assert record.totals.fps == pytest.approx(1 / period_s, rel=0.01)


def test_a_slow_source_on_a_constant_link_gives_the_cost_models_latency() -> None:
    record, _, latency_s = fixed(fps=2.0)
    assert record.totals.latency_s is not None
    # Message headers and the result's own bytes are in no cost.
    assert record.totals.latency_s.p50 == pytest.approx(latency_s, rel=0.01)


def test_the_credit_window_bounds_the_latency() -> None:
    record, period_s, latency_s = fixed()
    assert record.totals.latency_s is not None
    assert latency_s < record.totals.latency_s.p95 <= 5 * period_s


def test_the_oracle_is_not_beaten_and_the_joint_policy_is_near_it() -> None:
    rates = {policy: simulate(scenario(STEPS, policy=policy)).totals.fps for policy in POLICIES if policy != "fixed"}
    assert max(rates.values()) <= 1.02 * rates["oracle"]
    assert rates["joint"] >= 0.99 * max(rates[name] for name in ("device-only", "cloud-only", "dyno"))


@pytest.mark.parametrize("rate_bps", [0.3e6, 1e6])
def test_behind_a_slow_link_the_device_computes_frames_alone_beside_its_plan(rate_bps: float) -> None:
    """As many as it would by itself, nearly, and what the link takes comes on top."""
    alone_fps = simulate(scenario(rate_bps, policy="device-only")).totals.fps
    record = check_conserved(scenario(rate_bps))
    by_plan = sum(count for epoch, count in record.totals.epochs.items() if epoch)
    assert record.totals.epochs[0] > 0.85 * alone_fps / record.totals.fps * record.totals.results
    assert by_plan > 0.9 * simulate(scenario(rate_bps, policy="cloud-only")).totals.results
    by_camera = simulate(scenario(rate_bps, fps=2.0))
    assert 0 not in by_camera.totals.epochs, "a plan that keeps pace with its camera leaves no frame"


def test_where_latency_counts_a_frame_is_computed_here_as_well_if_the_device_is_about_as_fast() -> None:
    """On a link that comes and goes, the one is the faster way at times, and the other at others."""
    at_s = np.arange(0.0, 24.0, 2.0)
    swings = Trace(at_s, np.where(np.arange(len(at_s)) % 2, 0.2e6, 0.6e6), 24.0, "comes and goes")
    found = {}
    for policy in ("joint", "device-only", "cloud-only"):
        record = check_conserved(scenario(swings, fps=2.0, objective=Objective.parse("latency"), policy=policy))
        assert (record.totals.readmitted.get("hedged", 0) > 10) == (policy == "joint")
        assert record.totals.latency_s is not None
        found[policy] = record.totals.latency_s
    assert found["joint"].p50 < 0.9 * min(found["device-only"].p50, found["cloud-only"].p50)
    assert found["joint"].p95 < 1.02 * min(found["device-only"].p95, found["cloud-only"].p95)


def test_cloud_only_goes_to_the_cloud_even_where_the_device_is_faster() -> None:
    record = simulate(scenario(0.2e6, policy="cloud-only"))
    alone = simulate(scenario(0.2e6, policy="device-only"))
    in_cloud = {use.plan.epoch for use in record.plans if use.plan.stages[-1].tier is Tier.CLOUD}
    assert sum(record.totals.epochs.get(epoch, 0) for epoch in in_cloud) > 0.9 * record.totals.results
    assert record.totals.fps < alone.totals.fps


def test_the_core_estimates_the_link_that_it_cannot_see() -> None:
    record = simulate(scenario(STEPS))
    link = next(each for each in record.links if each.name == "device-1 -> edge-1")
    before = [bps for at_s, bps in zip(link.estimated_s, link.estimated_bps, strict=True) if 4 <= at_s < 8]
    after = [bps for at_s, bps in zip(link.estimated_s, link.estimated_bps, strict=True) if 17 <= at_s < 20]
    assert np.median(before) == pytest.approx(20e6, rel=0.1)
    assert np.median(after) == pytest.approx(2e6, rel=0.1)


def test_streams_share_what_they_cross() -> None:
    one, four = (simulate(scenario(LINK_BPS, streams=count, seconds=10.0)) for count in (1, 4))
    assert four.streams == ["stream-1", "stream-2", "stream-3", "stream-4"]
    assert one.totals.fps < four.totals.fps < 4.0 * one.totals.fps


def test_a_thousand_streams() -> None:
    record = check_conserved(scenario(LINK_BPS, streams=1000, lead_s=2.5, seconds=1.0, fps=2.0, admit="latest"))
    assert len(set(record.frames.stream)) == 1000


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    record = simulate(scenario(STEPS, seconds=5.0))
    assert RunRecord.load(record.save(tmp_path)) == record
    (tmp_path / "record.json").write_bytes(b"{}")
    with pytest.raises(ConfigError, match="name the folder of a run"):
        RunRecord.load(tmp_path / "record.json")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"policy": "best"}, "known are joint"),
        ({"policy": "fixed"}, "has no plan"),
        ({"policy": "oracle", "streams": 2}, "one stream only"),
        ({"seconds": 0.0}, "out of range"),
        ({"admit": "latest"}, "give --fps"),
        ({"times": {}}, "no device"),
    ],
)
def test_impossible_scenarios_are_refused(changes: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        scenario(**changes)  # type: ignore[arg-type]


@given(traces(some_capacity=True), st.floats(0.0, 60.0), st.integers(1, 10**7))
def test_a_pipe_carries_its_opening_rate_and_then_its_trace_to_the_bit(
    trace: Trace, start_s: float, nbytes: int
) -> None:
    pipe = Pipe(trace, zero_s=30.0)
    _, end_s = pipe.send(nbytes, start_s)
    if end_s < math.inf and end_s - start_s > 1e-6:
        assert pipe.mean_bps(start_s, end_s) * (end_s - start_s) == pytest.approx(8.0 * nbytes, rel=1e-6, abs=1.0)
    if end_s < 30.0:
        assert end_s - start_s == pytest.approx(8.0 * nbytes / trace.opening_bps)


def test_a_source_can_begin_with_the_first_plan() -> None:
    """As live: with seconds in between, a plan that was forced would have had its dwell time before the first frame."""
    lead_s = first_plan_s(scenario()) + 0.01
    record = simulate(scenario(lead_s=lead_s))
    assert 2.0 < lead_s < scenario().lead_s
    assert record.plans[0].plan.epoch == 1
    prepared = [remark.at_s for remark in record.remarks if remark.kind == "prepare"]
    assert -1.0 < prepared[0] < 0.0


def test_frames_of_one_scene_pack_into_as_many_bytes_and_those_of_a_round_of_scenes_into_what_was_calibrated() -> None:
    run = scenario(LINK_BPS, policy="fixed", fixed=split_plan(), frames=SCENE_FRAMES * ROUND)
    alike, differing = simulate(run).frames, simulate(run.alike(spread={("conv2", "q8"): 0.5})).frames
    scenes = {frame // SCENE_FRAMES: nbytes for frame, nbytes in zip(differing.frame, differing.bytes, strict=True)}
    assert len(set(alike.bytes)) == 1
    assert len(set(scenes.values())) == len(scenes) == ROUND
    assert differing.bytes == [scenes[frame // SCENE_FRAMES] for frame in differing.frame]
    assert max(differing.bytes) == pytest.approx(1.5 * alike.bytes[0], rel=1e-3)
    assert np.mean(differing.bytes) == pytest.approx(alike.bytes[0], rel=1e-3)


def test_what_differs_takes_the_link_as_long_as_it_is_large() -> None:
    run = scenario(1e6, policy="fixed", fixed=split_plan(), frames=SCENE_FRAMES * ROUND, noise=0.0)
    frames = simulate(run.alike(spread={("conv2", "q8"): 0.5})).frames
    period_s = np.diff(frames.done_s)
    sent_s = 8.0 * np.array(frames.bytes[1:]) / 1e6
    assert np.corrcoef(period_s, sent_s)[0, 1] > 0.95
