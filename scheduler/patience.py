"""How long a peer is borne with that sends what is refused, and how it is cut off.

ZeroMQ's inboxes hide who sent what: they tell an address, which others may share (a router, this very machine), and
no connection can be closed through them. So a connection is known by its file descriptor and by the port at its other
end (the descriptor alone is soon another's), and is cut off by shutting its TCP stream down: libzmq then sees the peer
leave. The peer may come back as a new connection; where one was cut off, the next ones from there have less credit.
An honest neighbour at the same address sends nothing that is refused, and so never notices.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import zmq

logger = logging.getLogger(__name__)

BUDGET = 64
"""Refused messages that a connection may have on its account; a node that starts anew, or a plan that is given up, has
a window of frames refused (7), and a damaged link now and then one."""

PROBATION_BUDGET = 8
"""The same for an address that was cut off. More than the few messages (`FRAMES_HWM` and one) that may still be read
of a connection that is gone, so that who gets its descriptor next is not cut off for it."""

PROBATION_S = 60.0

FORGIVEN_PER_S = 1.0
"""A peer that does less harm than this is let be."""

MAX_RATE = 4000.0
"""Messages a second of one connection, over a few seconds: several times what a node with the smallest tiles sends."""

BURST = 8000

MAX_SOURCES = 1024
"""Connections and addresses that accounts are kept of; the one heard of longest ago is forgotten first."""


class Source(NamedTuple):
    """A connection of a bound socket."""

    descriptor: int
    address: str
    port: int

    @property
    def label(self) -> str:
        """For people."""
        return f"{self.address}:{self.port}"


@dataclass
class _Account:
    refused: float = 0.0
    messages: float = 0.0
    at_s: float = 0.0
    is_cut: bool = False

    def age(self, now: float) -> None:
        """Forgive what time forgives."""
        passed_s = max(0.0, now - self.at_s)
        self.refused = max(0.0, self.refused - FORGIVEN_PER_S * passed_s)
        self.messages = max(0.0, self.messages - MAX_RATE * passed_s)
        self.at_s = now


class Patience:
    """The accounts of one inbox. Pure but for its lock: time is an argument, and the caller does the cutting."""

    def __init__(self) -> None:
        self._accounts: OrderedDict[Source, _Account] = OrderedDict()
        self._probation: OrderedDict[str, float] = OrderedDict()
        """Until when, by address."""
        self._lock = threading.Lock()

    def heard(self, source: Source, now: float) -> bool:
        """Count a message; whether the connection is to be cut off, since it sends too many."""
        with self._lock:
            account = self._account(source, now)
            account.messages += 1
            return account.messages > BURST and self._cut(source, account, now)

    def refused(self, source: Source, now: float) -> bool:
        """Count a refused message; whether the connection is to be cut off."""
        with self._lock:
            account = self._account(source, now)
            account.refused += 1
            budget = PROBATION_BUDGET if self._is_watched(source, now) else BUDGET
            return account.refused > budget and self._cut(source, account, now)

    def is_watched(self, source: Source, now: float) -> bool:
        """Whether somebody was cut off lately who had the same address."""
        with self._lock:
            return self._is_watched(source, now)

    def _is_watched(self, source: Source, now: float) -> bool:
        return now < self._probation.get(source.address, float("-inf"))

    def is_cut(self, source: Source) -> bool:
        """Whether the connection was cut off: what may still be read of it is not to be looked at."""
        with self._lock:
            account = self._accounts.get(source)
            return account is not None and account.is_cut

    def _cut(self, source: Source, account: _Account, now: float) -> bool:
        is_new = not account.is_cut
        account.is_cut = True
        self._probation[source.address] = now + PROBATION_S
        self._probation.move_to_end(source.address)
        while len(self._probation) > MAX_SOURCES:
            self._probation.popitem(last=False)
        return is_new

    def _account(self, source: Source, now: float) -> _Account:
        account = self._accounts.setdefault(source, _Account(at_s=now))
        self._accounts.move_to_end(source)
        while len(self._accounts) > MAX_SOURCES:
            self._accounts.popitem(last=False)
        account.age(now)
        return account


class Doorkeeper:
    """Counts what the connections of an inbox send, and shuts those that go too far. Safe to share between threads."""

    def __init__(self) -> None:
        self.refused: Counter[str] = Counter()
        """Messages that were not taken, by reason: this node's own words, never a peer's."""
        self._patience = Patience()

    def bears(self, source: Source | None) -> bool:
        """Count a message that came in; whether it is to be looked at."""
        if source is None:
            return True
        if self._patience.heard(source, time.monotonic()):
            self._cut(source, "it sends more than any node has to say")
        return not self._patience.is_cut(source)

    def blame(self, source: Source | None, why: object) -> None:
        """Put a message that was not taken on its connection's account."""
        if source is not None and self._patience.refused(source, time.monotonic()):
            self._cut(source, f"too much of what it sends is refused, at last: {why}")

    def watches(self, source: Source | None) -> bool:
        """Whether somebody was cut off lately who had the same address."""
        return source is not None and self._patience.is_watched(source, time.monotonic())

    def turn_out(self, sources: Iterable[Source]) -> None:
        """Shut connections that never end what they say."""
        for source in sources:
            self._cut(source, "it sends without end, and no whole message")

    def _cut(self, source: Source, why: str) -> None:
        self.refused["cut off"] += 1
        shut(source)
        logger.warning("%s is cut off: %s", source.label, why)


def bound_port(socket: zmq.Socket[bytes]) -> int:
    """The TCP port that a socket is bound to; 0 where it is bound to none."""
    _, _, port = socket.getsockopt_string(zmq.LAST_ENDPOINT).rpartition(":")
    return int(port) if port.isdigit() else 0


class Sources:
    """The connections of an inbox. Each is asked once for its other end; that a descriptor still leads to the same one
    is told in a third of the time, which counts where a message comes in beside a thread that computes."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[tuple[int, int], Source]] = {}
        """By descriptor: device and inode of what it led to, and what that is. As many as there are descriptors."""

    def of(self, part: zmq.Frame) -> Source | None:
        """The connection that a received part came by; None where it is no TCP connection, or gone already."""
        try:
            descriptor = int(part.get(zmq.SRCFD))
            status = os.fstat(descriptor)
            identity = status.st_dev, status.st_ino
            known = self._known.get(descriptor)
            if known is None or known[0] != identity or not status.st_ino:  # not every system numbers its sockets
                self._known[descriptor] = known = identity, source_at(descriptor)
        except (zmq.ZMQError, OSError, ValueError):
            return None
        return known[1]


def shut(source: Source) -> bool:
    """Shut a connection down, if it is still the same one; whether it was."""
    with contextlib.suppress(OSError, ValueError), socket.socket(fileno=os.dup(source.descriptor)) as connection:
        if source_at(source.descriptor) == source:
            connection.shutdown(socket.SHUT_RDWR)
            return True
    return False


def source_at(descriptor: int, local_port: int | None = None) -> Source:
    """The connection behind a descriptor of this process.

    Raises:
        OSError: it is none.
        ValueError: it is no TCP connection, or leads to another port of this machine than `local_port`.
    """
    connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, fileno=descriptor)
    try:
        if local_port is not None and connection.getsockname()[1] != local_port:
            raise ValueError(f"descriptor {descriptor} is of another port")
        address = connection.getpeername()
    finally:
        connection.detach()
    if not isinstance(address, tuple):
        raise ValueError(f"descriptor {descriptor} has no address")
    return Source(descriptor, str(address[0]), int(address[1]))
