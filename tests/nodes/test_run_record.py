"""A live run's folder, read as the record that reports are drawn from."""

from __future__ import annotations

import tempfile
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodes.replayed import LiveLink
from nodes.report.record import load_run
from nodes.summary import Summary, write_json
from pipeline.errors import ConfigError
from pipeline.frames.results import Result
from pipeline.frames.wire import Hop
from pipeline.plan import Tier
from scheduler.events import DecisionRecord, LogDecision, LogLine, ReportReceived, encode_line
from scheduler.reports import Crossing, Figure, LinkReport, Report, StageReport, StreamReport
from scheduler.simulate import simulate
from scheduler.simulate.record import Quantiles
from tests.scheduler.simulate.nets import GRAPH, scenario, split_plan

BEGIN_S = 1000.0
FPS = 10.0
FRAMES = 100
SENT = 50_000


def report(node: str, tier: Tier, second: int, offset_s: float) -> Report:
    """What a node, whose clock is `offset_s` behind, says in one second of a run at `FPS` over a link of 8 Mbit/s."""
    count = round(second * FPS)
    stage = StageReport("stream-1", 1, count, packed_bytes=Figure(SENT, SENT, SENT))
    told = StreamReport("stream-1", 1, 1, split_plan(), 0, results=count)
    crossings = tuple(Crossing(SENT, 0.05, 0.2 * number) for number in (4, 3, 2, 1, 0))
    return Report(
        node, tier, "x", second, BEGIN_S + second - offset_s, stages=(stage,),
        links=(LinkReport("device-1", crossings),) if tier is Tier.EDGE else (),
        streams=(told,) if tier is Tier.DEVICE else (),
    )  # fmt: skip


def live_folder(folder: Path, results: list[Result] | None = None, offset_s: float = 0.0) -> Path:
    """What ten seconds of a live run leave behind; results without times, where none are given."""
    folder.mkdir()
    latency = Quantiles(0.2, 0.2, 0.2)
    summary = Summary(
        "stream-1", "small", "film.mp4", FRAMES, FRAMES, {}, {"late": 2}, 0, 10.0, FPS, latency, [],
        {"device-1 -> edge-1": SENT}, {1: FRAMES}, 0.75,
    )  # fmt: skip
    write_json(folder / "summary.json", summary)
    write_json(folder / "plan.json", [{"first_frame": 0, "plan": split_plan()}])
    write_json(folder / "model.json", GRAPH)
    write_json(folder / "links.json", [LiveLink("device-1", "edge-1", "8Mbit", BEGIN_S - 3.0)])
    hops = tuple(Hop(node, 0.0, 0.0, 0.1, 0.0, sent) for node, sent in (("device-1", SENT), ("edge-1", 40)))
    results = results or [Result(number, number / FPS, (), 1, 0.2, hops) for number in range(FRAMES)]
    (folder / "results.jsonl").write_bytes(b"\n".join(msgspec.json.encode(each) for each in results))
    header = {"settings": {"planner": "joint", "objective": {"priorities": [{"goal": "latency"}]}}}
    lines = [msgspec.json.encode(header) + b"\n"]
    decision = DecisionRecord(BEGIN_S, "prepare", "throughput gain 3.00", "stream-1", epoch=1)
    lines.append(encode_line(LogLine(BEGIN_S, instruction=LogDecision(decision))))
    for second in range(1, 11):
        for node, tier in (("device-1", Tier.DEVICE), ("edge-1", Tier.EDGE)):
            event = ReportReceived(report(node, tier, second, offset_s))
            lines.append(encode_line(LogLine(BEGIN_S + second, event=event)))
    (folder / "events.jsonl").write_bytes(b"".join([*lines, b'{"now": 1']))
    return folder


def test_a_live_run_becomes_a_record(tmp_path: Path) -> None:
    record = load_run(live_folder(tmp_path / "run"))
    assert (record.kind, record.policy, record.objective) == ("live", "joint", "latency")
    assert record.totals.accuracy == 0.75
    assert record.frames.frame == list(range(FRAMES))
    assert np.allclose(np.diff(record.frames.done_s), 1 / FPS)
    assert record.frames.bytes == [SENT] * FRAMES
    (use,) = record.plans
    assert use.reason == "throughput gain 3.00"
    assert use.shares == pytest.approx((0.6, 0.4), abs=0.01)
    (link,) = record.links
    assert set(link.true_bps) == {8e6}
    assert link.estimated_bps[-1] == pytest.approx(8e6)


@given(st.lists(st.tuples(st.floats(0.0, 9.0), st.floats(0.01, 8.0)), min_size=2, max_size=40), st.floats(-50.0, 50.0))
def test_results_come_when_the_device_says_and_not_in_the_order_of_frames(
    frames: list[tuple[float, float]], offset_s: float
) -> None:
    """In an outage frames that the device computes alone overtake those that are stuck."""
    own_s = BEGIN_S - offset_s
    frames = [(admitted_s, took_s) for (admitted_s, _), (_, took_s) in zip(sorted(frames), frames, strict=True)]
    results = [
        Result(number, 0.0, (), 1, took_s, admitted_s=own_s + admitted_s)
        for number, (admitted_s, took_s) in enumerate(frames)
    ]
    with tempfile.TemporaryDirectory() as folder:
        record = load_run(live_folder(Path(folder) / "run", results, offset_s))
    assert record.frames.done_s == sorted(record.frames.done_s)
    first_s = frames[0][0]
    for frame, admitted_s, done_s in zip(
        record.frames.frame, record.frames.admitted_s, record.frames.done_s, strict=True
    ):
        assert admitted_s == pytest.approx(frames[frame][0] - first_s, abs=1e-6)
        assert done_s == pytest.approx(frames[frame][0] - first_s + frames[frame][1], abs=1e-6)
    (remark,) = record.remarks
    assert remark.at_s == pytest.approx(-first_s, abs=1e-6), "the scheduler's times are on the same axis"


def test_a_simulated_run_is_read_from_its_own_record(tmp_path: Path) -> None:
    record = simulate(scenario(seconds=2.0))
    record.save(tmp_path)
    assert load_run(tmp_path) == record


@pytest.mark.parametrize("missing", ["summary.json", "results.jsonl", "events.jsonl"])
def test_a_folder_without_a_run_is_refused(tmp_path: Path, missing: str) -> None:
    folder = live_folder(tmp_path / "run")
    (folder / missing).unlink()
    with pytest.raises(ConfigError, match=missing):
        load_run(folder)
