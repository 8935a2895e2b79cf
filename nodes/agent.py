"""The control side of a node: it reports to the scheduler, and hears the scheduler's announcements.

One thread, two sockets, no shared data socket. No node waits for it: where the scheduler is silent, the last plan
goes on.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import zmq

from nodes.sockets import RETRY_S, SocketFactory
from pipeline.errors import WireError
from pipeline.plan import Tier
from scheduler.commands import Announcement, Command, Refusal
from scheduler.events import decode_command, encode, topic
from scheduler.reports import Endpoints, Report

logger = logging.getLogger(__name__)

REPORT_INTERVAL_S = 1.0
"""The heartbeat; three missed in a row are a death."""

URGENT_CHECK_MS = 20
"""How soon a jump (an epoch ready, a link that steps) is reported."""


@dataclass(frozen=True)
class SchedulerAddress:
    """Where the scheduler listens."""

    reports: str
    plans: str


@dataclass(frozen=True)
class Identity:
    """Who a node is."""

    name: str
    tier: Tier | None
    model: str
    endpoints: Endpoints
    incarnation: str = field(default_factory=lambda: secrets.token_hex(8))


Enrich = Callable[[Report], Report]
"""Adds what the node knows (stages, links, epochs, streams, load) to a bare report."""


class Agent:
    """Reports and listens, until it is stopped.

    Args:
        identity: who reports.
        enrich: completes each report.
        hear: takes what the scheduler says.
        interval_s: the heartbeat.
        jumped: asked every `URGENT_CHECK_MS` whether there is something that the scheduler should hear of at once.
    """

    def __init__(
        self,
        identity: Identity,
        enrich: Enrich,
        hear: Callable[[Command], None],
        interval_s: float = REPORT_INTERVAL_S,
        jumped: Callable[[], bool] = lambda: False,
    ) -> None:
        self.identity = identity
        self.interval_s = interval_s
        self.refusal = ""
        self.heard_at_s: float | None = None
        """When the last command came in, monotonic; None while none has."""
        self._enrich = enrich
        self._hear = hear
        self._jumped = jumped
        self._sequence = 0
        self._newest = ("", -1)
        """Incarnation of the scheduler that spoke last, and the sequence of its newest command."""
        self._announced = ("", -1)
        """The same for its newest announcement: what this node's epochs are to be understood by."""
        self._urgent = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, factory: SocketFactory, scheduler: SchedulerAddress) -> None:
        """Start the thread; its sockets are made and closed in it."""
        run = lambda: self._run(factory, scheduler)  # noqa: E731
        self._thread = threading.Thread(target=run, name=f"{self.identity.name} control", daemon=True)
        self._thread.start()

    def hurry(self) -> None:
        """Report at once: something jumped."""
        self._urgent.set()

    def stop(self) -> None:
        """Send a last report that says so, and stop."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(timeout=10)

    def _run(self, factory: SocketFactory, scheduler: SchedulerAddress) -> None:
        while not self._stopping.is_set():
            self._serve(factory, scheduler)

    def _serve(self, factory: SocketFactory, scheduler: SchedulerAddress) -> None:
        """Report and listen until this node stops, or its key is refused: then new sockets have to try again."""
        topics = (topic(self.identity.name),)
        plans, _ = factory.subscriber(scheduler.plans, bind=False, topics=topics)
        reports, _ = factory.publisher(scheduler.reports, bind=False)
        reports.setsockopt(zmq.LINGER, 200)  # the farewell may still be on its way as the socket closes
        with plans, reports:
            due_s = 0.0
            while not self._stopping.is_set() and (refused := _refused_long_ago(factory, scheduler)) is None:
                if time.monotonic() >= due_s or self._urgent.is_set() or self._jumped():
                    self._urgent.clear()
                    self._report(reports)
                    due_s = time.monotonic() + self.interval_s
                if plans.poll(URGENT_CHECK_MS):
                    self._listen(plans)
            if self._stopping.is_set():
                self._report(reports, leaving=True)
            elif refused is not None:
                factory.tried(refused)

    def _report(self, reports: zmq.Socket[bytes], leaving: bool = False) -> None:
        identity = self.identity
        self._sequence += 1
        bare = Report(
            identity.name,
            identity.tier,
            identity.incarnation,
            self._sequence,
            time.monotonic(),
            model=identity.model,
            interval_s=self.interval_s,
            endpoints=identity.endpoints,
            scheduler=self._announced[0],
            heard=self._announced[1],
            leaving=leaving,
        )
        reports.send_multipart([topic(identity.name), encode(self._enrich(bare))])

    def _listen(self, plans: zmq.Socket[bytes]) -> None:
        parts = plans.recv_multipart()
        try:
            command = decode_command(parts[-1])
        except WireError as error:
            logger.warning("%s: %s", self.identity.name, error)
            return
        if not self._is_news(command):
            return
        self.heard_at_s = time.monotonic()
        if isinstance(command, Refusal):
            self._refused(command)
        else:
            self._hear(command)
            if isinstance(command, Announcement):
                self.refusal = ""
                self._announced = (command.scheduler, command.sequence)

    def _is_news(self, command: Command) -> bool:
        scheduler, sequence = self._newest
        if command.scheduler == scheduler and command.sequence <= sequence:
            return False
        self._newest = (command.scheduler, command.sequence)
        return True

    def _refused(self, command: Refusal) -> None:
        if command.incarnation == self.identity.incarnation and command.reason != self.refusal:
            self.refusal = command.reason
            logger.error("%s is refused: %s", self.identity.name, command.reason)


def _refused_long_ago(factory: SocketFactory, scheduler: SchedulerAddress) -> str | None:
    """The address whose handshake failed long enough ago to be tried again; None where there is none."""
    for endpoint in (scheduler.plans, scheduler.reports):
        trouble = factory.trouble(endpoint)
        if trouble is not None and time.monotonic() - trouble.at_s > RETRY_S:
            return endpoint
    return None
