"""What the shaper is measured beside: a relay that shapes nothing, and a sender and a receiver for both."""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

CHUNK_BYTES = 256 * 1024


class Receiver:
    """Takes one connection and counts the bytes of each second after a moment of `time.monotonic()`."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.counts: list[tuple[float, int]] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def per_second(self, epoch_s: float, seconds: int) -> list[int]:
        """Bytes that arrived in each second after the epoch."""
        bins = [0] * seconds
        for at_s, nbytes in list(self.counts):
            second = int(at_s - epoch_s)
            if 0 <= second < seconds:
                bins[second] += nbytes
        return bins

    def close(self) -> None:
        """Closes the listening socket; the thread ends with its connection."""
        self._listener.close()
        self._thread.join(5)

    def _run(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return  # closed before anybody came
        buffer = bytearray(4 * CHUNK_BYTES)
        with connection:
            while True:
                try:
                    nbytes = connection.recv_into(buffer)
                except OSError:
                    return
                if nbytes == 0:
                    return
                self.counts.append((time.monotonic(), nbytes))


@contextmanager
def sender(port: int) -> Iterator[None]:
    """Sends as fast as it is let, until the block ends."""
    connection = socket.create_connection(("127.0.0.1", port))
    ended = threading.Event()

    def run() -> None:
        data = bytes(CHUNK_BYTES)
        try:
            while not ended.is_set():
                connection.sendall(data)
        except OSError:
            return  # the relay has been closed: the end of the measurement

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        connection.shutdown(socket.SHUT_RDWR)
        thread.join(5)
        connection.close()


def plain_relay(port: int) -> None:
    """Passes one connection on to a port as it comes, and writes its own port on standard output."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sys.stdout.write(f"{listener.getsockname()[1]}\n")
        sys.stdout.flush()
        client, _ = listener.accept()
        server = socket.create_connection(("127.0.0.1", port))
        buffer = memoryview(bytearray(CHUNK_BYTES))
        with client, server:
            while nbytes := client.recv_into(buffer):
                server.sendall(buffer[:nbytes])


if __name__ == "__main__":
    try:
        plain_relay(int(sys.argv[1]))
    except ConnectionError:
        sys.exit(0)  # either end has gone: the end of the measurement
