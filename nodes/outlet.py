"""Where a node sends what it made: the next stage, or the device that waits for the result."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TypeVar

import zmq

from nodes.sockets import FRAMES_HWM, RETRY_S, SocketFactory
from pipeline.errors import KeysError, NodeError
from pipeline.frames import wire
from pipeline.frames.wire import DropNotice, Head, Message, Probe, Tile, TileDone
from pipeline.plan import Plan
from scheduler.estimate import MIN_MESSAGE_BYTES
from scheduler.reports import Endpoints

MAX_KNOWN = 8192
"""Nodes, and streams, whose addresses are remembered; the one announced longest ago is forgotten first."""

MAX_PEERS = 256
"""Connections that an outlet keeps; the one that was used longest ago is closed first."""

PROBE_AHEAD_S = 0.002
"""A probe's head goes out so long before it: sent together they share a packet, and a third of a probe of 4 KiB would
seem to take no time. Frames are larger, and are not held up for it."""

HEAD_PAUSE_S = 0.25
"""Of tiles and their outputs to one peer only one in so long has a head before it: they are many, a link is measured as
well by some of them, and a worker waits for what comes behind a head."""

_NOWHERE = Endpoints()

T = TypeVar("T")

GUEST_S = 10.0
"""A connection to somebody who asked for echoes is closed after so long without another."""


@dataclass
class _Guest:
    node: str
    endpoint: str
    socket: zmq.Socket[bytes]
    seen_s: float = 0.0


class Undeliverable(NodeError):
    """A message that its peer does not take."""


class Directory:
    """Who can be reached where. Written by the control thread, read by the sender."""

    def __init__(self, pinned: Mapping[str, Endpoints] | None = None) -> None:
        self._pinned = dict(pinned or {})
        self._peers: OrderedDict[str, Endpoints] = OrderedDict()
        self._origins: OrderedDict[str, str] = OrderedDict()
        self._lock = threading.Lock()

    def learn(self, stream: str, origin: str, peers: Mapping[str, Endpoints]) -> None:
        """Take the endpoints of an announcement; `origin` is the device that the stream starts at."""
        with self._lock:
            _remember(self._origins, {stream: origin})
            _remember(self._peers, peers)

    def learn_peer(self, node: str, endpoints: Endpoints) -> None:
        """Take those endpoints of one node that are given; a node that started anew has others than before."""
        with self._lock:
            _remember(self._peers, {node: _first(endpoints, self._peers.get(node, Endpoints()))})

    def inbox(self, node: str) -> str:
        """Any inbox of a node: a device has one for results alone, a tile worker one for tiles alone."""
        endpoints = self._endpoints(node)
        return endpoints.frames or endpoints.results or endpoints.tiles

    def frames(self, node: str) -> str:
        """The frames inbox of a node; empty where it is not known."""
        return self._endpoints(node).frames

    def tiles(self, node: str) -> str:
        """The tiles inbox of a node; empty where it is not known."""
        return self._endpoints(node).tiles

    def origin(self, stream: str) -> str:
        """The device that `stream` starts at; empty where it is not known."""
        with self._lock:
            return self._origins.get(stream, "")

    def results(self, stream: str) -> str:
        """The results inbox of the device that `stream` starts at; empty where it is not known."""
        return self._endpoints(self.origin(stream)).results

    def knows(self, node: str) -> bool:
        """Whether an announcement, the scheduler or this node's own settings have named that node."""
        with self._lock:
            return node in self._peers or node in self._pinned

    def is_current(self, node: str, endpoint: str) -> bool:
        """Whether a node is to be reached there, as far as is known; it has other addresses once it starts anew."""
        endpoints = self._endpoints(node)
        return endpoint in (endpoints.frames, endpoints.results, endpoints.tiles)

    def _endpoints(self, node: str) -> Endpoints:
        """Pinned addresses (a shaped link, a tunnel) go before announced ones, field by field."""
        with self._lock:
            pinned, announced = self._pinned.get(node), self._peers.get(node, _NOWHERE)
        return announced if pinned is None else _first(pinned, announced)


def _first(one: Endpoints, other: Endpoints) -> Endpoints:
    """Field by field, `one` where it has something."""
    return Endpoints(one.frames or other.frames, one.results or other.results, one.tiles or other.tiles)


def _remember(known: OrderedDict[str, T], news: Mapping[str, T]) -> None:
    """Enter what is new as the latest, and forget the oldest beyond `MAX_KNOWN`."""
    for name, value in news.items():
        known[name] = value
        known.move_to_end(name)
    while len(known) > MAX_KNOWN:
        known.popitem(last=False)


class Outlet:
    """The PUSH sockets of one thread. Use it as a context manager in that thread; others may `try_tile`."""

    def __init__(self, name: str, factory: SocketFactory, directory: Directory, queue: int = FRAMES_HWM) -> None:
        self._name = name
        self._factory = factory
        self.directory = directory
        self._queue = queue
        """Messages that may wait for each peer."""
        self._sockets: OrderedDict[tuple[str, str], zmq.Socket[bytes]] = OrderedDict()
        """By node and endpoint: another node at the same address has another key."""
        self._guest: _Guest | None = None
        """Whoever asked for an echo at a port of his own: one at a time, so that asking costs no peer his socket."""
        self._lock = threading.Lock()
        """Held while sockets are used: ZeroMQ's may pass from thread to thread, but not be used by two at once."""
        self._closed = False
        self._headed_s: dict[tuple[str, str], float] = {}
        """When a tile's head was last sent, by node and endpoint; of those that are in `_sockets`."""
        self._stuck: set[str] = set()
        """Endpoints that took nothing last time: they get one try without waiting, or every frame would wait anew."""

    def __enter__(self) -> Outlet:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._closed = True
            self._see_off(float("inf"))
            for socket in self._sockets.values():
                socket.close()
            self._sockets.clear()

    def send(self, plan: Plan, hop: int, message: Message) -> None:
        """Send what stage number `hop` made to the stage behind it, or home.

        Raises:
            Undeliverable: the peer is unknown, or takes nothing within the send time-out.
        """
        self._send(*self._behind(plan, hop), message)

    def open(self, plan: Plan, hop: int) -> None:
        """Connect to where `send` will send: a handshake takes three round trips, which the first frame would wait."""
        node, endpoint = self._behind(plan, hop)
        with self._lock, contextlib.suppress(NodeError, Undeliverable):  # `send` says it of every frame
            if endpoint and not self._closed:
                self._socket(node, endpoint)

    def _behind(self, plan: Plan, hop: int) -> tuple[str, str]:
        """The node that takes what stage number `hop` made, and its inbox."""
        if hop + 1 < len(plan.stages):
            node = plan.stages[hop + 1].node
            return node, self.directory.frames(node)
        return plan.stages[0].node, self.directory.results(plan.stream)

    def send_tile(self, node: str, message: Message, wait: bool = True) -> None:
        """Send a tile, its output, or what is said about them; without `wait`, only if the peer takes it at once.

        Raises:
            Undeliverable: the peer is unknown, or does not take it.
        """
        self._send(node, self.directory.tiles(node), message, wait)

    def try_tile(self, node: str, message: Message) -> bool:
        """From any thread: send a tile, or its output, if that takes no waiting.

        Waking another thread to do it costs more than a send that copies nothing. ZeroMQ's own thread, which moves the
        bytes, is let in at once: the caller goes on computing, and on a machine with no idle core that thread would get
        its turn with the next tick of the clock (up to 4 ms).

        Returns:
            False where it is not sent: the outlet is in use or closed, or the peer is unknown or takes nothing now.
        """
        if not self._lock.acquire(blocking=False):
            return False
        try:
            self._put(node, self.directory.tiles(node), message, wait=False)
        except Undeliverable:
            return False
        finally:
            self._lock.release()
        _let_in()
        return True

    def notify(self, notice: DropNotice) -> None:
        """Tell the stream's device that a frame is given up; it finds out by itself where this fails."""
        try:
            device = self.directory.origin(notice.stream)
            self._send(device, self.directory.results(notice.stream), Message(notice))
        except Undeliverable:
            return

    def measure(self, node: str, message: Message, endpoint: str = "") -> None:
        """Send a ping, a pong or a probe, to the node's inbox or to `endpoint`; lost where it cannot be reached."""
        now = time.monotonic()
        with self._lock:
            self._see_off(now)
            if self._closed:
                return
            if endpoint:
                self._answer(node, endpoint, message, now)
                return
        try:
            self._send(node, self.directory.inbox(node), message)
        except Undeliverable:
            return

    def _answer(self, node: str, endpoint: str, message: Message, now: float) -> None:
        if self._guest is None or (self._guest.node, self._guest.endpoint) != (node, endpoint):
            self._see_off(float("inf"))
            try:
                self._guest = _Guest(node, endpoint, self._factory.push(endpoint, node))
            except (NodeError, KeysError):
                return
        self._guest.seen_s = now
        if self._guest.socket.poll(0, zmq.POLLOUT):  # not for the first one: its connection does not stand yet
            self._guest.socket.send_multipart(wire.encode(message), zmq.DONTWAIT)

    def _see_off(self, now: float) -> None:
        if self._guest is not None and now - self._guest.seen_s > GUEST_S:
            self._guest.socket.close()
            self._guest = None

    def _send(self, node: str, endpoint: str, message: Message, wait: bool = True) -> None:
        with self._lock:
            self._put(node, endpoint, message, wait)

    def _put(self, node: str, endpoint: str, message: Message, wait: bool) -> None:
        if not endpoint:
            raise Undeliverable(f"node {node}", "its address is not known", "check that it runs and reports")
        if self._closed:  # a socket opened now would be closed by nobody
            raise Undeliverable(f"node {node}", "this node is stopping")
        socket = self._socket(node, endpoint)
        flags = 0 if wait and endpoint not in self._stuck else zmq.DONTWAIT
        try:
            if self._needs_head(node, endpoint, message):
                ahead_s = PROBE_AHEAD_S if isinstance(message.header, Probe) else 0.0
                socket.send_multipart(wire.encode(Message(Head(self._name, message.payload_bytes, ahead_s))), flags)
                if _is_tile(message):
                    self._note_head(node, endpoint)
                if ahead_s:
                    time.sleep(ahead_s)
            socket.send_multipart(wire.encode(message), flags, copy=False)
            self._stuck.discard(endpoint)
        except zmq.Again as error:
            if not flags:  # a queue that is full for a moment is no peer that takes nothing
                self._stuck.add(endpoint)
            trouble = self._factory.trouble(endpoint)
            if trouble is None:
                raise Undeliverable(f"node {node}", f"takes nothing at {endpoint}", "check that it runs") from error
            if time.monotonic() - trouble.at_s > RETRY_S:
                self._factory.tried(endpoint)
                self._sockets.pop((node, endpoint)).close()
            raise Undeliverable(f"node {node}", trouble.text) from error

    def _needs_head(self, node: str, endpoint: str, message: Message) -> bool:
        if _is_tile(message) and time.monotonic() < self._headed_s.get((node, endpoint), float("-inf")) + HEAD_PAUSE_S:
            return False
        return message.payload_bytes >= MIN_MESSAGE_BYTES

    def _note_head(self, node: str, endpoint: str) -> None:
        self._headed_s = {key: at_s for key, at_s in self._headed_s.items() if key in self._sockets}
        self._headed_s[node, endpoint] = time.monotonic()

    def _socket(self, node: str, endpoint: str) -> zmq.Socket[bytes]:
        key = (node, endpoint)
        if key not in self._sockets:
            self._close_former(node)
            try:
                self._sockets[key] = self._factory.push(endpoint, node, queue=self._queue)
            except KeysError as error:
                raise Undeliverable(error.thing, error.condition, error.mend) from error
        self._sockets.move_to_end(key)
        while len(self._sockets) > MAX_PEERS:
            (_, oldest), socket = self._sockets.popitem(last=False)
            self._stuck.discard(oldest)
            socket.close()
        return self._sockets[key]

    def _close_former(self, node: str) -> None:
        """Close what leads to where a node was before it started anew."""
        for key in [key for key in self._sockets if key[0] == node and not self.directory.is_current(*key)]:
            self._sockets.pop(key).close()
            self._stuck.discard(key[1])


def _let_in() -> None:
    """Have threads run that wait for this one's core."""
    if hasattr(os, "sched_yield"):
        os.sched_yield()


def _is_tile(message: Message) -> bool:
    return isinstance(message.header, Tile | TileDone)
