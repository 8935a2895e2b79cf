"""One direction of one relayed connection: the bytes that were read and not yet written, without copying them."""

from __future__ import annotations

import socket
from collections import deque
from itertools import islice

BLOCK_BYTES = 128 * 1024
"""Size of one read: large enough that 1 Gbit/s is about one read a millisecond."""
_GATHER = 32
"""Buffers per write; the kernel takes up to 1024, but more than a few megabytes never fit its buffer."""


class BlockPool:
    """Buffers that are read into, used again once what they held is written."""

    def __init__(self, keep: int = 256) -> None:
        self._free: list[bytearray] = []
        self._keep = keep

    def take(self) -> bytearray:
        """A block of `BLOCK_BYTES`."""
        return self._free.pop() if self._free else bytearray(BLOCK_BYTES)

    def give(self, block: bytearray) -> None:
        """Takes a block back."""
        if len(self._free) < self._keep:
            self._free.append(block)


class Flow:
    """Bytes on their way from one socket to another."""

    def __init__(self, source: socket.socket, sink: socket.socket, pool: BlockPool) -> None:
        self.source = source
        self.sink = sink
        self.cleared_bytes = 0
        """Bytes that the link has delivered and the receiver has not taken."""
        self.ended = False
        """The source has said that it sends no more."""
        self.end_cleared = False
        """The link has delivered the end."""
        self.finished = False
        """The end has been passed on."""
        self._pool = pool
        self._views: deque[memoryview] = deque()
        self._blocks: deque[bytearray | None] = deque()

    def read(self, limit: int) -> int | None:
        """Reads up to `limit` bytes from the source: their number, 0 at its end, None where there are none now.

        Raises:
            OSError: the connection is broken.
        """
        block = self._pool.take()
        view = memoryview(block)
        try:
            nbytes = self.source.recv_into(view[: min(limit, BLOCK_BYTES)])
        except (BlockingIOError, InterruptedError):
            self._pool.give(block)
            return None
        if nbytes == 0:
            self._pool.give(block)
            self.ended = True
        elif nbytes * 4 < BLOCK_BYTES:
            # A small read is copied, or many small messages would each hold a large block.
            self._views.append(memoryview(bytes(view[:nbytes])))
            self._blocks.append(None)
            self._pool.give(block)
        else:
            self._views.append(view[:nbytes])
            self._blocks.append(block)
        return nbytes

    def clear(self, nbytes: int) -> None:
        """Lets bytes go on to the receiver; 0 is the end of the flow."""
        self.cleared_bytes += nbytes
        self.end_cleared = self.end_cleared or nbytes == 0

    def write(self) -> int:
        """Writes as many of the cleared bytes as the receiver takes, then the end where it is due.

        Raises:
            OSError: the connection is broken.
        """
        total = 0
        while self.cleared_bytes:
            batch = self._batch()
            try:
                sent = self.sink.sendmsg(batch)
            except (BlockingIOError, InterruptedError):
                break
            offered = sum(map(len, batch))
            self._forget(sent)
            total += sent
            if sent < offered:
                break
        if self.end_cleared and not self.cleared_bytes and not self.finished:
            self.finished = True
            self.sink.shutdown(socket.SHUT_WR)
        return total

    def _batch(self) -> list[memoryview]:
        batch, left = [], self.cleared_bytes
        for view in islice(self._views, _GATHER):
            batch.append(view if len(view) <= left else view[:left])
            left -= len(batch[-1])
            if left == 0:
                break
        return batch

    def _forget(self, sent: int) -> None:
        self.cleared_bytes -= sent
        while sent:
            view = self._views[0]
            if len(view) > sent:
                self._views[0] = view[sent:]
                return
            sent -= len(view)
            self._views.popleft()
            block = self._blocks.popleft()
            if block is not None:
                self._pool.give(block)
