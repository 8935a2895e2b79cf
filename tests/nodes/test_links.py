"""What a node measures of its links reaches the scheduler: with the next heartbeat, or at once where it jumps."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import zmq

from nodes.agent import SchedulerAddress
from nodes.cloud import CloudNode
from nodes.edge import EdgeNode
from nodes.links import LinkMeter
from nodes.node import Node, NodeSettings
from nodes.sockets import SocketFactory
from nodes.tile import TileNode
from pipeline.frames import wire
from pipeline.frames.wire import Head, Hop, Message, Probe
from pipeline.model.spec import LoadedModel, load_model
from pipeline.plan import Tier
from scheduler.commands import ProbeOrder
from scheduler.events import decode_report, encode, topic
from scheduler.meter import StageMeter
from scheduler.reports import MAX_CROSSINGS, MAX_STAGES, LinkReport, Report
from scheduler.timing import MAX_PEERS, MAX_STRANGERS
from tests.nodes.tiny import SPEC

LIMIT_S = 30.0
HEARTBEAT_S = 600.0
"""So long that no report but the first is due by itself."""

BYTES = 4096
FAST_S, SLOW_S = 0.12, 0.6
"""A message's time on the emulated link; above the tracker's bin, so that each message is a sample."""


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    """The tiny network."""
    return load_model(SPEC)


class Listener:
    """The scheduler's two sockets, in the hands of the test."""

    def __init__(self, factory: SocketFactory) -> None:
        self.reports, reports = factory.subscriber("tcp://127.0.0.1:*", bind=True)
        self.plans, plans = factory.publisher("tcp://127.0.0.1:*", bind=True)
        self.address = SchedulerAddress(reports, plans)

    def report(self, wait_ms: int = 100) -> Report | None:
        """The next report; None where none comes soon."""
        if not self.reports.poll(wait_ms):
            return None
        report = decode_report(self.reports.recv_multipart()[-1])
        return None if report.leaving else report

    def registered(self, *nodes: Node) -> dict[str, Report]:
        """A report of each; asked for again, since a publisher's first words are lost while it connects."""
        found: dict[str, Report] = {}
        deadline_s = time.monotonic() + LIMIT_S
        while len(found) < len(nodes):
            assert time.monotonic() < deadline_s, f"heard of {list(found)} alone in {LIMIT_S:.0f} s"
            for node in nodes:
                node.changed()
            while (report := self.report()) is not None:
                found[report.node] = report
        return found

    def link(self, node: str, peer: str, meanwhile: Callable[[], None] = lambda: None) -> LinkReport:
        """The next report of a node that tells of a link from `peer`, with something that crossed it."""
        deadline_s = time.monotonic() + LIMIT_S
        while time.monotonic() < deadline_s:
            meanwhile()
            report = self.report()
            for link in () if report is None or report.node != node else report.links:
                if link.peer == peer and link.crossings:
                    return link
        raise AssertionError(f"no report of {peer} > {node} in {LIMIT_S:.0f} s")


@contextlib.contextmanager
def _listener() -> Iterator[tuple[Listener, SocketFactory]]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    factory = SocketFactory(context)
    listener = Listener(factory)
    try:
        with listener.reports, listener.plans:
            yield listener, factory
    finally:
        context.term()  # and not `destroy`, which would close the sockets of the factory's own thread under its hands


@contextlib.contextmanager
def _started(node: Node) -> Iterator[str]:
    endpoints = node.start()
    try:
        yield endpoints.frames or endpoints.tiles
    finally:
        node.stop()


def _cross(outbox: zmq.Socket[bytes], seconds: float) -> None:
    """A message whose last byte comes in `seconds` after its first."""
    outbox.send_multipart(wire.encode(Message(Head("sender", BYTES))))
    threading.Event().wait(seconds)
    outbox.send_multipart(wire.encode(Message(Probe("sender"), [bytes(BYTES)])))


def test_a_link_that_steps_is_reported_before_the_next_heartbeat(model: LoadedModel) -> None:
    with _listener() as (listener, factory):
        cloud = CloudNode(NodeSettings("cloud-1", listener.address, report_interval_s=HEARTBEAT_S), model)
        with _started(cloud) as inbox:
            listener.registered(cloud)
            with factory.push(inbox) as outbox:
                _cross(outbox, FAST_S)
                first = listener.link("cloud-1", "sender")
                for _ in range(8):
                    _cross(outbox, FAST_S)
                assert first.crossings[0].busy_s < SLOW_S / 2
                for _ in range(4):
                    _cross(outbox, SLOW_S)
            while listener.link("cloud-1", "sender").crossings[-1].busy_s < SLOW_S / 2:
                pass


@pytest.mark.parametrize(("source", "target"), [("edge-1", "tile-1"), ("tile-1", "edge-1")])
def test_the_links_of_idle_tile_workers_are_measured(model: LoadedModel, source: str, target: str) -> None:
    with _listener() as (listener, _):
        kinds = {"edge-1": EdgeNode, "tile-1": TileNode}
        with contextlib.ExitStack() as stack:
            nodes = []
            for name, kind in kinds.items():
                nodes.append(kind(NodeSettings(name, listener.address, report_interval_s=HEARTBEAT_S), model))
                stack.enter_context(_started(nodes[-1]))
            endpoint = listener.registered(*nodes)[target].endpoints.tiles
            sequence = itertools.count()

            def order() -> None:
                wanted = ProbeOrder("test", next(sequence), source, target, endpoint, BYTES, tiles=True)
                listener.plans.send_multipart([topic(source), encode(wanted)])

            link = listener.link(target, source, order)
    assert link.bytes_total % BYTES == 0


def test_made_up_names_push_out_no_link_and_the_fullest_report_is_taken() -> None:
    meters = [LinkMeter(lambda name: name.startswith("device")) for _ in range(2)]
    for meter in meters:
        for peer in [f"device-{number}" for number in range(MAX_PEERS)] + [f"made-up-{n}" for n in range(1000)]:
            for number in range(MAX_CROSSINGS + 1):
                begin_s = float(number)
                meter.saw(Message(Head(peer, BYTES)), begin_s)
                meter.saw(Message(Probe(peer), [bytes(BYTES)]), begin_s + 0.5)
    stages = StageMeter()
    for number in range(2 * MAX_STAGES):
        stages.add(f"camera-{number}", 1, Hop("edge-1", compute_s=0.1, packed_bytes=1000), float(number))
    links = tuple(link for meter in meters for link in meter.reports())
    assert sum(link.peer.startswith("device") for link in links) == 2 * MAX_PEERS
    assert sum(link.peer.startswith("made-up") for link in links) == 2 * MAX_STRANGERS
    report = Report("edge-1", Tier.EDGE, "a", 1, 0.0, links=links, stages=stages.reports())
    assert decode_report(encode(report)) == report


def test_a_peer_that_a_plan_names_later_keeps_its_figures() -> None:
    known = set[str]()
    meter = LinkMeter(known.__contains__)
    meter.saw(Message(Head("device-1", BYTES)), 0.0)
    known.add("device-1")
    meter.saw(Message(Probe("device-1"), [bytes(BYTES)]), 1.0)
    (link,) = meter.reports()
    assert [crossing.busy_s for crossing in link.crossings] == [pytest.approx(1.0)]
