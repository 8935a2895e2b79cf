"""Recording a run's links as traces."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st

from nodes.recording import LinkRecorder, record_folder, record_live
from nodes.sockets import SocketFactory
from pipeline.errors import ConfigError
from pipeline.frames.envelope import Envelope
from pipeline.plan import Tier
from scheduler.events import VIEWERS, LogLine, ReportReceived, encode, encode_line, topic
from scheduler.reports import Crossing, LinkReport, Report
from scheduler.simulate import Scenario, simulate
from scheduler.simulate.deciders import SimulatedScheduler
from scheduler.simulate.links import Pipe, SimulatedLink, Watch
from tests.nodes.processes import eventually
from tests.scheduler.simulate.nets import scenario, split_plan
from traces.library import KINDS, library_trace
from traces.trace import Trace

SECONDS = 60
FRAME_BYTES = 60_000


def reports(trace: Trace, begin_s: float) -> list[tuple[float, Report]]:
    """What the receiver of a busy link reports each second, by the simulator's pipe and the live node's own timing."""
    link = SimulatedLink("device-1", "edge-1", Pipe(trace, begin_s), 0.01, Watch("device-1"))
    found: list[tuple[float, Report]] = []
    now, due = begin_s, begin_s + 1.0
    for number in range(100_000):
        arrived_s = link.send(FRAME_BYTES, Envelope(60, 320), now)
        while arrived_s > due:
            crossed = link.watch.take(due)
            found.append((due, Report("edge-1", Tier.EDGE, "x", len(found), due, links=(crossed,))))
            due += 1.0
            if due > begin_s + SECONDS:
                return found
        link.watch.finished(FRAME_BYTES, arrived_s, probe=False)
        # A camera that sends a frame every 50 ms, or as soon as the one before is there.
        now = max(arrived_s, begin_s + 0.05 * number)
    raise AssertionError("the link is too fast for this test")


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "3g"])
def test_a_recorded_link_resembles_the_true_one(kind: str) -> None:
    trace = library_trace(f"{kind}-2.up")
    recorder = LinkRecorder()
    recorder.begin_s = 5000.0
    for now, report in reports(trace, 5000.0):
        recorder.add(report, now)
        recorder.add(report, now)  # heard twice
    recorded = recorder.traces()["device-1", "edge-1"]
    at_s = np.arange(SECONDS - 2, dtype=float)
    true = np.array([trace.bits_between(each, each + 1.0) for each in at_s])
    seen = np.array([recorded.bits_between(each, each + 1.0) for each in at_s])
    up = true > 0.2 * np.median(true)  # a frame that waits through an outage spreads over it
    # The estimator's own stated error on shaped links (docs/benchmarks.md): 15 % in the median.
    assert float(np.median(np.abs(seen - true)[up] / true[up])) < 0.15
    assert seen.sum() == pytest.approx(true.sum(), rel=0.15)


def test_an_outage_is_recorded_as_one() -> None:
    """In the middle, and at the end of the run, where nothing tells how long it would have gone on."""
    trace = Trace(np.array([0.0, 20.0, 30.0, 50.0]), np.array([8e6, 0.0, 8e6, 0.0]), 1000.0, "outages")
    recorder = LinkRecorder()
    recorder.begin_s = 5000.0
    for now, report in reports(trace, 5000.0):
        recorder.add(report, now)
    recorded = recorder.traces()["device-1", "edge-1"]
    assert recorded.duration_s >= SECONDS - 1
    for begin_s, end_s in ((22.0, 29.0), (52.0, SECONDS - 1.0)):
        assert recorded.bits_between(begin_s, end_s) < 0.1 * 8e6 * (end_s - begin_s)
    for begin_s, end_s in ((2.0, 19.0), (32.0, 49.0)):
        assert recorded.bits_between(begin_s, end_s) == pytest.approx(8e6 * (end_s - begin_s), rel=0.1)


def recorded(run: Scenario) -> Trace:
    """The link from the device, recorded from what the simulated nodes report to the scheduler."""
    recorder = LinkRecorder()
    recorder.begin_s = run.lead_s
    with pytest.MonkeyPatch.context() as patch:
        take = SimulatedScheduler.receive

        def heard(self: SimulatedScheduler, report: Report) -> None:
            recorder.add(report, report.sent_s)
            take(self, report)

        patch.setattr(SimulatedScheduler, "receive", heard)
        simulate(run)
    return recorder.traces()["device-1", "edge-1"]


@settings(max_examples=15)
@given(st.floats(10.5, 13.0), st.floats(2.5, 6.0))
def test_an_outage_between_two_messages_is_recorded_within_a_second(begin_s: float, away_s: float) -> None:
    """Of a camera with a frame every ten seconds, none of which is on its way when the link goes or comes back."""
    level_bps, end_s = 20e6, begin_s + away_s
    link = Trace(np.array([0.0, begin_s, end_s]), np.array([level_bps, 0.0, level_bps]), 1000.0, "outage")
    trace = recorded(scenario(link, policy="fixed", fixed=split_plan(), fps=0.1, seconds=35.0))
    missing_s = [1.0 - trace.bits_between(at_s, at_s + 0.5) / (0.5 * level_bps) for at_s in np.arange(3.0, 30.0, 0.5)]
    lost_s = {at_s: 0.5 * each for at_s, each in zip(np.arange(3.0, 30.0, 0.5), missing_s, strict=True)}
    assert sum(lost_s.values()) == pytest.approx(away_s, abs=1.2), "a report a second, and what rates are off by"
    # The first echo that did not come was asked for within a second of the outage; a step holds the mean of itself.
    assert sum(each for at_s, each in lost_s.items() if begin_s - 1.0 <= at_s <= end_s + 0.5) > away_s - 1.2
    if end_s - begin_s > 4.0:
        assert trace.bits_between(begin_s + 2.1, end_s - 1.1) == 0.0, "no rate that fades, but none"


def test_a_link_that_is_merely_idle_has_no_outage() -> None:
    trace = recorded(scenario(20e6, policy="fixed", fixed=split_plan(), fps=0.05, seconds=60.0))
    assert min(trace.rates_bps) > 0.9 * 20e6


def told(node: str, second: int, life: str = "a", rtt_s: float | None = None, peer: str = "device-1") -> Report:
    link = LinkReport(peer, (), rtt_s)
    return Report(node, Tier.EDGE, life, second, 100.0 + second, links=(link,) if node == "edge-1" else ())


@pytest.mark.parametrize("how", ["dies", "starts anew", "is not told of", "is there"])
def test_a_peer_that_is_gone_is_no_outage(how: str) -> None:
    """Nor is a time of which reports are missing."""
    recorder = LinkRecorder()
    recorder.begin_s = 100.0
    recorder.add(crossing(0, 8e6), 100.0)
    for second in range(1, 20):
        away = 5 <= second < 12
        if not (how == "dies" and second >= 5):
            recorder.add(
                told("device-1", second, "b" if how == "starts anew" and second >= 10 else "a"), 100.0 + second
            )
        if not (how == "is not told of" and away):
            lives = second < 5 or (how != "dies" and not away)
            recorder.add(told("edge-1", second, "x", 0.01 if lives else None), 100.0 + second)
    if how != "dies":
        recorder.add(crossing(20, 8e6), 120.0)
    trace = recorder.traces()["device-1", "edge-1"]
    assert trace.duration_s - trace.total_bits / 8e6 == pytest.approx(7.0 if how == "is there" else 0.0, abs=0.05)
    assert trace.rate_at(15.0) == pytest.approx(8e6), "behind the outage the rate from before it goes on"


def crossing(second: int, rate_bps: float, busy_s: float = 0.1) -> Report:
    link = LinkReport("device-1", (Crossing(round(rate_bps * busy_s / 8), busy_s, 0.5),))
    return Report("edge-1", Tier.EDGE, "x", second, 100.0 + second, links=(link,))


def test_a_folder_is_recorded_from_its_event_log(tmp_path: Path) -> None:
    lines = [encode_line(LogLine(100.0 + second, event=ReportReceived(crossing(second, 8e6)))) for second in range(5)]
    (tmp_path / "events.jsonl").write_bytes(b'{"log": "anabranch events"}\n' + b"".join(lines) + b'{"now": 1')
    (trace,) = record_folder(tmp_path).values()
    assert trace.name == "device-1-edge-1"
    assert trace.duration_s == 5
    assert trace.rates_bps.tolist() == pytest.approx([8e6] * len(trace.rates_bps))


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"events\.jsonl"):
        record_folder(tmp_path)


def test_a_deployment_is_recorded_while_it_runs() -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    outbox, plans = SocketFactory(context).publisher("tcp://127.0.0.1:*", bind=True)
    stop, found = threading.Event(), {}
    thread = threading.Thread(target=lambda: found.update(record_live(plans, stop, 0.05)))
    thread.start()
    sent = 0

    def heard() -> bool:
        nonlocal sent
        sent += 1
        outbox.send_multipart(
            [topic(VIEWERS), encode(crossing(sent, 8e6, busy_s=0.001))]
        )  # shorter than from one to the next
        outbox.send_multipart([topic(VIEWERS), b"nonsense"])
        return sent > 40

    try:
        eventually(heard, "forty reports")
    finally:
        stop.set()
        thread.join()
        outbox.close()
        context.term()
    assert found["device-1", "edge-1"].rates_bps[0] == pytest.approx(8e6, rel=0.01)
