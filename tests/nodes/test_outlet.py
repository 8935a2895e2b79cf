"""An outlet that several threads send by. Real sockets."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Iterator

import psutil
import pytest
import zmq

from nodes.inbox import decode
from nodes.outlet import Directory, Outlet, Undeliverable
from nodes.sockets import SocketFactory
from pipeline.frames.envelope import of_frame
from pipeline.frames.wire import FrameHeader, Head, Hop, Message, TensorHeader, TileDone
from pipeline.model.graph import TensorSpec
from pipeline.plan import Plan, Tier
from scheduler.handmade import plan_of
from scheduler.reports import Endpoints
from tests.nodes.processes import eventually
from tests.nodes.tap import Tap
from tests.nodes.tiny import NAMES
from tests.scheduler.simulate.nets import network

LIMIT_MS = 20_000
ANY = "tcp://127.0.0.1:*"
SPEC = TensorSpec("map", (4096,), "uint8")


@pytest.fixture
def factory() -> Iterator[SocketFactory]:
    """Its context ends only when all sockets are closed."""
    made = SocketFactory(zmq.Context())
    yield made
    made.context.term()


def done(ticket: int) -> Message:
    """A tile's output, large enough to be announced."""
    tensors = (TensorHeader.of(SPEC, "fp32", SPEC.nbytes),)
    return Message(TileDone("tile-1", ticket, 0.0, 0.0, tensors), [bytes([ticket % 251]) * SPEC.nbytes])


@pytest.mark.timeout(60)
def test_threads_that_send_at_once_send_whole_messages_right_behind_their_heads(factory: SocketFactory) -> None:
    inbox, endpoint = factory.pull(ANY)
    each, count = 60, 3
    with inbox, Outlet("tile-1", factory, Directory({"edge-1": Endpoints(tiles=endpoint)})) as outlet:

        def send(first: int) -> None:
            for ticket in range(first, first + each):
                while not outlet.try_tile("edge-1", done(ticket)):
                    try:
                        outlet.send_tile("edge-1", done(ticket))
                        break
                    except Undeliverable as error:  # the connection does not stand yet
                        if "stopping" in str(error):
                            return

        threads = [threading.Thread(target=send, args=(1000 * number,)) for number in range(count)]
        for thread in threads:
            thread.start()
        came: list[int] = []
        announced: int | None = None
        heads = 0
        while len(came) < each * count:
            assert inbox.poll(LIMIT_MS), "a message"
            message = decode(inbox.recv_multipart(copy=False))
            if isinstance(message.header, Head):
                assert announced is None
                announced, heads = message.header.payload_bytes, heads + 1
                continue
            assert announced in (None, message.payload_bytes) and isinstance(message.header, TileDone)
            assert heads, "the first is announced"
            announced, ticket = None, message.header.ticket
            assert bytes(message.buffers[0]) == bytes([ticket % 251]) * SPEC.nbytes
            came.append(ticket)
        for thread in threads:
            thread.join()
    assert sorted(came) == [1000 * number + ticket for number in range(count) for ticket in range(each)]
    for number in range(count):
        own = [ticket for ticket in came if ticket // 1000 == number]
        assert own == sorted(own), "in the order in which a thread sent them"


def test_a_closed_outlet_opens_no_socket_and_an_unknown_peer_gets_nothing(factory: SocketFactory) -> None:
    inbox, endpoint = factory.pull(ANY)
    with inbox:
        with Outlet("tile-1", factory, Directory({"edge-1": Endpoints(tiles=endpoint)})) as outlet:
            assert not outlet.try_tile("nobody", done(1))
            eventually(lambda: outlet.try_tile("edge-1", done(2)), "the connection")
        assert not outlet.try_tile("edge-1", done(3))
        with pytest.raises(Undeliverable, match="stopping"):
            outlet.send_tile("edge-1", done(4))
        outlet.measure("edge-1", done(5), endpoint)


def test_nothing_is_kept_open_to_where_a_node_was_before_it_started_anew(factory: SocketFactory) -> None:
    """Three file handles stayed for each restart of an edge node."""
    directory, handles = Directory(), psutil.Process().num_fds
    first = 0

    def as_few_as_at_first() -> bool:
        return handles() <= first

    with Outlet("tile-1", factory, directory) as outlet:
        for number in range(6):
            inbox, endpoint = factory.pull(ANY)
            with inbox:
                directory.learn_peer("edge-1", Endpoints(tiles=endpoint))
                eventually(lambda: outlet.try_tile("edge-1", done(1)), "the connection")
                assert inbox.poll(LIMIT_MS), "the tile"
                if not number:
                    first = handles()
                eventually(as_few_as_at_first, f"as many file handles as at first: {first}")


@pytest.mark.timeout(60)
def test_who_may_wait_waits_behind_one_who_did_not(factory: SocketFactory) -> None:
    """A queue that was full for a moment is no peer that takes nothing: the next message would be lost for it."""
    inbox, endpoint = factory.pull(ANY)
    with inbox, Outlet("tile-1", factory, Directory({"edge-1": Endpoints(tiles=endpoint)})) as outlet:
        eventually(lambda: outlet.try_tile("edge-1", done(0)), "a connection")
        large = TensorSpec("map", (1 << 20,), "uint8")
        sent, tensors = 1, (TensorHeader.of(large, "fp32", large.nbytes),)
        tile = Message(TileDone("tile-1", 1, 0.0, 0.0, tensors), [bytes(large.nbytes)])
        while outlet.try_tile("edge-1", tile):
            sent += 1
        waiting = threading.Thread(target=outlet.send_tile, args=("edge-1", done(2)))
        waiting.start()
        came = 0
        while came <= sent:
            assert inbox.poll(LIMIT_MS), "a message"
            came += isinstance(decode(inbox.recv_multipart(copy=False)).header, TileDone)
        waiting.join()


def frame(plan: Plan, hop: int, payload_bytes: int) -> Message:
    """What a stage sends on, as `nodes.stage` has it."""
    graph, codec = network(), (*(link.codec for link in plan.links), "fp32")[hop]
    (spec,) = (graph.tensors[name] for name in graph.cut(plan.stages[hop].until).tensors)
    hops = tuple(Hop(stage.node, 0.01, 0.002, 0.03, 0.004, payload_bytes) for stage in plan.stages[: hop + 1])
    header = FrameHeader(
        plan.stream, plan.model, plan.epoch, 500, secrets.randbits(61), hop + 1, time.monotonic_ns(),
        (TensorHeader.of(spec, codec, payload_bytes),), hops,
    )  # fmt: skip
    return Message(header, [bytes(payload_bytes)])


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("hop", "payload_bytes"), [(0, 3000), (1, 30_000), (2, 16_000), (2, 2000), (2, 40)])
def test_frames_take_as_many_bytes_on_a_connection_as_the_simulator_counts(
    factory: SocketFactory, hop: int, payload_bytes: int
) -> None:
    plan = plan_of(network(), "stream-1", NAMES, "conv2,conv4", "q8")
    envelope = of_frame(network(), plan, hop, payload_bytes)
    counted = payload_bytes + envelope.beside_bytes + (envelope.head_bytes if payload_bytes >= 2048 else 0)
    inbox, endpoint = factory.pull(ANY)
    with Tap() as tap, inbox:
        there = tap.before(endpoint)
        peers = {name: Endpoints(frames=there, results=there) for name in NAMES.values()}
        directory = Directory()
        directory.learn("stream-1", NAMES[Tier.DEVICE], peers)
        sent: list[int] = []
        with Outlet(NAMES[list(Tier)[hop]], factory, directory) as outlet:
            for _ in range(5):
                before = tap.nbytes
                outlet.send(plan, hop, frame(plan, hop, payload_bytes))
                while isinstance(decode(inbox.recv_multipart(copy=False)).header, Head):
                    pass
                sent.append(tap.nbytes - before)
    assert min(sent) == counted, "a handshake, or a heartbeat, may have joined some"
