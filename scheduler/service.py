"""The decision core on its sockets: reports in, announcements out, and every event and decision into the log.

The only file of this package that holds sockets. It knows no policy: it feeds the core and carries out.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

import zmq

from pipeline.errors import SinkError, VersionMismatch, WireError
from scheduler.events import (
    VIEWERS,
    Event,
    Instruction,
    LogDecision,
    LogLine,
    Publish,
    ReportReceived,
    Tick,
    decode_report,
    encode,
    encode_line,
    topic,
    unreadable,
)
from scheduler.patience import Doorkeeper, Source, Sources, bound_port
from scheduler.reports import Report
from scheduler.unread import Unread

logger = logging.getLogger(__name__)

TICK_S = 0.25
"""How often the core looks at deaths, time-outs and plans that are due."""

POLL_MS = 20
"""Most that a wait for reports takes, so that injected events and `stop` are soon seen."""

MAX_BATCH = 2000
"""Reports taken between two ticks; more are a flood, and must not stop the clock."""

CROWD_PER_S = 200.0
"""Reports a second from which on they are taken together every `REST_S`: a thousand nodes would wake this thread, and
the one that reads the sockets, a thousand times a second."""

REST_S = 0.004

NAMES_PER_CONNECTION = 16
"""Nodes that one connection may report for; every node has its own, so this many names are a stranger's making."""

MAX_UNREAD_BYTES = 8 << 20
"""What one connection may have sent since its last whole report; where plans go out, over all its subscriptions."""

MAX_UNREAD_IN_ALL = 256 << 20
"""The same for all connections of a socket together: who has most goes first."""

MAX_SPEAKERS = 8192
"""Connections of which the names are kept; the one heard of longest ago is forgotten first."""

MAX_LOG_BYTES = 1 << 30
"""The event log takes no more inputs here: at 20 kB/s for ten nodes that is half a day; a longer run keeps its
decisions, up to twice as many bytes."""


class Core(Protocol):
    """What the service needs of `SchedulerCore`."""

    def handle(self, event: Event, now: float) -> list[Instruction]:
        """Take an event; return what is to be done."""


@dataclass(frozen=True)
class Sender:
    """Whose key a message came with."""

    node: str
    role: str


def sender_of(frame: zmq.Frame) -> Sender | None:
    """The node that a received part comes from, as its socket's gate has found out; None on a socket without keys."""
    try:
        return Sender(str(frame.get("User-Id")), str(frame.get("Role")))
    except zmq.ZMQError:
        return None


def check_sender(report: Report, sender: Sender | None) -> None:
    """Hold a report against the key that it came with.

    Raises:
        WireError: it tells of another node, or of another tier than the key's role.
    """
    if sender is None:
        return
    if report.node != sender.node:
        raise WireError(f"report of node {sender.node}", f"says that it is from {report.node!r}", "check its --name")
    if (report.tier or "tile") != sender.role:
        raise WireError(
            f"report of node {sender.node}", f"says {report.tier or 'tile'}, and its key is for {sender.role}"
        )


class EventLog:
    """The log of inputs and decisions: from it, every decision can be made again."""

    def __init__(self, path: Path, header: bytes) -> None:
        self._path = path
        self._bytes = 0
        try:
            self._file: IO[bytes] | None = path.open("wb")
        except OSError as error:
            raise SinkError(
                f"event log {path}", error.strerror or "cannot be written", "choose another --run-dir"
            ) from error
        self._put(header)

    def write(self, now: float, event: Event, instructions: list[Instruction]) -> None:
        """Log an event and what was decided on it (announcements follow from both, and are left out)."""
        if self._bytes < MAX_LOG_BYTES:
            self._put(encode_line(LogLine(now, event=event)))
        for instruction in instructions:
            if isinstance(instruction, LogDecision) and self._bytes < 2 * MAX_LOG_BYTES:
                self._put(encode_line(LogLine(now, instruction=instruction)))

    def close(self) -> None:
        """Write out and close."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _put(self, line: bytes) -> None:
        """Write a line; a full disk ends the log, not the scheduler."""
        if self._file is None:
            return
        try:
            self._file.write(line)
            self._file.flush()
            self._bytes += len(line)
        except OSError as error:
            logger.error("event log %s: %s; nothing more is logged", self._path, error.strerror)
            with contextlib.suppress(OSError):  # what is buffered still cannot be written
                self._file.close()
            self._file = None


class SchedulerService:
    """Runs a core on two bound sockets. Viewers get every report as it came, beside the cluster's state.

    Args:
        core: decides.
        reports: SUB socket, bound.
        plans: XPUB socket, bound.
        log: where events go, or None.
    """

    def __init__(
        self, core: Core, reports: zmq.Socket[bytes], plans: zmq.Socket[bytes], log: EventLog | None = None
    ) -> None:
        self._core = core
        self._reports = reports
        self._plans = plans
        self._log = log
        self._on_decision: Callable[[LogDecision], None] = _log_decision
        self._has_gate = bool(reports.getsockopt(zmq.CURVE_SERVER))
        """Whether each sender has a key. Not to be asked of each message: ZeroMQ answers by an error where none has."""
        self._viewers = 0
        """Subscriptions that viewers' messages match."""
        self._injected: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self.door = Doorkeeper()
        self._speakers: OrderedDict[Source, set[str]] = OrderedDict()
        self._known: OrderedDict[str, None] = OrderedDict()
        """Nodes that were heard of; no new one is from where somebody was cut off lately, or each connection of a
        stranger would bring some until there is no room."""
        self._unread = [Unread(bound_port(socket), MAX_UNREAD_BYTES, MAX_UNREAD_IN_ALL) for socket in (reports, plans)]
        self._sources, self._heard = Sources(), set[Source]()

    def inject(self, event: Event) -> None:
        """Hand the core an event that comes from no socket (a stream's new settings). Safe from any thread."""
        self._injected.put(event)

    def run(self, stop: threading.Event, tick_s: float = TICK_S) -> None:
        """Serve until `stop` is set; closes the sockets."""
        self._reports.setsockopt(zmq.RCVTIMEO, POLL_MS)
        with self._reports, self._plans:
            due_s, taken, crowded = time.monotonic(), 0, False
            while not stop.is_set():
                # All that waits is heard before the clock is: while the core plans, reports queue up, and their
                # senders must not be taken for dead.
                taken += self._receive_all()
                while not self._injected.empty():
                    self._handle(self._injected.get())
                if time.monotonic() >= due_s:
                    self._see_viewers()
                    self._handle(Tick())
                    for unread in self._unread:
                        self.door.turn_out(unread.excessive(self._heard, time.monotonic()))
                    due_s, taken, crowded = time.monotonic() + tick_s, 0, taken > CROWD_PER_S * tick_s
                if crowded:
                    stop.wait(REST_S)
        if self._log is not None:
            self._log.close()

    def _receive_all(self) -> int:
        """Take the reports that there are, at most `MAX_BATCH`; wait for the first one. Returns their number."""
        for number in range(MAX_BATCH):
            try:
                self._take(self._reports.recv_multipart(zmq.DONTWAIT if number else 0, copy=False)[-1])
            except zmq.Again:
                return number
        return MAX_BATCH

    def _take(self, part: zmq.Frame) -> None:
        source, data = self._sources.of(part), part.bytes
        if source is not None:
            self._heard.add(source)
        if not self.door.bears(source):
            return
        try:
            report = decode_report(data)
            if self._has_gate:
                check_sender(report, sender_of(part))
            self._check_speaker(source, report.node)
            if self._viewers:
                self._plans.send_multipart([topic(VIEWERS), data])
            self._handle(ReportReceived(report))
        except VersionMismatch as error:
            logger.warning("%s", error)
            self._refuse(source, "version", error)
            stranger = unreadable(data)
            if stranger is not None:
                self._handle(stranger)
        except WireError as error:
            logger.warning("report dropped: %s", error)
            self._refuse(source, "bad-report", error)

    def _refuse(self, source: Source | None, reason: str, error: WireError) -> None:
        self.door.refused[reason] += 1
        self.door.blame(source, error)

    def _check_speaker(self, source: Source | None, node: str) -> None:
        """Let a connection speak for a few nodes only, so that nobody fills the registry with made-up ones."""
        if source is None:
            return
        names = self._speakers.setdefault(source, set())
        self._speakers.move_to_end(source)
        while len(self._speakers) > MAX_SPEAKERS:
            self._speakers.popitem(last=False)
        if node not in names and len(names) >= NAMES_PER_CONNECTION:
            raise WireError(f"report of {node!r}", f"{source.label} already speaks for {len(names)} nodes")
        if node not in self._known and self.door.watches(source):
            raise WireError(f"report of {node!r}", f"{source.label} shares its address with one cut off; wait a minute")
        names.add(node)
        self._known[node] = None
        self._known.move_to_end(node)
        while len(self._known) > MAX_SPEAKERS:
            self._known.popitem(last=False)

    def _see_viewers(self) -> None:
        """Learn from the subscriptions (XPUB) whether anybody looks: a thousand reports need not be sent to nobody."""
        while True:
            try:
                news = self._plans.recv(zmq.DONTWAIT)
            except zmq.Again:
                return
            change = {b"\x00": -1, b"\x01": 1}.get(news[:1], 0)
            if topic(VIEWERS).startswith(news[1:]):
                self._viewers = max(0, self._viewers + change)

    def _handle(self, event: Event) -> None:
        now = time.monotonic()
        instructions = self._core.handle(event, now)
        if self._log is not None:
            self._log.write(now, event, instructions)
        for instruction in instructions:
            if isinstance(instruction, Publish):
                self._publish(instruction)
            elif isinstance(instruction, LogDecision):
                self._on_decision(instruction)

    def _publish(self, instruction: Publish) -> None:
        if instruction.to == (VIEWERS,) and not self._viewers:
            return
        data = encode(instruction.message)
        for recipient in instruction.to:
            self._plans.send_multipart([topic(recipient), data])


def _log_decision(decision: LogDecision) -> None:
    record = decision.record
    logger.info("%s %s%s: %s", record.kind, record.stream or record.node, _epoch(record.epoch), record.reason)


def _epoch(epoch: int | None) -> str:
    return "" if epoch is None else f"#{epoch}"
