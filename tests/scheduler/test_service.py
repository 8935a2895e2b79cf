"""The scheduler's sockets: what viewers get, and that nothing is sent where nobody looks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import zmq

from nodes.sockets import SocketFactory
from pipeline.errors import WireError
from pipeline.plan import Tier
from scheduler import service
from scheduler.advisor import NoAdvisor
from scheduler.core import CoreConfig, SchedulerCore
from scheduler.events import (
    VIEWERS,
    ClusterState,
    DecisionRecord,
    LogDecision,
    LogLine,
    Tick,
    decode_command,
    decode_line,
    decode_report,
    encode,
    encode_line,
    topic,
)
from scheduler.reports import Report
from scheduler.service import CROWD_PER_S, EventLog, SchedulerService

LIMIT_S = 20.0
TICK_S = 0.05


def test_viewers_get_reports_and_states_as_long_as_they_look() -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    factory = SocketFactory(context)
    inbox, reports = factory.subscriber("tcp://127.0.0.1:*", bind=True)
    outbox, plans = factory.publisher("tcp://127.0.0.1:*", bind=True)
    core = SchedulerCore(NoAdvisor(), CoreConfig("test", heartbeat_s=TICK_S))
    made, stop = SchedulerService(core, inbox, outbox), threading.Event()
    thread = threading.Thread(target=made.run, args=(stop, TICK_S))
    thread.start()
    node, _ = factory.publisher(reports, bind=False)
    try:
        for _ in range(2):
            viewer, _ = factory.subscriber(plans, bind=False, topics=(topic(VIEWERS),))
            seen: set[str] = set()
            sequence = int(time.monotonic() * 1e6)

            def look(viewer: zmq.Socket[bytes] = viewer, seen: set[str] = seen, first: int = sequence) -> bool:
                # More than one a millisecond: the service takes them together.
                for number in range(int(CROWD_PER_S * TICK_S * 4)):
                    found = Report("cloud-1", Tier.CLOUD, "i", first + len(seen) + number, 0.0)
                    node.send_multipart([topic("cloud-1"), encode(found)])
                while viewer.poll(10):
                    seen.add(_kind(viewer.recv_multipart()[-1]))
                return seen == {"report", "state"}

            with viewer:
                _until(look)
            _until(lambda: made._viewers == 0)
        assert "cloud-1" in {record.name for record in core.registry}
    finally:
        node.close()
        stop.set()
        thread.join()
        context.term()


def test_the_event_log_ends_its_inputs_first_and_then_its_decisions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "MAX_LOG_BYTES", 2000)
    path = tmp_path / "events.jsonl"
    log = EventLog(path, b"{}\n")
    decision = LogDecision(DecisionRecord(0.0, "join", "edge-1 joined"))
    for number in range(100):
        log.write(float(number), Tick(), [decision])
    log.close()
    lines = [decode_line(data) for data in path.read_bytes().splitlines()[1:]]
    last = {kind: max(line.now for line in lines if (line.event is None) == kind) for kind in (False, True)}
    assert last[False] < last[True] < 99.0
    assert path.stat().st_size <= 2 * 2000 + len(encode_line(LogLine(0.0, instruction=decision)))


def _kind(data: bytes) -> str:
    try:
        return "state" if isinstance(decode_command(data), ClusterState) else "other"
    except WireError:
        return "report" if decode_report(data).node == "cloud-1" else "other"


def _until(condition: Callable[[], bool]) -> None:
    deadline_s, pause = time.monotonic() + LIMIT_S, threading.Event()
    while not condition():
        assert time.monotonic() < deadline_s
        pause.wait(0.01)
