"""The receiving end of every data socket: messages are taken, checked and counted, and whoever goes too far is cut off.

It does nothing but receive: the times at which messages arrive are what a link's throughput is measured by.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import zmq

from nodes.handoff import Closed
from nodes.links import LinkMeter
from pipeline.errors import WireError
from pipeline.frames import wire
from pipeline.frames.wire import MAX_TENSOR_BYTES, FrameHeader, Header, Message, Ping
from scheduler.patience import Source, Sources, bound_port
from scheduler.service import sender_of
from scheduler.unread import Unread

logger = logging.getLogger(__name__)

POLL_MS = 100
"""How often a waiting receiver looks whether it shall stop."""


MAX_UNREAD_BYTES = 2 * MAX_TENSOR_BYTES
"""What one connection may have sent since its last whole message: one at its largest, and what comes behind it."""

MAX_UNREAD_IN_ALL = 4 * MAX_TENSOR_BYTES
"""The same for all connections of an inbox together: who has most goes first."""


@dataclass(frozen=True)
class Incoming:
    """A message that is well-formed; what it says is not checked yet."""

    message: Message
    received_s: float
    """Monotonic, of its last byte."""
    source: Source | None
    """The connection that it came by, to be blamed where the message turns out to be refused."""


def receive(
    socket: zmq.Socket[bytes], links: LinkMeter, take: Callable[[Incoming], None], stopping: threading.Event
) -> None:
    """Hand every good message to `take`, until `stopping` is set or `take` raises `Closed`; then close the socket."""
    with socket:
        socket.setsockopt(zmq.RCVTIMEO, POLL_MS)
        inbox = _Inbox(socket, links)
        unread = Unread(bound_port(socket), MAX_UNREAD_BYTES, MAX_UNREAD_IN_ALL)
        while not stopping.is_set():
            incoming = inbox.next()
            if incoming is not None:
                try:
                    take(incoming)
                except Closed:
                    return
                # Behind the message, for whoever waits for it: figures, and a look at all connections, take a while.
                links.saw(incoming.message, incoming.received_s)
            links.door.turn_out(unread.excessive(inbox.heard, time.monotonic()))


class _Inbox:
    """Takes and checks the messages of one socket."""

    def __init__(self, socket: zmq.Socket[bytes], links: LinkMeter) -> None:
        self.heard = set[Source]()
        """Who has sent a whole message since this was emptied."""
        self._socket, self._links = socket, links
        self._sources = Sources()
        self._has_gate = socket.getsockopt(zmq.MECHANISM) == zmq.CURVE

    def next(self) -> Incoming | None:
        """The next message; None where none comes within the socket's time-out, or what comes is refused."""
        try:
            parts = [self._socket.recv(copy=False)]
        except zmq.Again:
            return None
        while parts[-1].more:
            parts.append(self._socket.recv(copy=False))
        received_s, links = time.monotonic(), self._links
        source = self._sources.of(parts[0])
        if source is not None:
            self.heard.add(source)
        if not links.door.bears(source):
            return None
        try:
            message = decode(parts, self._has_gate)
        except WireError as error:
            links.refuse("bad-message")
            logger.warning("message from %s dropped: %s", "a peer" if source is None else source.label, error)
            links.door.blame(source, error)
            return None
        return Incoming(message, received_s, source)


def decode(parts: Sequence[zmq.Frame], has_gate: bool = True) -> Message:
    """Check and decode a multipart message, taken from its socket with `copy=False`.

    Args:
        parts: of the message.
        has_gate: whether its socket may know who sends. To ask one that does not for a name takes 20 µs behind a
            convolution, where caches are cold.

    Raises:
        WireError: not a valid message, or one that names another node than the one whose key it came with.
    """
    message = wire.decode([part.buffer for part in parts])
    sender = sender_of(parts[0]) if has_gate else None
    if sender is not None and sender.node != (said := said_sender(message.header)):
        raise WireError(f"message of node {sender.node}", f"says that it is from {said!r}", "a node speaks for itself")
    if isinstance(message.header, Ping) and message.header.port:
        return replace(message, reply_to=_back(parts[0], message.header.port))
    return message


def _back(part: zmq.Frame, port: int) -> str:
    """A port of the machine that a message came from: never of another one that the message might name."""
    host = str(part.get("Peer-Address"))
    return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"


def said_sender(header: Header) -> str:
    """The node that a message says it is from."""
    if isinstance(header, FrameHeader):
        return header.hops[-1].node if header.hops else ""
    return header.node
