"""Bounds what connections have sent of messages that they never end.

ZeroMQ hands a message on when its last part is in, and limits the size of a part but not their number: a peer that
never sends the last one would take memory as fast as it can send. What the kernel has received on a connection since
its last whole message is an upper bound for what is kept of it, and is to be had from outside of ZeroMQ (on Linux,
since 4.1; elsewhere nothing is bounded here).
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from scheduler.patience import Source, source_at

CHECK_S = 0.1
"""What a link carries meanwhile comes on top of the bounds."""

CHECK_SHARE = 0.01
"""Of a processor that looking takes at most: the more connections, the longer it takes, and the rarer it is."""

IDLE_BYTES_PER_S = 1024.0
"""Heartbeats of ZMTP, which come without any message: our own nodes send none, but others may."""

Identity = tuple[int, int]
"""Device and inode of what a descriptor leads to."""

_DESCRIPTORS = Path("/proc/self/fd")
_RECEIVED = struct.Struct("Q")
_RECEIVED_AT = 128
"""Offset of `tcpi_bytes_received` in Linux's `struct tcp_info`."""


@dataclass
class _Base:
    received: int
    at_s: float


class Unread:
    """The connections of one bound socket.

    Args:
        port: of the socket.
        each: bytes that one connection may have sent since its last whole message.
        total: the same for all of them together.
    """

    def __init__(self, port: int, each: int, total: int) -> None:
        self._port, self._each, self._total = port, each, total
        self._bases: dict[Source, _Base] = {}
        """One entry per connection that is up."""
        self._others: dict[int, Identity] = {}
        """What this process has open besides, see `connections`."""
        self._due_s = float("-inf")

    def excessive(self, heard: set[Source], now: float) -> list[Source]:
        """Connections that are to be shut; nothing where the last look was a short while ago.

        Args:
            heard: who has sent a whole message since then; emptied.
            now: monotonic.
        """
        if now < self._due_s:
            return []
        begin_s = time.thread_time()
        received = connections(self._port, self._others)
        self._due_s = now + max(CHECK_S, (time.thread_time() - begin_s) / CHECK_SHARE)
        self._bases = {source: base for source, base in self._bases.items() if source in received}
        for source, count in received.items():
            if source in heard or source not in self._bases:
                first = 0 if source not in self._bases and source not in heard else count
                self._bases[source] = _Base(first, now)
        heard.clear()
        return self._beyond(received, now)

    def _beyond(self, received: dict[Source, int], now: float) -> list[Source]:
        unread = {
            source: received[source] - base.received - IDLE_BYTES_PER_S * (now - base.at_s)
            for source, base in self._bases.items()
        }
        found, left = [], sum(max(0.0, count) for count in unread.values())
        for source in sorted(unread, key=lambda each: -unread[each]):
            if unread[source] <= self._each and left <= self._total:
                break
            found.append(source)
            left -= unread[source]
        return found


def connections(port: int, others: dict[int, Identity] | None = None) -> dict[Source, int]:
    """Bytes received on each TCP connection to that port of this process; none where this is not Linux.

    Args:
        port: of this machine.
        others: descriptors that are none. Whoever looks again and again keeps it between looks, and what is in it is
            not taken apart anew: whether a descriptor is still the same is told in a tenth of the time.
    """
    known = {} if others is None else others
    found, still = {}, {}
    for name in _listed():
        descriptor = int(name)
        with contextlib.suppress(OSError):
            status = os.fstat(descriptor)
            identity = status.st_dev, status.st_ino
            if known.get(descriptor) != identity and (connection := _received(descriptor, port)) is not None:
                found[connection[0]] = connection[1]
            else:
                still[descriptor] = identity
    known.clear()
    known.update(still)
    return found


def _listed() -> Iterable[str]:
    try:
        return os.listdir(_DESCRIPTORS)
    except OSError:
        return ()


def _received(descriptor: int, port: int) -> tuple[Source, int] | None:
    try:
        source = source_at(descriptor, local_port=port)
        connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, fileno=descriptor)
        try:
            info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _RECEIVED_AT + _RECEIVED.size)
        finally:
            connection.detach()
        return source, _RECEIVED.unpack_from(info, _RECEIVED_AT)[0]
    except (OSError, ValueError, struct.error):
        return None
