"""What happens to connections whose other end breaks off, vanishes or is away for long. Real sockets."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import pytest
import zmq

from nodes.admission import Waiting
from nodes.sockets import VANISHED_S, SocketFactory
from pipeline.plan import Tier
from tests.nodes.processes import ROOT, environment, eventually
from tests.nodes.tap import Tap
from tests.nodes.tiny import BEAT_S, Deployment, waiting

PACE_S = 0.02
"""Of the source."""

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


@pytest.mark.slow
def test_a_stream_goes_on_alone_while_all_links_are_away_and_returns_with_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """For longer than anybody is remembered: what an hour is to a deployment with its usual beat."""
    monkeypatch.setattr("scheduler.registry.FORGET_S", 5 * BEAT_S)
    with Tap() as tap:
        deployment = Deployment(via=tap.before)
        done = threading.Event()

        def feed(offer: Callable[[Waiting], bool]) -> None:
            for number in itertools.count():
                if done.wait(PACE_S) or not offer(waiting(number, deployment.model)):
                    return

        with deployment.scheduler() as address:
            deployment.node(Tier.EDGE, address)
            deployment.node(Tier.CLOUD, address)
            device = deployment.device(address)
            stream = threading.Thread(target=device.run, args=(feed,))
            stream.start()
            outcomes, admission = deployment.outcomes, device.admission
            try:
                eventually(lambda: admission.plan.epoch > 0 and len(outcomes) > 20, "the plan is in force")
                epoch = admission.plan.epoch
                tap.cut()
                eventually(lambda: admission.plan.epoch == 0, "the device goes on alone")
                alone = len(outcomes)
                eventually(lambda: len(outcomes) > alone + 20 * BEAT_S / PACE_S, "and does so for a good while")
                tap.mend()
                eventually(lambda: admission.plan.epoch > epoch, "the plan is in force again")
                back = len(outcomes)
                eventually(lambda: len(outcomes) > back + 20, "and frames take it")
            finally:
                done.set()
                stream.join(30)
                deployment.stop()
        deployment.check(device.admission.ledger.admitted)
        assert {outcome.header.epoch for outcome in outcomes} >= {0, epoch}


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
