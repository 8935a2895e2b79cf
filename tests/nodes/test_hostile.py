"""Hostile peers flood and forge on every socket of a live stream, and the stream does not notice."""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial

import psutil
import pytest
import zmq

from nodes.bench._stranger import GREETING, READY, Knowledge, attack
from nodes.inbox import Incoming, receive
from nodes.links import LinkMeter
from nodes.node import NodeSettings
from nodes.sockets import SocketFactory
from nodes.tile import TileNode
from pipeline.frames import wire
from pipeline.frames.wire import Head, Message, Ping, Pong
from pipeline.plan import Tier
from scheduler.events import decode_report, encode
from scheduler.handmade import Tiling, plan_of, tiled
from scheduler.patience import BUDGET, BURST, PROBATION_BUDGET, PROBATION_S, Patience, Source, shut
from scheduler.reports import Report
from tests.nodes.processes import eventually
from tests.nodes.tiny import BEAT_S, NAMES, Deployment

FRAMES = 100
GROWTH_BYTES = 200 << 20
UNREAD_BYTES = 32 << 20
ENDLESS_MIB = 2000


def _knowledge(deployment: Deployment) -> Knowledge:
    graph = deployment.model.captured.graph
    plan = deployment.plan or plan_of(graph, "camera", NAMES)
    crossing = tuple(graph.tensors[name] for name in graph.cut(plan.stages[0].until).tensors)
    outputs = tuple(graph.tensors[name] for name in graph.outputs)
    known = [tuple((spec.name, spec.shape, spec.dtype, "fp32") for spec in specs) for specs in (crossing, outputs)]
    return Knowledge("camera", graph.fingerprint, 1, NAMES[Tier.EDGE], "tile-1", *known)


def test_strangers_on_every_socket_change_no_result() -> None:
    deployment = Deployment()
    graph = deployment.model.captured.graph
    deployment.plan = tiled(plan_of(graph, "*", NAMES), graph, Tiling(2))
    with deployment.scheduler() as address:
        edge = deployment.node(Tier.EDGE, address)
        cloud = deployment.node(Tier.CLOUD, address)
        worker = TileNode(NodeSettings("tile-1", address, report_interval_s=BEAT_S), deployment.model)
        worker.start()
        deployment.nodes[worker.name] = worker
        device = deployment.device(address)
        at = {node.name: node.agent.identity.endpoints for node in deployment.nodes.values() if node.agent is not None}
        endpoints = {
            "frames at the edge": at[edge.name].frames,
            "answers at the edge": at[edge.name].tiles,
            "frames at the cloud": at[cloud.name].frames,
            "tiles": at[worker.name].tiles,
            "results": at[device.name].results,
            "reports": address.reports,
            "plans": address.plans,
        }
        before = psutil.Process().memory_info().rss
        refused = {node.name: node.loop.links.refused for node in deployment.nodes.values()}
        with attack(endpoints, _knowledge(deployment)):
            eventually(lambda: all(counts["cut off"] for counts in refused.values()), "all have cut somebody off")
            deployment.run(device, FRAMES)
        grown = psutil.Process().memory_info().rss - before
        deployment.stop()
    deployment.check(FRAMES)
    assert grown < GROWTH_BYTES
    for counts in refused.values():
        assert counts["bad-message"]


def test_a_forged_result_or_notice_is_not_believed() -> None:
    deployment = Deployment()
    with deployment.scheduler() as address:
        deployment.node(Tier.EDGE, address)
        deployment.node(Tier.CLOUD, address)
        device = deployment.device(address)
        results = device.agent.identity.endpoints.results if device.agent is not None else ""
        with attack({"results": results}, _knowledge(deployment)):
            eventually(lambda: bool(device.loop.links.refused["cut off"]), "the stranger is cut off")
            deployment.run(device, FRAMES)
        deployment.stop()
    deployment.check(FRAMES)
    assert not device.admission.fallback_reason, "a stranger's notices must not move the stream"
    assert not device.admission.ledger.readmissions


@pytest.fixture
def inbox(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, LinkMeter, list[Incoming]]]:
    """A data socket that is received from, in a thread."""
    monkeypatch.setattr("nodes.inbox.MAX_UNREAD_BYTES", UNREAD_BYTES)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    inbox, endpoint = SocketFactory(context).pull("tcp://127.0.0.1:*")
    links, taken, stop = LinkMeter(), list[Incoming](), threading.Event()
    thread = threading.Thread(target=receive, args=(inbox, links, taken.append, stop))
    thread.start()
    yield endpoint, links, taken
    stop.set()
    thread.join()
    context.term()


def test_who_goes_on_is_cut_off_and_nobody_else(inbox: tuple[str, LinkMeter, list[Incoming]]) -> None:
    endpoint, links, taken = inbox
    ping = wire.encode(Message(Ping("honest", 1)))
    with zmq.Context() as context, context.socket(zmq.PUSH) as honest, context.socket(zmq.PUSH) as hostile:
        for each in (honest, hostile):
            each.setsockopt(zmq.LINGER, 0)
            each.connect(endpoint)
        honest.send_multipart(ping)
        eventually(lambda: len(taken) == 1, "the first ping is taken")
        gone = hostile.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        for _ in range(BUDGET + 1):
            hostile.send(b"\x07nonsense")
        assert gone.poll(10_000), "the hostile connection is shut"
        assert links.refused["cut off"] == 1
        assert links.refused["bad-message"] == BUDGET + 1
        honest.send_multipart(ping)
        eventually(lambda: len(taken) == 2, "the honest peer's second ping is taken")
        assert taken[0].source == taken[1].source, "by the same connection"
        hostile.disable_monitor()
        gone.close()


def test_a_connection_is_shut_only_while_it_is_the_same() -> None:
    patience, source = Patience(), Source(7, "10.0.0.1", 4711)
    assert [patience.refused(source, 0.0) for _ in range(BUDGET + 2)] == [False] * BUDGET + [True, False]
    assert patience.is_cut(source)
    assert not patience.is_cut(source._replace(port=4712)), "the descriptor's next connection is another peer"


def test_a_descriptor_that_another_peer_got_is_not_taken_for_the_former_one(
    inbox: tuple[str, LinkMeter, list[Incoming]],
) -> None:
    endpoint, _, taken = inbox
    for number in (1, 2):
        with zmq.Context() as context, context.socket(zmq.PUSH) as peer:
            peer.connect(endpoint)
            peer.send_multipart(wire.encode(Message(Ping("one", number))))
            eventually(partial(_has, taken, number), "the ping is taken")
        source = taken[-1].source
        assert source is not None
        eventually(partial(_is_closed, source), "its connection is closed")
    first, second = (each.source for each in taken)
    assert first is not None and second is not None and first.port != second.port


def _has(taken: list[Incoming], count: int) -> bool:
    return len(taken) == count


def _is_closed(source: Source) -> bool:
    return not shut(source)


def test_less_is_borne_with_from_where_somebody_was_cut_off_and_not_for_ever() -> None:
    patience, one, other = Patience(), Source(7, "10.0.0.1", 1), Source(8, "10.0.0.2", 1)
    for _ in range(BUDGET + 1):
        patience.refused(one, 0.0)
    again = one._replace(port=2)
    assert patience.is_watched(again, 1.0) and not patience.is_watched(other, 1.0)
    assert [patience.refused(again, 1.0) for _ in range(PROBATION_BUDGET + 1)] == [False] * PROBATION_BUDGET + [True]
    assert not any(patience.refused(other, 1.0) for _ in range(BUDGET))
    late = one._replace(port=3)
    assert not patience.is_watched(late, 2.0 + 2 * PROBATION_S)
    assert not any(patience.refused(late, 2.0 + 2 * PROBATION_S) for _ in range(BUDGET))


def test_made_up_figures_do_not_get_into_a_node_s_own_report() -> None:
    links, now = LinkMeter(), time.monotonic()
    now_ns = int(now * 1e9)
    for times in ((1, 1 << 61, 2), (1, 2, 1 << 61), (now_ns + 10**12, 5, 6), (now_ns - 10**6, 7, 1 << 61)):
        links.saw(Message(Pong("edge-1", *times)), now)
    links.saw(Message(Head("edge-1", (1 << 62) - 1)), now)
    links.saw(Message(Head("edge-2", 1 << 61)), now)
    report = Report("cloud-1", Tier.CLOUD, "i", 1, now, links=links.reports())
    assert decode_report(encode(report)) == report, "or its node would be taken for dead"
    assert all(link.rtt_s is None for link in report.links)
    links.saw(Message(Pong("edge-1", now_ns - 10**7, 5, 10**6)), now)
    (rtt_s,) = (link.rtt_s for link in links.reports() if link.peer == "edge-1")
    assert rtt_s is not None and 0.005 < rtt_s < 0.011


def test_a_rare_refusal_is_forgiven() -> None:
    patience, source = Patience(), Source(7, "10.0.0.1", 1)
    assert not any(patience.refused(source, float(second)) for second in range(100 * BUDGET))


def test_a_flood_of_good_messages_is_cut_off_too() -> None:
    patience, source = Patience(), Source(7, "10.0.0.1", 1)
    assert not any(patience.heard(source, 0.0) for _ in range(BURST))
    assert patience.heard(source, 0.0)


@pytest.mark.skipif(sys.platform != "linux", reason="what a connection has received is asked of Linux")
def test_a_message_without_end_is_cut_off(inbox: tuple[str, LinkMeter, list[Incoming]]) -> None:
    endpoint, links, taken = inbox
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    before = psutil.Process().memory_info().rss
    with zmq.Context() as context, context.socket(zmq.PUSH) as honest:
        honest.setsockopt(zmq.LINGER, 0)
        honest.connect(endpoint)
        honest.send_multipart(wire.encode(Message(Ping("honest", 1))))
        eventually(lambda: len(taken) == 1, "the honest peer's ping is taken")
        with (
            socket.create_connection((host, int(port)), 10.0) as connection,
            pytest.raises(OSError, match=r"pipe|reset|timed out"),
        ):
            connection.sendall(GREETING)
            connection.recv(64)
            connection.sendall(READY)
            for _ in range(ENDLESS_MIB):
                connection.sendall(b"\x03" + (1 << 20).to_bytes(8, "big") + bytes(1 << 20))  # "more follows"
        assert links.refused["cut off"] == 1
        assert psutil.Process().memory_info().rss - before < ENDLESS_MIB // 2 << 20
        honest.send_multipart(wire.encode(Message(Ping("honest", 2))))
        eventually(lambda: len(taken) == 2, "the honest peer is still there")


@pytest.mark.parametrize("opening", [b"\x01\x00\x06\x00hello", b"GET / HTTP/1.1\r\n\r\n" * 20])
def test_what_is_no_zmtp_3_is_turned_away(inbox: tuple[str, LinkMeter, list[Incoming]], opening: bytes) -> None:
    """A peer of ZMTP 1 has no metadata: nobody could say whose its messages are."""
    endpoint, links, taken = inbox
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    with socket.create_connection((host, int(port)), 20.0) as connection, contextlib.suppress(ConnectionError):
        connection.sendall(opening)
        while connection.recv(4096):
            pass
    assert not taken
    assert not links.refused


def test_a_connection_that_sends_nothing_whole_takes_no_memory(inbox: tuple[str, LinkMeter, list[Incoming]]) -> None:
    endpoint, links, taken = inbox
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    with contextlib.ExitStack() as stack:
        for _ in range(50):
            connection = stack.enter_context(socket.create_connection((host, int(port))))
            connection.sendall(b"\xff\0\0\0\0\0\0\0\x01\x7f")
        with zmq.Context() as context, context.socket(zmq.PUSH) as honest:
            honest.setsockopt(zmq.LINGER, 0)
            honest.connect(endpoint)
            honest.send_multipart(wire.encode(Message(Ping("honest", 1))))
            eventually(lambda: bool(taken), "an honest peer gets through")
    assert not links.refused
