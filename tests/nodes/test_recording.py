"""Recording a run's links as traces."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import zmq

from nodes.recording import LinkRecorder, record_folder, record_live
from nodes.sockets import SocketFactory
from pipeline.errors import ConfigError
from pipeline.plan import Tier
from scheduler.events import VIEWERS, LogLine, ReportReceived, encode, encode_line, topic
from scheduler.reports import Crossing, LinkReport, Report
from scheduler.simulate.links import Pipe, SimulatedLink, Watch
from tests.nodes.processes import eventually
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
        arrived_s = link.send(FRAME_BYTES, now)
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
