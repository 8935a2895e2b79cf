"""Traces of a live run's links, from what the receivers reported: a bad day in the field, for the desk."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from pathlib import Path

import zmq

from nodes.replayed import FILE as LINKS_FILE
from nodes.replayed import read_links
from nodes.sockets import SocketFactory
from pipeline.errors import AnabranchError, ConfigError, WireError
from scheduler.events import VIEWERS, ReportReceived, decode_line, decode_report, topic
from scheduler.reports import LinkReport, Report
from traces.record import TraceRecorder
from traces.trace import Trace

LinkName = tuple[str, str]
EVENTS_FILE = "events.jsonl"
POLL_MS = 100


SILENT_S = 1.0
"""No shorter time without an echo is taken for an outage; nodes ask for one with every report, each second at least."""


@dataclass(frozen=True)
class _Heard:
    """The latest report of a node."""

    report: tuple[str, int]
    """Incarnation and sequence."""
    at_s: float


class _Silence:
    """For how long a link has given no sign of life: no message, none on its way, and no echo.

    A receiver asks each peer for an echo with every report, so a link that is idle gives one; in an outage that
    began between two messages it gives none. The outage is recorded from the first echo on that did not come in time
    until the first sign, unless the peer started anew meanwhile.
    """

    def __init__(self, now: float) -> None:
        self._asked_s = now
        """When the first echo was asked for of those that have not come."""
        self._life = ""
        self._bytes_total = 0

    def begin(self, link: LinkReport, now: float, life: str) -> None:
        """Nothing is known of the time before this report."""
        self._asked_s, self._life, self._bytes_total = now, life, link.bytes_total

    def look(self, link: LinkReport, before_s: float, now: float, life: str) -> tuple[float, float] | None:
        """Take what the receiver says at `now`, having said something at `before_s`.

        Returns:
            Begin and end of the silence that is over with it; None where there was none, or it goes on.
        """
        sign_s = self._first_sign_s(link, before_s, now)
        if sign_s is None:
            return None
        begin_s, same = self._asked_s, life == self._life
        self.begin(link, now, life)
        return (begin_s, sign_s) if same and sign_s - begin_s >= SILENT_S else None

    def until(self, last_s: float, life: str) -> tuple[float, float] | None:
        """The silence that goes on, as far as `last_s`; what comes later is another one."""
        begin_s = self._asked_s
        if life != self._life or last_s - begin_s < SILENT_S:
            return None
        self._asked_s = last_s
        return begin_s, last_s

    def _first_sign_s(self, link: LinkReport, before_s: float, now: float) -> float | None:
        """When the link first gave a sign of life since the report before, as far as this one tells."""
        signs = [now - each.age_s - each.busy_s for each in link.crossings]
        if link.rtt_s is not None:  # of the last echo that was asked for before, or of one that came with it
            signs.append(before_s + link.rtt_s)
        if link.waiting_bytes:
            signs.append(now - link.waiting_s)
        if not signs and link.bytes_total != self._bytes_total:  # what cannot be timed came some time
            signs.append(before_s)
        return min(now, max(before_s, min(signs))) if signs else None


class LinkRecorder:
    """Collects the crossings and the silences of all links; each direction is a link of its own.

    Args:
        step_s: length of the traces' steps.
    """

    def __init__(self, step_s: float = 1.0) -> None:
        self.begin_s: float | None = None
        """Time 0 of all traces; where None, the first result of any stream, or the first crossing."""
        self._step_s = step_s
        self._links: dict[LinkName, TraceRecorder] = {}
        self._silences: dict[LinkName, _Silence] = {}
        self._first_result_s: float | None = None
        self._nodes: dict[str, _Heard] = {}

    def add(self, report: Report, now: float) -> None:
        """Take a node's report that came in at `now` on the scheduler's clock; one that was seen before counts once."""
        before = self._nodes.get(report.node)
        if before is not None and before.report == (report.incarnation, report.sequence):
            return
        if before is not None and before.report != (report.incarnation, report.sequence - 1):
            before = None  # some are missing: what they said is not known
        self._nodes[report.node] = _Heard((report.incarnation, report.sequence), now)
        if self._first_result_s is None and any(stream.results for stream in report.streams):
            self._first_result_s = now
        for link in report.links:
            name = link.peer, report.node
            recorder = self._links.setdefault(name, TraceRecorder(f"{link.peer}-{report.node}", self._step_s))
            for crossing in link.crossings:
                recorder.add_delivery(now - crossing.age_s, 8.0 * crossing.payload_bytes, crossing.busy_s)
            # In an outage nothing is delivered; the message that is on its way says how little can have passed.
            if link.waiting_bytes and link.waiting_s >= self._step_s:
                recorder.add_rate(now, 8.0 * link.waiting_bytes / link.waiting_s)
            silence = self._silences.setdefault(name, _Silence(now))
            life = self._life(link.peer)
            if before is None:
                silence.begin(link, now, life)
            elif (ended := silence.look(link, before.at_s, now, life)) is not None:
                recorder.add_silence(*ended)

    def traces(self) -> dict[LinkName, Trace]:
        """The trace of every link that carried something, with one time 0 for all."""
        begin_s = self.begin_s if self.begin_s is not None else self._first_result_s
        for (peer, node), silence in self._silences.items():
            # Who has not been heard of himself may be gone: that his link is silent says nothing of it.
            if peer in self._nodes:
                last_s = min(self._nodes[peer].at_s, self._nodes[node].at_s)
                if (so_far := silence.until(last_s, self._life(peer))) is not None:
                    self._links[peer, node].add_silence(*so_far)
        return {name: recorder.trace(begin_s) for name, recorder in self._links.items() if len(recorder)}

    def _life(self, node: str) -> str:
        """The incarnation of a node that was heard of last; empty where none was."""
        return self._nodes[node].report[0] if node in self._nodes else ""


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
