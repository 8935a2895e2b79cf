"""A relay that keeps a copy of every byte that crosses it, and can be cut: the packet capture of the tests."""

from __future__ import annotations

import contextlib
import socket
import threading
from types import TracebackType


class Tap:
    """Sits in front of any number of TCP servers. Use it as a context manager."""

    def __init__(self) -> None:
        self.captured: list[bytearray] = []
        """One for each way of each connection."""
        self._listeners: list[socket.socket] = []
        self._connections: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._is_cut = False

    def __enter__(self) -> Tap:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for one in (*self._listeners, *self._connections):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        for thread in self._threads:
            thread.join(10)

    def before(self, endpoint: str) -> str:
        """A new address whose connections are passed on to `endpoint`."""
        listener = socket.create_server(("127.0.0.1", 0))
        self._listeners.append(listener)
        self._spawn(self._accept, listener, int(endpoint.rpartition(":")[2]))
        return f"tcp://127.0.0.1:{listener.getsockname()[1]}"

    def cut(self) -> None:
        """Break all connections, and let none through, until `mend`."""
        with self._lock:
            self._is_cut, broken, self._connections = True, self._connections, []
        for one in broken:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def mend(self) -> None:
        """Let connections through again."""
        with self._lock:
            self._is_cut = False

    def has_seen(self, words: bytes) -> bool:
        """Whether these bytes crossed in one piece."""
        return any(words in stream for stream in self.captured)

    @property
    def nbytes(self) -> int:
        """All that crossed."""
        return sum(map(len, self.captured))

    def _spawn(self, run, *arguments: object) -> None:  # type: ignore[no-untyped-def]
        thread = threading.Thread(target=run, args=arguments, name="tap", daemon=True)
        with self._lock:
            self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket, port: int) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", port))
            except OSError:
                client.close()  # nobody is there yet: the client comes again
                continue
            with self._lock:
                self._connections += [client, server]
                if self._is_cut:
                    for one in (client, server):
                        one.close()
                    continue
            for source, target in ((client, server), (server, client)):
                self._spawn(self._pass_on, source, target)

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        copy = bytearray()
        self.captured.append(copy)
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                copy += data
                target.sendall(data)
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
