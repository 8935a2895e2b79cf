"""The one place where sockets are made: every option is set here, before bind or connect."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field

import zmq

from nodes.gate import Door, Gate, Trouble
from nodes.keys import Keyring, Purpose
from pipeline.errors import KeysError, NodeError
from pipeline.frames.wire import MAX_HEADER_BYTES, MAX_TENSOR_BYTES

logger = logging.getLogger(__name__)

FRAMES_HWM = 4
"""Messages queued per peer on a data socket. The credit window is the real bound; this one only catches strays."""

TILES_HWM = 64
"""The same between an edge node and its tile workers: a frame's tiles, and what goes ahead of each, are sent in one go.
A worker that answers no more is given none after its first deadline."""

CONTROL_HWM = 1000
"""Messages queued per peer on a report or plan socket; the oldest state is re-published, so a drop costs a beat."""

REPORTS_HWM = 16
"""Reports queued per node at the scheduler: seconds of them. Strangers can connect there as often as they like."""

SUBSCRIPTION_BYTES = 1024
"""Bound on what may come in where plans go out: a subscription is one node's name."""

CONTROL_MESSAGE_BYTES = 1 << 20
"""Bound on one report, announcement or state."""

VANISHED_S = 5
"""A peer whose machine does not answer for so long is gone; TCP by itself takes minutes to say so. The kernel asks, and
not ZMTP's heartbeat: libzmq 4.3.5 aborts the process where one is due, or comes in, on a connection that broke while
its inbox was full (libzmq issues 3937, 4364, 4841)."""

RETRY_S = 2.0
"""A peer that refused this node's key is tried again, with a new socket, after so long: libzmq gives up for good."""

COPIED_BYTES = 1 << 19
"""Buffers up to this size are copied when they are sent. Of those that are not, a Python thread of pyzmq's is woken to
let go of each, which takes as long, and the interpreter from whoever computes."""

LOOPBACK = ("tcp://127.", "tcp://localhost:", "tcp://[::1]:", "inproc://", "ipc://")
"""Addresses that a node without keys may bind."""


@dataclass
class SocketFactory:
    """Makes the sockets of one node. With keys, all of them are encrypted, and bound ones admit by role."""

    context: zmq.Context[zmq.Socket[bytes]]
    insecure: bool = False
    """Whether addresses beyond loopback may be bound without keys."""
    keyring: Keyring | None = None
    watched: bool = True
    """Whether failed handshakes are looked for; a monitor costs two of the context's 1,023 sockets."""
    _gate: Gate = field(init=False)

    def __post_init__(self) -> None:
        self._gate = Gate(self.context, self.keyring)
        if self.insecure and self.keyring is None:
            logger.warning(
                "INSECURE: no keys, and not kept to loopback: nothing is encrypted, and anybody who reaches this "
                "node may send to it and read from it; make keys with `anabranch keys new`"
            )

    def pull(self, endpoint: str, purpose: Purpose = Purpose.FRAMES) -> tuple[zmq.Socket[bytes], str]:
        """A bound inbox for frames, tiles or results; returns it and the endpoint with the real port."""
        socket = self._socket(zmq.PULL, FRAMES_HWM, MAX_TENSOR_BYTES)
        return socket, self._bind(socket, endpoint, purpose)

    def push(
        self, endpoint: str, node: str = "", send_timeout_ms: int = 2000, queue: int = FRAMES_HWM
    ) -> zmq.Socket[bytes]:
        """An outbox to one node. Sends only where a connection is (IMMEDIATE), and gives up after the time-out."""
        socket = self._socket(zmq.PUSH, queue, MAX_HEADER_BYTES)
        socket.setsockopt(zmq.IMMEDIATE, 1)
        socket.setsockopt(zmq.SNDTIMEO, send_timeout_ms)
        socket.copy_threshold = COPIED_BYTES
        return self._connect(socket, endpoint, node)

    def publisher(self, endpoint: str, *, bind: bool) -> tuple[zmq.Socket[bytes], str]:
        """A PUB socket for reports (connects), or an XPUB one for plans (binds), which tells who subscribes."""
        socket = self._socket(zmq.XPUB if bind else zmq.PUB, CONTROL_HWM, CONTROL_MESSAGE_BYTES)
        if bind:
            socket.setsockopt(zmq.MAXMSGSIZE, SUBSCRIPTION_BYTES)
            return socket, self._bind(socket, endpoint, Purpose.PLANS)
        return self._connect(socket, endpoint), endpoint

    def subscriber(
        self, endpoint: str, *, bind: bool, topics: tuple[bytes, ...] = (b"",)
    ) -> tuple[zmq.Socket[bytes], str]:
        """A SUB socket for reports (binds) or plans (connects to the scheduler)."""
        socket = self._socket(zmq.SUB, CONTROL_HWM, CONTROL_MESSAGE_BYTES)
        for topic in topics:
            socket.setsockopt(zmq.SUBSCRIBE, topic)
        if bind:
            socket.setsockopt(zmq.RCVHWM, REPORTS_HWM)
            return socket, self._bind(socket, endpoint, Purpose.REPORTS)
        return self._connect(socket, endpoint), endpoint

    def trouble(self, endpoint: str) -> Trouble | None:
        """Why no connection to that endpoint comes about, where a handshake failed."""
        return self._gate.trouble(endpoint)

    def is_open(self, endpoint: str) -> bool:
        """Whether the handshake with an endpoint that was connected to has succeeded."""
        return self._gate.is_open(endpoint)

    def tried(self, endpoint: str) -> None:
        """A socket to an endpoint with trouble was made anew: wait before the next."""
        self._gate.tried(endpoint)

    def _socket(self, kind: int, high_water_mark: int, max_message_bytes: int) -> zmq.Socket[bytes]:
        socket = self.context.socket(kind)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.SNDHWM, high_water_mark)
        socket.setsockopt(zmq.RCVHWM, high_water_mark)
        socket.setsockopt(zmq.MAXMSGSIZE, max_message_bytes)
        socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
        socket.setsockopt(zmq.TCP_KEEPALIVE_IDLE, VANISHED_S - 2)
        socket.setsockopt(zmq.TCP_KEEPALIVE_INTVL, 1)
        socket.setsockopt(zmq.TCP_KEEPALIVE_CNT, 2)
        socket.setsockopt(zmq.TCP_MAXRT, 1000 * VANISHED_S)
        socket.setsockopt(zmq.RECONNECT_IVL, 50)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, 2000)
        if self.keyring is not None:
            socket.setsockopt(zmq.CURVE_SECRETKEY, self.keyring.secret)
            socket.setsockopt(zmq.CURVE_PUBLICKEY, self.keyring.public)
        return socket

    def _bind(self, socket: zmq.Socket[bytes], endpoint: str, purpose: Purpose) -> str:
        if self.keyring is None and not self.insecure and not endpoint.startswith(LOOPBACK):
            socket.close()
            raise NodeError(
                f"address {endpoint}",
                "open to other machines, and there are no keys",
                "make keys with `anabranch keys new` and pass --keys, bind tcp://127.0.0.1, or pass --insecure",
            )
        # Without keys nobody answers for this domain, and all are let in; but where one is set, libzmq turns those away
        # that speak ZMTP 1 or 2, among them whatever is not ZeroMQ at all: they bring no metadata to know them by.
        socket.setsockopt(zmq.ZAP_DOMAIN, purpose.encode())
        if self.keyring is not None:
            socket.setsockopt(zmq.CURVE_SERVER, 1)
            socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)  # without it a gate that is gone would let everybody in
        with _closing_on_error(socket, endpoint):
            door = Door(endpoint, purpose)
            self._watch(socket, door)
            socket.bind(endpoint)
            door.endpoint = socket.getsockopt_string(zmq.LAST_ENDPOINT)
        return door.endpoint

    def _connect(self, socket: zmq.Socket[bytes], endpoint: str, node: str = "") -> zmq.Socket[bytes]:
        """Connect to a node; with keys, to the scheduler where none is named."""
        with _closing_on_error(socket, endpoint):
            if self.keyring is not None:
                node = node or self.keyring.scheduler
                socket.setsockopt(zmq.CURVE_SERVERKEY, self.keyring.server_key(node))
            self._watch(socket, Door(endpoint, node=node))
            socket.connect(endpoint)
        return socket

    def _watch(self, socket: zmq.Socket[bytes], door: Door) -> None:
        if self.watched:
            self._gate.watch(socket, door)


@contextlib.contextmanager
def _closing_on_error(socket: zmq.Socket[bytes], endpoint: str) -> Iterator[None]:
    try:
        yield
    except zmq.ZMQError as error:
        socket.close()
        mend = "choose another port, or `*` for a free one" if error.errno == zmq.EADDRINUSE else "use tcp://HOST:PORT"
        raise NodeError(f"address {endpoint}", str(error).lower(), mend) from error
    except KeysError:
        socket.close()
        raise
