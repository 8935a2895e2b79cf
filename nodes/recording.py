"""Traces of a live run's links, from what the receivers reported: a bad day in the field, for the desk."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import zmq

from nodes.replayed import FILE as LINKS_FILE
from nodes.replayed import read_links
from nodes.sockets import SocketFactory
from pipeline.errors import AnabranchError, ConfigError, WireError
from scheduler.events import VIEWERS, ReportReceived, decode_line, decode_report, topic
from scheduler.reports import Report
from traces.record import TraceRecorder
from traces.trace import Trace

LinkName = tuple[str, str]
EVENTS_FILE = "events.jsonl"
POLL_MS = 100


class LinkRecorder:
    """Collects the crossings of all links; each direction is a link of its own.

    Args:
        step_s: length of the traces' steps.
    """

    def __init__(self, step_s: float = 1.0) -> None:
        self.begin_s: float | None = None
        """Time 0 of all traces; where None, the first result of any stream, or the first crossing."""
        self._step_s = step_s
        self._links: dict[LinkName, TraceRecorder] = {}
        self._first_result_s: float | None = None
        self._sequences: dict[str, int] = {}

    def add(self, report: Report, now: float) -> None:
        """Take a node's report that came in at `now` on the scheduler's clock; one that was seen before counts once."""
        if self._sequences.get(report.node, -1) == report.sequence:
            return
        self._sequences[report.node] = report.sequence
        if self._first_result_s is None and any(stream.results for stream in report.streams):
            self._first_result_s = now
        for link in report.links:
            recorder = self._links.setdefault(
                (link.peer, report.node), TraceRecorder(f"{link.peer}-{report.node}", self._step_s)
            )
            for crossing in link.crossings:
                recorder.add_delivery(now - crossing.age_s, 8.0 * crossing.payload_bytes, crossing.busy_s)

    def traces(self) -> dict[LinkName, Trace]:
        """The trace of every link that carried something, with one time 0 for all."""
        begin_s = self.begin_s if self.begin_s is not None else self._first_result_s
        return {name: recorder.trace(begin_s) for name, recorder in self._links.items() if len(recorder)}


def record_folder(folder: Path, step_s: float = 1.0) -> dict[LinkName, Trace]:
    """The links of a finished run, from its event log; of a replay, they begin where its traces did.

    Raises:
        ConfigError: it holds no event log.
        TraceError: a step that is none.
    """
    recorder = LinkRecorder(step_s)
    links = folder / LINKS_FILE
    if links.exists():
        recorder.begin_s = min((link.start_s for link in read_links(links).values() if link.start_s), default=None)
    try:
        lines = (folder / EVENTS_FILE).read_bytes().splitlines()[1:]
    except OSError as error:
        raise ConfigError(f"run {folder}", f"{EVENTS_FILE}: {error.strerror}", "name the folder of a run") from error
    for data in lines:
        try:
            line = decode_line(data)
        except AnabranchError:
            continue  # the last line of a run that was killed
        if isinstance(line.event, ReportReceived):
            recorder.add(line.event.report, line.now)
    return recorder.traces()


def record_live(plans: str, stop: threading.Event, step_s: float = 1.0) -> dict[LinkName, Trace]:
    """The links of a deployment that runs now, until `stop` is set.

    Args:
        plans: the scheduler's plan socket, which passes every report on to those who watch.
        stop: ends the recording.
        step_s: length of the traces' steps.
    """
    recorder = LinkRecorder(step_s)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket, _ = SocketFactory(context).subscriber(plans, bind=False, topics=(topic(VIEWERS),))
    try:
        with socket:
            while not stop.is_set():
                if not socket.poll(POLL_MS):
                    continue
                data = socket.recv_multipart()[-1]
                try:
                    recorder.add(decode_report(data), time.monotonic())
                except WireError:
                    continue  # the cluster's state, which viewers are told beside the reports
    finally:
        context.term()
    return recorder.traces()
