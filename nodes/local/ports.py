"""Ports of this machine that are kept until their process is there to listen."""

from __future__ import annotations

import contextlib
import socket
from types import TracebackType
from typing import Self

LOCALHOST = "127.0.0.1"


class Ports:
    """Numbers to give to processes that are still to be started.

    A number that was merely free a moment ago is another's by the time it is listened on: the kernel gives out
    the same range for every outgoing connection. Each of these stays bound, without listening, so that the kernel
    gives it to nobody, while a listener that sets SO_REUSEADDR (libzmq does, and the shapers) may still take it.
    """

    def __init__(self) -> None:
        self._held: dict[int, socket.socket] = {}

    def reserve(self) -> int:
        """One more port, kept until `close`."""
        held = socket.socket()
        try:
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            held.bind((LOCALHOST, 0))
        except OSError:
            held.close()
            raise
        port = int(held.getsockname()[1])
        self._held[port] = held
        return port

    def close(self) -> None:
        """Keep none any longer; who listens on one goes on."""
        for held in self._held.values():
            with contextlib.suppress(OSError):
                held.close()
        self._held.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()
