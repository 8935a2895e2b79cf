"""A live run's folder, read as the record that reports are drawn from."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from nodes.replayed import LiveLink
from nodes.run_record import load_run
from nodes.summary import Summary, write_json
from pipeline.errors import ConfigError
from pipeline.frames.results import Result
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


def report(node: str, tier: Tier, second: int) -> Report:
    """What a node says in one second of a run at `FPS` over a link of 8 Mbit/s."""
    count = round(second * FPS)
    stage = StageReport("stream-1", 1, count, packed_bytes=Figure(SENT, SENT, SENT))
    told = StreamReport("stream-1", 1, 1, split_plan(), 0, results=count)
    crossings = tuple(Crossing(SENT, 0.05, 0.2 * number) for number in (4, 3, 2, 1, 0))
    return Report(
        node, tier, "x", second, BEGIN_S + second, stages=(stage,),
        links=(LinkReport("device-1", crossings),) if tier is Tier.EDGE else (),
        streams=(told,) if tier is Tier.DEVICE else (),
    )  # fmt: skip


def live_folder(folder: Path) -> Path:
    """What ten seconds of a live run leave behind."""
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
    results = [Result(number, number / FPS, (), 1, 0.2) for number in range(FRAMES)]
    (folder / "results.jsonl").write_bytes(b"\n".join(msgspec.json.encode(each) for each in results))
    header = {"settings": {"planner": "joint", "objective": {"priorities": [{"goal": "latency"}]}}}
    lines = [msgspec.json.encode(header) + b"\n"]
    decision = DecisionRecord(BEGIN_S, "prepare", "throughput gain 3.00", "stream-1", epoch=1)
    lines.append(encode_line(LogLine(BEGIN_S, instruction=LogDecision(decision))))
    for second in range(1, 11):
        for node, tier in (("device-1", Tier.DEVICE), ("edge-1", Tier.EDGE)):
            event = ReportReceived(report(node, tier, second))
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
