"""The decision core on its sockets: reports in, announcements out, and every event and decision into the log.

The only file of this package that holds sockets. It knows no policy: it feeds the core and carries out.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
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

logger = logging.getLogger(__name__)

TICK_S = 0.25
"""How often the core looks at deaths, time-outs and plans that are due."""

POLL_MS = 20
"""Most that a wait for reports takes, so that injected events and `stop` are soon seen."""

MAX_BATCH = 2000
"""Reports taken between two ticks; more are a flood, and must not stop the clock."""

MAX_LOG_BYTES = 1 << 30
"""The event log stops growing here: at 20 kB/s for ten nodes that is half a day; a longer run keeps its decisions."""


class Core(Protocol):
    """What the service needs of `SchedulerCore`."""

    def handle(self, event: Event, now: float) -> list[Instruction]:
        """Take an event; return what is to be done."""


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
            if isinstance(instruction, LogDecision):
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
            self._file = None


class SchedulerService:
    """Runs a core on two bound sockets. Viewers get every report as it came, beside the cluster's state.

    Args:
        core: decides.
        reports: SUB socket, bound.
        plans: PUB socket, bound.
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
        self._injected: queue.SimpleQueue[Event] = queue.SimpleQueue()

    def inject(self, event: Event) -> None:
        """Hand the core an event that comes from no socket (a stream's new settings). Safe from any thread."""
        self._injected.put(event)

    def run(self, stop: threading.Event, tick_s: float = TICK_S) -> None:
        """Serve until `stop` is set; closes the sockets."""
        with self._reports, self._plans:
            due_s = time.monotonic()
            while not stop.is_set():
                wait_ms = max(0, min(POLL_MS, int((due_s - time.monotonic()) * 1000)))
                # All that waits is heard before the clock is: while the core plans, reports queue up, and their
                # senders must not be taken for dead.
                if self._reports.poll(wait_ms):
                    self._receive_all()
                while not self._injected.empty():
                    self._handle(self._injected.get())
                if time.monotonic() >= due_s:
                    self._handle(Tick())
                    due_s = time.monotonic() + tick_s
        if self._log is not None:
            self._log.close()

    def _receive_all(self) -> None:
        for _ in range(MAX_BATCH):
            try:
                self._take(self._reports.recv_multipart(zmq.DONTWAIT)[-1])
            except zmq.Again:
                return

    def _take(self, data: bytes) -> None:
        try:
            report = decode_report(data)
            self._plans.send_multipart([topic(VIEWERS), data])
            self._handle(ReportReceived(report))
        except VersionMismatch as error:
            logger.warning("%s", error)
            stranger = unreadable(data)
            if stranger is not None:
                self._handle(stranger)
        except WireError as error:
            logger.warning("report dropped: %s", error)

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
        data = encode(instruction.message)
        for recipient in instruction.to:
            self._plans.send_multipart([topic(recipient), data])


def _log_decision(decision: LogDecision) -> None:
    record = decision.record
    logger.info("%s %s%s: %s", record.kind, record.stream or record.node, _epoch(record.epoch), record.reason)


def _epoch(epoch: int | None) -> str:
    return "" if epoch is None else f"#{epoch}"
