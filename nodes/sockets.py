"""The one place where sockets are made: every option is set here, before bind or connect."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import zmq

from pipeline.errors import NodeError
from pipeline.frames.wire import MAX_HEADER_BYTES, MAX_TENSOR_BYTES

FRAMES_HWM = 4
"""Messages queued per peer on a data socket. The credit window is the real bound; this one only catches strays."""

CONTROL_HWM = 1000
"""Messages queued per peer on a report or plan socket; the oldest state is re-published, so a drop costs a beat."""

REPORTS_HWM = 16
"""Reports queued per node at the scheduler: seconds of them. Strangers can connect there as often as they like."""

SUBSCRIPTION_BYTES = 1024
"""Bound on what may come in where plans go out: a subscription is one node's name."""

CONTROL_MESSAGE_BYTES = 1 << 20
"""Bound on one report, announcement or state."""

HEARTBEAT_MS = 1000
"""ZMTP heartbeat on every connection, so that a peer whose machine vanished is noticed (TCP alone takes minutes)."""

LOOPBACK = ("tcp://127.", "tcp://localhost", "tcp://[::1]", "inproc://", "ipc://")
"""Addresses that a node without keys may bind."""


@dataclass(frozen=True)
class SocketFactory:
    """Makes the sockets of one node."""

    context: zmq.Context[zmq.Socket[bytes]]
    insecure: bool = False
    """Whether addresses beyond loopback may be bound without keys."""

    def pull(self, endpoint: str) -> tuple[zmq.Socket[bytes], str]:
        """A bound inbox for frames, tiles or results; returns it and the endpoint with the real port."""
        socket = self._socket(zmq.PULL, FRAMES_HWM, MAX_TENSOR_BYTES)
        return socket, self._bind(socket, endpoint)

    def push(self, endpoint: str, send_timeout_ms: int = 2000) -> zmq.Socket[bytes]:
        """An outbox to one peer. Sends only where a connection is (IMMEDIATE), and gives up after the time-out."""
        socket = self._socket(zmq.PUSH, FRAMES_HWM, MAX_HEADER_BYTES)
        socket.setsockopt(zmq.IMMEDIATE, 1)
        socket.setsockopt(zmq.SNDTIMEO, send_timeout_ms)
        return self._connect(socket, endpoint)

    def publisher(self, endpoint: str, *, bind: bool) -> tuple[zmq.Socket[bytes], str]:
        """A PUB socket for reports (connects), or an XPUB one for plans (binds), which tells who subscribes."""
        socket = self._socket(zmq.XPUB if bind else zmq.PUB, CONTROL_HWM, CONTROL_MESSAGE_BYTES)
        if bind:
            socket.setsockopt(zmq.MAXMSGSIZE, SUBSCRIPTION_BYTES)
            return socket, self._bind(socket, endpoint)
        return self._connect(socket, endpoint), endpoint

    def subscriber(
        self, endpoint: str, *, bind: bool, topics: tuple[bytes, ...] = (b"",)
    ) -> tuple[zmq.Socket[bytes], str]:
        """A SUB socket for reports (binds) or plans (connects)."""
        socket = self._socket(zmq.SUB, CONTROL_HWM, CONTROL_MESSAGE_BYTES)
        for topic in topics:
            socket.setsockopt(zmq.SUBSCRIBE, topic)
        if bind:
            socket.setsockopt(zmq.RCVHWM, REPORTS_HWM)
            return socket, self._bind(socket, endpoint)
        return self._connect(socket, endpoint), endpoint

    def _socket(self, kind: int, high_water_mark: int, max_message_bytes: int) -> zmq.Socket[bytes]:
        socket = self.context.socket(kind)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.SNDHWM, high_water_mark)
        socket.setsockopt(zmq.RCVHWM, high_water_mark)
        socket.setsockopt(zmq.MAXMSGSIZE, max_message_bytes)
        socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 5 * HEARTBEAT_MS)
        socket.setsockopt(zmq.RECONNECT_IVL, 50)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, 2000)
        return socket

    def _bind(self, socket: zmq.Socket[bytes], endpoint: str) -> str:
        if not self.insecure and not endpoint.startswith(LOOPBACK):
            socket.close()
            raise NodeError(
                f"address {endpoint}",
                "open to other machines, and there are no keys",
                "bind tcp://127.0.0.1, or pass --insecure",
            )
        # Without keys nobody answers for this domain, and all are let in; but where one is set, libzmq turns those away
        # that speak ZMTP 1 or 2, among them whatever is not ZeroMQ at all: they bring no metadata to know them by.
        socket.setsockopt(zmq.ZAP_DOMAIN, b"anabranch")
        with _closing_on_error(socket, endpoint):
            socket.bind(endpoint)
        return socket.getsockopt_string(zmq.LAST_ENDPOINT)

    def _connect(self, socket: zmq.Socket[bytes], endpoint: str) -> zmq.Socket[bytes]:
        with _closing_on_error(socket, endpoint):
            socket.connect(endpoint)
        return socket


@contextlib.contextmanager
def _closing_on_error(socket: zmq.Socket[bytes], endpoint: str) -> Iterator[None]:
    try:
        yield
    except zmq.ZMQError as error:
        socket.close()
        mend = "choose another port, or `*` for a free one" if error.errno == zmq.EADDRINUSE else "use tcp://HOST:PORT"
        raise NodeError(f"address {endpoint}", str(error).lower(), mend) from error
