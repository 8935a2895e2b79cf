"""The relay's loop: sockets on one side, the pure queues on the other, and a clock between them.

One thread serves all connections of a link, since they share its capacity. While bytes wait it wakes about once a
millisecond; while none do, it sleeps until a socket has something to say.
"""

from __future__ import annotations

import errno
import logging
import selectors
import socket
import struct
import time
from dataclasses import dataclass, field
from itertools import count

from traces.link.address import Address
from traces.link.counters import DirectionCounters
from traces.link.flow import BLOCK_BYTES, BlockPool, Flow
from traces.link.queue import LinkQueue

log = logging.getLogger(__name__)

TICK_S = 0.001
"""Shortest sleep while bytes wait: the accuracy of departures, and the bound on wake-ups."""
TURN_BYTES = 16 * BLOCK_BYTES
"""Most that one connection is read before the next has its turn: ten milliseconds of the fastest links."""
SMALL_BUFFER_BPS = 100e6
"""Up to this rate the kernel's socket buffers are set small, or they would be a second, hidden queue."""
SMALL_BUFFER_S = 0.01
MIN_BUFFER_BYTES = 32 * 1024
MAX_BUFFER_BYTES = 4 * 2**20


@dataclass
class Direction:
    """One direction of the link."""

    index: int
    """0 from client to target (up), 1 back (down)."""
    queue: LinkQueue
    counters: DirectionCounters = field(default_factory=DirectionCounters)
    full: bool = False

    @property
    def resume_bytes(self) -> int:
        """Room at which a full queue is read into again: in pieces, not byte by byte, but before it runs dry."""
        return min(self.queue.bound_bytes // 4, 64 * 1024)


class Connection:
    """A client's connection and its counterpart to the target."""

    def __init__(self, number: int, client: socket.socket, server: socket.socket) -> None:
        self.number = number
        self.client = client
        self.server = server
        self.connected = False
        self.flows: tuple[Flow, Flow] | None = None
        """(up, down), once connected."""

    def finished(self) -> bool:
        """Whether both directions have ended and all is delivered."""
        return self.flows is not None and all(flow.finished for flow in self.flows)


class Relay:
    """All connections of a link. Every method but `wake` must be called on the thread that runs it."""

    def __init__(self, listener: socket.socket, target: Address, up: Direction, down: Direction) -> None:
        self.up = up
        self.down = down
        self.connections: set[Connection] = set()
        self.accepted = 0
        self.refused = 0
        self.cut_until_s = 0.0
        self.buffer_bytes = 0
        """Size of the kernel's socket buffers; 0 leaves it to the kernel."""
        self.epoch_s = time.monotonic()
        self._listener = listener
        self._target = target
        self._selector = selectors.DefaultSelector()
        self._numbers = count(1)
        self._by_number: dict[int, Connection] = {}
        self._pool = BlockPool()
        self._waker, self._wake_end = socket.socketpair()
        for sock in (listener, self._waker, self._wake_end):
            sock.setblocking(False)
        self._selector.register(listener, selectors.EVENT_READ, None)
        self._selector.register(self._waker, selectors.EVENT_READ, None)

    def wake(self) -> None:
        """Ends the current sleep; may be called from any thread."""
        try:
            self._wake_end.send(b"\0")
        except OSError:
            pass  # it is awake already, or closed

    def step(self) -> None:
        """One round: deliver what is due, read what there is room for, sleep until the next event."""
        now_s = time.monotonic()
        for direction in (self.up, self.down):
            self._deliver(direction, now_s)
        for key, events in self._selector.select(self._sleep_s(now_s)):
            if key.fileobj is self._listener:
                self._accept()
            elif key.fileobj is self._waker:
                self._drain_waker()
            elif isinstance(key.data, Connection) and key.data in self.connections:
                self._on_socket(key.data, key.fileobj, events)  # type: ignore[arg-type]

    def reset_all(self) -> None:
        """Cuts every connection off."""
        for connection in tuple(self.connections):
            self._close(connection, reset=True)

    def close(self) -> None:
        """Closes everything."""
        self.reset_all()
        self._selector.close()
        for sock in (self._listener, self._waker, self._wake_end):
            sock.close()

    # --- time -----------------------------------------------------------------------------------------------------

    def _sleep_s(self, now_s: float) -> float | None:
        next_s = min(self.up.queue.next_event_s(), self.down.queue.next_event_s())
        if next_s == float("inf"):
            return None
        wait_s = next_s - now_s
        if wait_s > TICK_S:
            return wait_s
        # A busy link: sleep a tick whatever the sockets say, then look at them all at once.
        time.sleep(TICK_S)
        return 0.0

    def _deliver(self, direction: Direction, now_s: float) -> None:
        touched: dict[Connection, Flow] = {}
        for delivery in direction.queue.pop(now_s):
            connection = self._by_number[delivery.flow]
            if connection.flows is not None:
                touched[connection] = connection.flows[direction.index]
                touched[connection].clear(delivery.nbytes)
        for connection, flow in touched.items():
            try:
                self._write(connection, direction, flow, now_s)
            except OSError as error:
                self._fail(connection, error)
        if direction.full and direction.queue.room_bytes >= direction.resume_bytes:
            direction.full = False
            for connection in self.connections:
                self._watch(connection)

    # --- sockets --------------------------------------------------------------------------------------------------

    def _accept(self) -> None:
        try:
            client, _ = self._listener.accept()
        except (BlockingIOError, ConnectionError):
            return
        except OSError as error:
            log.warning("link: cannot accept a connection: %s", error)
            return
        self.accepted += 1
        if time.monotonic() < self.cut_until_s:
            self.refused += 1
            _reset(client)
            return
        family = socket.AF_INET6 if ":" in self._target.host else socket.AF_INET
        connection = Connection(next(self._numbers), client, socket.socket(family, socket.SOCK_STREAM))
        self.connections.add(connection)
        for sock in (client, connection.server):
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.buffer_bytes:
                _set_buffers(sock, self.buffer_bytes)
        try:
            problem = connection.server.connect_ex((self._target.host, self._target.port))
        except OSError as error:
            problem = error.errno or errno.EHOSTUNREACH
        if problem in (0, errno.EINPROGRESS):
            self._selector.register(connection.server, selectors.EVENT_WRITE, connection)
        else:
            self._fail(connection, OSError(problem, "target unreachable"))

    def set_buffers(self, nbytes: int) -> None:
        """Another size for the sockets' buffers; 0 leaves new sockets to the kernel."""
        self.buffer_bytes = nbytes
        for connection in self.connections:
            # A size once set cannot be handed back to the kernel: give the most that it allows instead.
            for sock in (connection.client, connection.server):
                _set_buffers(sock, nbytes or MAX_BUFFER_BYTES)

    def _on_socket(self, connection: Connection, sock: socket.socket, events: int) -> None:
        try:
            if not connection.connected:
                self._on_connected(connection)
                return
            assert connection.flows is not None
            up, down = connection.flows
            reads, writes = (up, down) if sock is connection.client else (down, up)
            if events & selectors.EVENT_WRITE:
                self._write(connection, self.down if writes is down else self.up, writes, time.monotonic())
            if events & selectors.EVENT_READ and connection in self.connections:
                self._read(connection, self.up if reads is up else self.down, reads)
        except OSError as error:
            self._fail(connection, error)

    def _on_connected(self, connection: Connection) -> None:
        problem = connection.server.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if problem:
            raise OSError(problem, "target refused")
        connection.connected = True
        up = Flow(connection.client, connection.server, self._pool)
        down = Flow(connection.server, connection.client, self._pool)
        connection.flows = (up, down)
        self._by_number[connection.number] = connection
        self._watch(connection)

    def _read(self, connection: Connection, direction: Direction, flow: Flow) -> None:
        now_s = time.monotonic()
        direction.queue.advance(now_s)
        limit = min(direction.queue.room_bytes, TURN_BYTES)
        while limit > 0:
            nbytes = flow.read(limit)
            if nbytes is None:
                break
            direction.queue.push(connection.number, nbytes, now_s)
            direction.counters.read_bytes += nbytes
            limit -= nbytes
            if nbytes == 0 or nbytes < BLOCK_BYTES // 2:
                break
        queue = direction.queue
        direction.counters.peak_queue_bytes = max(direction.counters.peak_queue_bytes, queue.queued_bytes)
        if queue.room_bytes < min(direction.resume_bytes, 1500) and not direction.full:
            direction.full = True
            for other in self.connections:
                self._watch(other)
        else:
            self._watch(connection)

    def _write(self, connection: Connection, direction: Direction, flow: Flow, now_s: float) -> None:
        stuck_before = flow.cleared_bytes > 0
        sent = flow.write()
        if sent:
            direction.counters.add_delivered(sent, now_s - self.epoch_s)
        if connection.finished():
            self._close(connection, reset=False)
        elif flow.cleared_bytes or stuck_before:
            self._watch(connection)

    def _watch(self, connection: Connection) -> None:
        """Tells the selector which of a connection's sockets to watch, and for what."""
        if connection.flows is None:
            return
        up, down = connection.flows
        for sock, reads, read_way, writes in (
            (connection.client, up, self.up, down),
            (connection.server, down, self.down, up),
        ):
            # A receiver that does not read stops its own flow only: others share the link, not its fate.
            stuck = reads.cleared_bytes > read_way.resume_bytes * 4
            wants_read = not (reads.ended or read_way.full or stuck)
            events = (selectors.EVENT_READ if wants_read else 0) | (
                selectors.EVENT_WRITE if writes.cleared_bytes else 0
            )
            self._select(sock, events, connection)

    def _select(self, sock: socket.socket, events: int, connection: Connection) -> None:
        key = (self._selector.get_map() or {}).get(sock)
        if not events:
            if key is not None:
                self._selector.unregister(sock)
        elif key is None:
            self._selector.register(sock, events, connection)
        elif key.events != events:
            self._selector.modify(sock, events, connection)

    def _fail(self, connection: Connection, error: OSError) -> None:
        log.info("link: connection lost: %s", error)
        if not connection.connected:
            self.refused += 1
        self._close(connection, reset=True)

    def _close(self, connection: Connection, reset: bool) -> None:
        self.connections.discard(connection)
        for sock in (connection.client, connection.server):
            self._select(sock, 0, connection)
            if reset:
                _reset(sock)
            else:
                sock.close()
        for direction, flow in zip((self.up, self.down), connection.flows or (), strict=False):
            direction.counters.dropped_bytes += direction.queue.drop(connection.number) + flow.cleared_bytes
        self._by_number.pop(connection.number, None)

    def _drain_waker(self) -> None:
        try:
            while self._waker.recv(4096):
                pass
        except BlockingIOError:
            pass


def _set_buffers(sock: socket.socket, nbytes: int) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, nbytes)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, nbytes)


def _reset(sock: socket.socket) -> None:
    """Closes with a reset, so that the peer learns at once that the connection is gone."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    except OSError:
        pass
    sock.close()
