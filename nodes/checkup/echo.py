"""Asks a node's inbox for echoes, with the pings, pongs and probes that nodes use among themselves."""

from __future__ import annotations

import secrets
import socket as sockets
import threading
import time
from dataclasses import dataclass
from types import TracebackType

import zmq

from nodes.inbox import decode
from nodes.keys import ADMITS, Keyring, Purpose
from nodes.sockets import SocketFactory
from pipeline.errors import NodeError, WireError
from pipeline.frames import wire
from pipeline.frames.wire import MAX_PROBE_BYTES, Message, Ping, Pong, Probe
from scheduler.timing import RoundTrip

ECHOES = 5
"""Round trips of which the shortest tells the clocks' offset best."""

RETRY_S = 0.1
"""The first answers are lost until the node's connection back to here stands."""

ENOUGH_S = 0.1
"""A probe that takes this long tells the link's rate; shorter ones are followed by four times as much."""

FIRST_PROBE_BYTES = 1 << 16
MAX_PROBED_BYTES = 1 << 24
NS = 1e-9


@dataclass(frozen=True)
class Echo:
    """One pong, by both clocks."""

    trip: RoundTrip
    wall_offset_s: float
    """The peer's wall clock minus this machine's, right to within half of the round trip."""


class Prober:
    """Speaks as one node, from a socket of its own. Use it as a context manager.

    Args:
        name: the node.
        keyring: its keys, where there are any.
        beyond: whether answers may come from other machines.
        limit_s: how long anything may take.
    """

    def __init__(self, name: str, keyring: Keyring | None, beyond: bool, limit_s: float) -> None:
        self.name = name
        self.limit_s = limit_s
        self._keyring = keyring
        self.factory = SocketFactory(zmq.Context(), keyring is None and beyond, keyring)
        address = "tcp://*:*" if beyond else "tcp://127.0.0.1:*"
        self._inbox, endpoint = self.factory.pull(address, Purpose.ECHOES)
        self._port = int(endpoint.rpartition(":")[2])

    def __enter__(self) -> Prober:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._inbox.close()
        self.factory.context.term()

    @property
    def scheduler(self) -> str:
        """Name of the scheduler's key; empty without keys."""
        return self._keyring.scheduler if self._keyring is not None else ""

    def may_enter(self, purpose: Purpose, node: str) -> bool:
        """Whether the node's role opens sockets of that purpose, or they are its own."""
        ring = self._keyring
        return ring is None or ring.role in ADMITS[purpose] or node == ring.name

    def connect(self, node: str, endpoint: str) -> zmq.Socket[bytes]:
        """A connection to a node's inbox whose handshake is done.

        Raises:
            NodeError: nothing listens there, or the handshake fails; the text says which.
            KeysError: the node is not named in `allowed.toml`.
        """
        socket = self.factory.push(endpoint, node, int(self.limit_s * 1000))
        try:
            wait_open(self.factory, endpoint, self.limit_s)
        except NodeError:
            socket.close()
            raise
        return socket

    def echoes(self, socket: zmq.Socket[bytes], count: int = ECHOES) -> list[Echo]:
        """Round trips, until there are so many or the time is over."""
        found: list[Echo] = []
        deadline_s = time.monotonic() + self.limit_s
        while len(found) < count and (left_s := deadline_s - time.monotonic()) > 0:
            sent_ns = self._ping(socket)
            echo = self._pong(sent_ns, min(left_s, self.limit_s if found else RETRY_S))
            if echo is not None:
                found.append(echo)
        return found

    def goodput_bps(self, socket: zmq.Socket[bytes]) -> float | None:
        """Rate at which bytes reach the node, between two pings and by its own clock; None where echoes are lost."""
        nbytes = FIRST_PROBE_BYTES
        while True:
            first = self._ping(socket)
            payload = secrets.token_bytes(min(nbytes, MAX_PROBE_BYTES))  # nothing that a tunnel could compress
            for _ in range(-(-nbytes // MAX_PROBE_BYTES)):
                socket.send_multipart(wire.encode(Message(Probe(self.name), [payload])))
            last = self._ping(socket)
            begin, end = self._pong(first, self.limit_s), self._pong(last, self.limit_s)
            if begin is None or end is None:
                return None
            spent_s = end.trip.received_s - begin.trip.received_s
            if spent_s >= ENOUGH_S or nbytes >= MAX_PROBED_BYTES:
                return 8.0 * nbytes / max(spent_s, 1e-6)
            nbytes *= 4

    def _ping(self, socket: zmq.Socket[bytes]) -> int:
        sent_ns = time.monotonic_ns()
        socket.send_multipart(wire.encode(Message(Ping(self.name, sent_ns, self._port))))
        return sent_ns

    def _pong(self, sent_ns: int, limit_s: float) -> Echo | None:
        deadline_s = time.monotonic() + limit_s
        while self._inbox.poll(max(0, int((deadline_s - time.monotonic()) * 1000))):
            parts = self._inbox.recv_multipart(copy=False)
            returned_s, wall_s = time.monotonic(), time.time()
            try:
                header = decode(parts).header
            except WireError:
                continue
            if isinstance(header, Pong) and header.sent_ns == sent_ns:
                trip = RoundTrip(sent_ns * NS, header.received_ns * NS, header.answered_ns * NS, returned_s)
                return Echo(trip, header.wall_ns * NS - (wall_s - trip.rtt_s / 2))
        return None


def check_tcp(endpoint: str, limit_s: float) -> None:
    """Whether anything listens at `tcp://HOST:PORT`.

    Raises:
        NodeError: it does not, and why.
    """
    host, _, port = endpoint.partition("://")[2].rpartition(":")
    try:
        sockets.create_connection((host.strip("[]"), int(port)), limit_s).close()
    except ConnectionRefusedError as error:
        raise NodeError(
            f"address {endpoint}", "nothing listens there", "start the node, or mend its address"
        ) from error
    except TimeoutError as error:
        mend = "check the address, and that no firewall drops the port"
        raise NodeError(f"address {endpoint}", f"no answer in {limit_s:.0f} s", mend) from error
    except (OSError, ValueError) as error:
        raise NodeError(f"address {endpoint}", str(error).lower(), "use tcp://HOST:PORT") from error


def wait_open(factory: SocketFactory, endpoint: str, limit_s: float) -> None:
    """Return once the handshake with an endpoint that was connected to is done.

    Raises:
        NodeError: it fails, or there is none in time; the text says why.
    """
    deadline_s, pause = time.monotonic() + limit_s, threading.Event()
    while not factory.is_open(endpoint):
        if (trouble := factory.trouble(endpoint)) is not None:
            raise NodeError(f"address {endpoint}", trouble.text)
        if time.monotonic() >= deadline_s:
            check_tcp(endpoint, limit_s)
            raise NodeError(f"address {endpoint}", f"it listens, and there is no handshake in {limit_s:.0f} s")
        pause.wait(0.02)
