"""What happens to connections whose other end breaks off, vanishes or is away for long. Real sockets."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest
import zmq

from nodes.sockets import VANISHED_S, SocketFactory
from tests.nodes.processes import ROOT, environment

FLOODED = """
import socket, struct, threading, zmq
from nodes.bench._stranger import GREETING, READY
from nodes.sockets import SocketFactory
context = zmq.Context()
inbox, endpoint = SocketFactory(context).pull("tcp://127.0.0.1:*")
peer = socket.create_connection(("127.0.0.1", int(endpoint.rpartition(":")[2])))
peer.sendall(GREETING)
heard = peer.recv(64)
peer.sendall(READY)
while b"READY" not in heard:
    heard += peer.recv(64)
peer.sendall(50 * b"\\0\\5hello")
assert inbox.poll(10_000)
peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close by a reset
peer.close()
threading.Event().wait(1.5)  # any heartbeat of libzmq's would fall into this time
count = 0
while inbox.poll(200):
    inbox.recv()
    count += 1
print(count)
inbox.close()
context.term()
"""


def test_a_peer_that_breaks_off_with_a_full_inbox_aborts_nobody() -> None:
    """libzmq's own heartbeat did: an assertion about the broken connection, and the whole process was gone."""
    done = subprocess.run(
        [sys.executable, "-c", FLOODED], cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout) >= 4, "what had come in whole is not lost"


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_the_kernel_asks_whether_peers_are_there() -> None:
    factory = SocketFactory(zmq.Context())
    inbox, endpoint = factory.pull("tcp://127.0.0.1:*")
    plans, published = factory.publisher("tcp://127.0.0.1:*", bind=True)
    heard, _ = factory.subscriber(published, bind=False)
    outbox = factory.push(endpoint)
    with inbox, plans, heard, outbox:
        outbox.send(b"hello")
        assert inbox.poll(10_000) and plans.poll(10_000)  # both connections stand: a message, and a subscription
        ports = {int(each.rpartition(":")[2]) for each in (endpoint, published)}
        found = list(_connections(ports))
        assert len(found) == 4, "both ends of both"
        for connection in found:
            assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 1000 * VANISHED_S
            connection.close()
    factory.context.term()


def _connections(ports: set[int]) -> Iterator[socket.socket]:
    """Copies of this process's TCP connections from or to one of these ports."""
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found = socket.socket(fileno=os.dup(int(name)))
            with contextlib.suppress(OSError):
                if found.family == socket.AF_INET and ports & {found.getsockname()[1], found.getpeername()[1]}:
                    yield found
                    continue
            found.close()
