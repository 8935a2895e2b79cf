"""What every node of the stream is made of: an inbox, programs by epoch, the stage loop, and the control side."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
import zmq

from nodes.agent import REPORT_INTERVAL_S, Agent, Identity, SchedulerAddress
from nodes.batches import Batches
from nodes.emulation import EmulatedSpeed
from nodes.epochs import EpochStore
from nodes.keys import Keyring
from nodes.links import LinkMeter, answer
from nodes.outlet import Directory, Outlet
from nodes.sockets import FRAMES_HWM, TILES_HWM, SocketFactory
from nodes.stage import Deliver, StageLoop
from nodes.telemetry import LoadMeter
from pipeline.frames.wire import MAX_PROBE_BYTES, Message, Ping, Pong, Probe
from pipeline.model import memory
from pipeline.model.graph import Cut
from pipeline.model.layouts import Layout
from pipeline.model.segment import Segment
from pipeline.model.spec import LoadedModel
from pipeline.plan import Plan, Tier
from pipeline.stage import Compute, SegmentCache, StageProgram, prepare
from scheduler.commands import Announcement, Command, ProbeOrder
from scheduler.profile import load as load_profile
from scheduler.reports import Endpoints, QueueReport, Report
from scheduler.tables import SegmentTimes

logger = logging.getLogger(__name__)

ANY_PORT = "tcp://127.0.0.1:*"


@dataclass(frozen=True)
class NodeSettings:
    """What a node is started with, whatever its tier."""

    name: str
    scheduler: SchedulerAddress | None = None
    listen: str = ANY_PORT
    """Where the node's inbox is bound; `*` picks a free port."""
    advertise: str = ""
    """How peers reach the inbox, where that is not where it is bound (a shaped link, a forwarded port)."""
    peers: Mapping[str, Endpoints] = field(default_factory=dict)
    """Addresses that go before the ones that the peers announce."""
    torch_device: str = "cpu"
    layout: Layout | None = None
    """How segments run; None for the fastest, which may differ from node to node, and so may the last bits."""
    emulate_speed: float = 1.0
    """Fraction of this machine's speed that the node pretends to have."""
    emulate_profile: Path | None = None
    """Profile of the machine that the node pretends to be; untiled segments take the time that it says."""
    insecure: bool = False
    batches: Batches = Batches.EXACT
    """Which frames that wait an edge or cloud node computes together."""
    keys: Keyring | None = None
    """This node's keys; None for none, and then for loopback alone unless `insecure`."""
    report_interval_s: float = REPORT_INTERVAL_S


class Node:
    """A node with one stage of any plan that names it; the base of device, edge and cloud."""

    tier: Tier | None
    """None for a tile worker."""

    def __init__(
        self, settings: NodeSettings, model: LoadedModel, tier: Tier | None, deliver: Deliver | None = None
    ) -> None:
        self._emulated = _emulated_times(settings, model)
        self.settings = settings
        self.model = model
        self.tier = tier
        self.fingerprint = model.captured.graph.fingerprint
        self.directory = Directory(settings.peers)
        self.factory = SocketFactory(zmq.Context(), settings.insecure, settings.keys)
        self._segments = SegmentCache(model.captured, settings.torch_device, settings.layout)
        self.epochs = EpochStore(self._prepare, on_change=self.built)
        outlet = Outlet(settings.name, self.factory, self.directory, TILES_HWM if tier is None else FRAMES_HWM)
        batches = settings.batches if tier in (Tier.EDGE, Tier.CLOUD) else Batches.OFF
        self.loop = StageLoop(settings.name, self.fingerprint, self.epochs, outlet, deliver, batches)
        self.speed = EmulatedSpeed(settings.emulate_speed)
        self.stopping = threading.Event()
        self.agent: Agent | None = None
        self._trimmer = memory.Trimmer()
        self._load = LoadMeter(alone=settings.emulate_speed < 1.0 or self._emulated is not None)

    @property
    def name(self) -> str:
        """The node's name, as in plans and reports."""
        return self.settings.name

    def build(self, plan: Plan) -> StageProgram | None:
        """This node's stage of `plan`, built and warm; None where the plan gives it none."""
        if self.name not in plan.nodes:
            return None
        settings = self.settings
        hop = plan.hop_of(self.name)
        program = prepare(self.model.captured, plan, hop, settings.torch_device, settings.layout, self._segments)
        return replace(program, compute=self._at_speed(program.compute, program.start, program.end))

    def _prepare(self, plan: Plan) -> StageProgram | None:
        """Build this node's stage, and connect to where its frames will go."""
        program = self.build(plan)
        if program is not None:
            self.loop.open(program)
        return program

    def pieces(self, most: int) -> tuple[Compute, ...]:
        """The whole network in pieces of about equal arithmetic, one behind the other."""
        captured, settings = self.model.captured, self.settings
        segments = (
            Segment(captured, start, end, torch_device=settings.torch_device, layout=settings.layout)
            for start, end in itertools.pairwise(captured.graph.pieces(most))
        )
        return tuple(self._at_speed(each.run, each.start, each.end) for each in segments)

    def _at_speed(self, compute: Compute, start: Cut, end: Cut) -> Compute:
        times = self._emulated
        return self.speed.around(compute, None if times is None else times.seconds(start.index, end.index))

    def start(self) -> Endpoints:
        """Bind the inbox and start the threads; returns where peers reach this node."""
        inbox, endpoint = self.factory.pull(self.settings.listen)
        endpoints = Endpoints(frames=self.settings.advertise or endpoint)
        self.loop.start(inbox)
        self.report_as(endpoints)
        return endpoints

    def report_as(self, endpoints: Endpoints) -> None:
        """Start the control side, where there is a scheduler."""
        if self.settings.scheduler is None:
            return
        identity = Identity(self.name, self.tier, self.fingerprint, endpoints)
        self.agent = Agent(identity, self.enrich, self.hear, self.settings.report_interval_s, self.jumped)
        self.agent.start(self.factory, self.settings.scheduler)

    def wait(self) -> None:
        """Return once `stopping` is set."""
        self.stopping.wait()

    def stop(self) -> None:
        """Stop all threads and close all sockets."""
        self.stopping.set()
        self.close()
        self.loop.stop()
        self.epochs.close()
        if self.agent is not None:
            self.agent.stop()
        self.factory.context.term()

    def close(self) -> None:
        """Stop what a kind of node has besides; called once, before all else stops."""

    def hear(self, command: Command) -> None:
        """Take the scheduler's word."""
        if isinstance(command, Announcement):
            self.directory.learn(command.stream, command.current.stages[0].node, command.peers)
            self.epochs.keep(command.stream, [plan for plan in command.plans if self.is_named(plan)], command.oldest)
        elif isinstance(command, ProbeOrder) and command.source == self.name:
            found = Endpoints(tiles=command.endpoint) if command.tiles else Endpoints(frames=command.endpoint)
            self.directory.learn_peer(command.target, found)
            payload = bytes(min(command.payload_bytes, MAX_PROBE_BYTES))
            self.probe(command.target, Message(Probe(self.name), [payload]))

    def probe(self, target: str, message: Message) -> None:
        """Send bytes only to measure the link."""
        self.loop.measure(target, message)

    def is_named(self, plan: Plan) -> bool:
        """Whether this node has anything to do in `plan`."""
        return self.name in plan.nodes

    def built(self) -> None:
        """A plan is ready, or refused: report at once."""
        self.changed()

    def changed(self) -> None:
        """Something jumped: report at once."""
        if self.agent is not None:
            self.agent.hurry()

    @property
    def meters(self) -> tuple[LinkMeter, ...]:
        """What this node's receivers see of the links that lead here."""
        return (self.loop.links,)

    def jumped(self) -> bool:
        """Whether a link has changed so much that the scheduler should hear of it at once."""
        return any(meter.jumped() for meter in self.meters)

    def enrich(self, report: Report) -> Report:
        """Add to a bare report all that this node knows."""
        self._trimmer.look(time.monotonic())
        self.ping_peers()
        return msgspec.structs.replace(
            report,
            load=self._load.sample(),
            queues=self.queues(),
            stages=self.loop.meter.reports(),
            links=tuple(link for meter in self.meters for link in meter.reports()),
            epochs=self.epochs.readiness(),
        )

    def ping_peers(self) -> None:
        """Ask every node that sends here for an echo."""
        self.loop.ping_peers()

    def echo(self, ping: Ping, received_s: float) -> Pong:
        """The answer to a ping."""
        return answer(self.name, ping, received_s)

    def queues(self) -> tuple[QueueReport, ...]:
        """Depth, bound and drops of every queue in this node."""
        drops = dict(self.loop.links.refused)
        return tuple(
            QueueReport(name, len(handoff), handoff.bound, drops if name == "arrived" else {})
            for name, handoff in self.loop.handoffs.items()
        )


def _emulated_times(settings: NodeSettings, model: LoadedModel) -> SegmentTimes | None:
    """What segments take on the machine that the node pretends to be; None where it is this one, or a share of it."""
    if settings.emulate_profile is None:
        return None
    graph = model.captured.graph
    return load_profile(settings.emulate_profile, graph).bind(graph)
