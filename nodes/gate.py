"""Who may connect, and why somebody could not: one thread that answers ZAP requests and reads the sockets' monitors.

A handshake that fails is told to both operators: to the one who was turned away, as the reason for which his frames
do not leave; to the one who turned away, as the name or the key of who came. Once per peer, not once per retry.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket as sockets
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass

import zmq
from zmq.utils.monitor import parse_monitor_message
from zmq.utils.z85 import encode as z85

from nodes.keys import Keyring, Peer, Purpose
from nodes.quiet import LINES, WINDOW_S
from scheduler.patience import shut
from scheduler.unread import connections

logger = logging.getLogger(__name__)

ZAP_ENDPOINT = "inproc://zeromq.zap.01"
"""Where libzmq asks whether a key is allowed (ZeroMQ RFC 27)."""

POLL_MS = 250
"""How soon a new socket's monitor is read; its events wait until then."""

MAX_REMEMBERED = 256
"""Peers and addresses of which is remembered what was logged; the one seen longest ago is forgotten first."""

INCOMPLETE = 3
"""Handshakes in a row that the other side breaks off before it is taken for a refusal: one is a restart."""

EVENTS = (
    zmq.EVENT_ACCEPTED
    | zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_MONITOR_STOPPED
)


class Once:
    """Says of what is logged whether it is new. Bounded in memory and in lines a minute.

    Strangers may make up keys and addresses without end. The log writes so many lines from one place and drops the
    others (`nodes.quiet`); what is put off here instead does not count as told, and comes at the peer's next try.
    """

    def __init__(self) -> None:
        self._seen: OrderedDict[Hashable, None] = OrderedDict()
        self._lines: deque[float] = deque(maxlen=LINES)

    def is_new(self, what: Hashable, now: float) -> bool:
        """Whether `what` was not logged yet and may be."""
        if what in self._seen:
            self._seen.move_to_end(what)
            return False
        if len(self._lines) == LINES and now - self._lines[0] < WINDOW_S:
            return False
        self._lines.append(now)
        self._seen[what] = None
        while len(self._seen) > MAX_REMEMBERED:
            self._seen.popitem(last=False)
        return True

    def forget(self, what: Hashable) -> None:
        """Log it again the next time."""
        self._seen.pop(what, None)


@dataclass
class Door:
    """A socket that is watched."""

    endpoint: str
    purpose: Purpose | None = None
    """Of a bound socket."""
    node: str = ""
    """Whom a connected socket leads to."""
    last_peer: str = "an unknown address"
    """Where the latest connection came from: handshake events do not say whose they are."""
    incomplete: int = 0

    @property
    def label(self) -> str:
        """For people."""
        whom = f"node {self.node}" if self.node else "the peer"
        return f"{self.purpose} socket {self.endpoint}" if self.purpose else f"{whom} at {self.endpoint}"


@dataclass(frozen=True)
class Trouble:
    """Why a connection does not come about."""

    text: str
    at_s: float
    """Monotonic, of the latest try."""


class Gate:
    """The doorkeeper of one node's sockets; its thread ends with the context.

    Args:
        context: of all sockets.
        keyring: whom to let in; None where the node has no keys, and only says what fails.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], keyring: Keyring | None) -> None:
        self._context = context
        self._keyring = keyring
        self._allowed: Mapping[str, Peer] = {} if keyring is None else keyring.peers
        self._doors: dict[zmq.Socket[bytes], Door] = {}
        self._troubles: OrderedDict[str, Trouble] = OrderedDict()
        self._open: OrderedDict[str, None] = OrderedDict()
        self._once = Once()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def watch(self, socket: zmq.Socket[bytes], door: Door) -> None:
        """Read this socket's events from now on; call it before the socket binds or connects."""
        endpoint = f"inproc://monitor-{id(self)}-{id(socket)}-{time.monotonic_ns()}"
        socket.monitor(endpoint, EVENTS)
        monitor = self._context.socket(zmq.PAIR)
        monitor.setsockopt(zmq.LINGER, 0)
        monitor.connect(endpoint)
        with self._lock:
            self._doors[monitor] = door
            if self._thread is None:
                self._start()

    def trouble(self, endpoint: str) -> Trouble | None:
        """Why the handshake with that endpoint fails; None where it does not, or where there was none yet."""
        with self._lock:
            return self._troubles.get(endpoint)

    def is_open(self, endpoint: str) -> bool:
        """Whether the latest handshake with that endpoint succeeded."""
        with self._lock:
            return endpoint in self._open

    def tried(self, endpoint: str) -> None:
        """Note that the connection is tried again now."""
        with self._lock:
            if (old := self._troubles.get(endpoint)) is not None:
                self._troubles[endpoint] = Trouble(old.text, time.monotonic())

    def _start(self) -> None:
        zap = self._context.socket(zmq.REP)
        zap.setsockopt(zmq.LINGER, 0)  # not bound without keys: then it only tells the thread that the context ends
        if self._keyring is not None:
            zap.bind(ZAP_ENDPOINT)
        self._thread = threading.Thread(target=self._run, args=(zap,), name="gate", daemon=True)
        self._thread.start()

    def _run(self, zap: zmq.Socket[bytes]) -> None:
        try:
            while True:
                with self._lock:
                    doors = dict(self._doors)
                poller = zmq.Poller()
                for socket in (*doors, zap):
                    poller.register(socket, zmq.POLLIN)
                for socket, _ in poller.poll(POLL_MS):
                    if socket is zap:
                        self._answer(socket)
                    else:
                        self._read(socket, doors[socket])
                if self._keyring is not None:
                    self._review(self._keyring.peers, doors.values())
        except zmq.ContextTerminated:
            pass  # the node stops: all its sockets are closed by now
        finally:
            with self._lock:
                for socket in (*self._doors, zap):
                    socket.close()

    # --- who comes in

    def _answer(self, zap: zmq.Socket[bytes]) -> None:
        request = zap.recv_multipart()
        reply = [b"1.0", request[1] if len(request) > 1 else b"", b"400", b"not allowed", b"", b""]
        is_whole = len(request) == 7 and request[0] == b"1.0" and request[5] == b"CURVE" and len(request[6]) == 32
        if is_whole and self._keyring is not None:
            found = self._admit(
                self._keyring, request[2].decode(), request[3].decode(errors="replace"), z85(request[6])
            )
            if found is not None:
                name, role = found
                reply[2:] = [b"200", b"", name.encode(), _metadata({"Role": role})]
        zap.send_multipart(reply)

    def _admit(self, keyring: Keyring, domain: str, address: str, key: bytes) -> tuple[str, str] | None:
        purpose, who = Purpose(domain), keyring.who(key)
        if who is None:
            mend = f"if it belongs here: anabranch keys allow NAME '{key.decode()}' --role ROLE"
            self._tell((address, key), "%s: key %s from %s is not allowed; %s", purpose, key.decode(), address, mend)
            return None
        if not keyring.admits(purpose, *who):
            told = (address, key, purpose)
            self._tell(told, "%s: node %s from %s is refused: its role is %s", purpose, who[0], address, who[1])
            return None
        return who

    def _review(self, allowed: Mapping[str, Peer], doors: Iterable[Door]) -> None:
        """Where somebody is not allowed any more, break all connections to this node: who still is comes back.

        ZeroMQ does not tell which connection a key came by, and once let in, nobody is asked again.
        """
        gone = [name for name, peer in self._allowed.items() if allowed.get(name) != peer]
        self._allowed = allowed
        if not gone:
            return
        logger.warning("no longer allowed: %s; everybody who is connected has to show his key again", ", ".join(gone))
        for door in doors:
            port = door.endpoint.rpartition(":")[2]
            for source in connections(int(port)) if door.purpose and port.isdigit() else ():
                shut(source)

    # --- who does not

    def _read(self, monitor: zmq.Socket[bytes], door: Door) -> None:
        event = parse_monitor_message(monitor.recv_multipart())
        kind, value = event["event"], int(event["value"])
        if kind == zmq.EVENT_MONITOR_STOPPED:
            with self._lock:
                self._doors.pop(monitor, None)
            monitor.close()
        elif kind == zmq.EVENT_ACCEPTED:
            door.last_peer = _peer_address(value) or door.last_peer
        elif door.purpose is not None:
            self._turned_away(door, kind, value)
        elif kind == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self._got_in(door)
        else:
            self._kept_out(door, kind, value)

    def _turned_away(self, door: Door, kind: int, value: int) -> None:
        """A peer of a bound socket failed; a key that is refused was told as the request for it came."""
        if kind not in (zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL, zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL):
            return
        misfit = "it came without keys" if self._keyring else "it has keys and this node has none"
        if kind == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL:  # whichever side sees first that they differ breaks off
            why, value = f"it broke off the handshake: {misfit}, or it is no node", 0
        elif value == zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH:
            why = f"{misfit}; start both with --keys"
        elif value == zmq.PROTOCOL_ERROR_ZMTP_CRYPTOGRAPHIC:
            why = f"it expects another key of this node; give it the {self._own} of this node's allowed.toml"
        else:
            why = f"it does not speak this protocol (ZeroMQ error {value:#x})"
        host = door.last_peer.rpartition(":")[0]
        self._tell(
            (door.endpoint, host, value), "%s: a peer at %s was turned away: %s", door.label, door.last_peer, why
        )

    def _got_in(self, door: Door) -> None:
        door.incomplete = 0
        with self._lock:
            self._troubles.pop(door.endpoint, None)
            self._open[door.endpoint] = None
            while len(self._open) > MAX_REMEMBERED:
                self._open.popitem(last=False)
        self._once.forget(door.endpoint)

    def _kept_out(self, door: Door, kind: int, value: int) -> None:
        keyring = self._keyring
        if kind == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL:
            door.incomplete += 1
            if door.incomplete < INCOMPLETE:
                return
            misfit = "it has keys and this node has none"
            if keyring is not None:
                misfit = "its key is not the one in allowed.toml, or it runs without keys"
            why = f"it breaks off the handshake: {misfit}, or only a relay is there"
        elif kind == zmq.EVENT_HANDSHAKE_FAILED_AUTH and keyring is not None:
            mend = f"anabranch keys allow {keyring.name} '{keyring.public.decode()}' --role {keyring.role}"
            why = f"it refuses this node's key or role; if it should not, there: {mend}"
        elif value == zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH:
            why = "it has keys and this node has none" if keyring is None else "it runs without keys"
            why += "; start both with --keys"
        else:
            why = f"the handshake fails (ZeroMQ error {value:#x})"
        self._note(door, f"{door.label}: {why}")

    def _note(self, door: Door, text: str) -> None:
        with self._lock:
            self._open.pop(door.endpoint, None)
            self._troubles[door.endpoint] = Trouble(text, time.monotonic())
            self._troubles.move_to_end(door.endpoint)
            while len(self._troubles) > MAX_REMEMBERED:
                self._troubles.popitem(last=False)
        self._tell(door.endpoint, "%s", text)

    def _tell(self, what: Hashable, text: str, *words: object) -> None:
        if self._once.is_new(what, time.monotonic()):
            logger.warning(text, *words)

    @property
    def _own(self) -> str:
        return f"entry {self._keyring.name}" if self._keyring else "entry"


def _metadata(properties: Mapping[str, str]) -> bytes:
    """Properties as ZMTP encodes them (ZeroMQ RFC 23): lengths in one and in four bytes."""
    parts = []
    for name, value in properties.items():
        data = value.encode()
        parts += [bytes((len(name),)), name.encode(), len(data).to_bytes(4, "big"), data]
    return b"".join(parts)


def _peer_address(descriptor: int) -> str:
    """Who is behind an accepted connection; empty where it is gone already."""
    with contextlib.suppress(OSError, ValueError):
        with sockets.socket(fileno=os.dup(descriptor)) as connection:
            name = connection.getpeername()
            return f"{name[0]}:{name[1]}" if isinstance(name, tuple) else ""
    return ""
