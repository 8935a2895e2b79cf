"""A thousand nodes that report each second, over a socket each, to one scheduler that plans with the joint planner.

The scheduler is the real process. The nodes are played by this one: devices with a stream each, the edges and clouds
that serve them, and idle tile workers. They build at once what they are told to. After a while the link of one stream
falls to a hundredth, and the time until the scheduler announces another plan for that stream is taken.
"""

from __future__ import annotations

import random
import resource
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import psutil
import torch
import zmq

from nodes.bench.report import Bar, BenchReport, Cell
from nodes.launch import Child, Family
from nodes.machine import machine_profile
from nodes.sockets import SocketFactory
from pipeline.model.spec import load_model
from pipeline.plan import Plan, Tier
from scheduler.catalogue import slowed
from scheduler.commands import Announcement
from scheduler.events import decode_command, encode, topic
from scheduler.reports import Crossing, Endpoints, Figure, LinkReport, Load, Readiness, Report, StreamReport

DEVICES = 300
SERVERS = 6
"""Edges, and as many clouds; each sees the links of its share of the devices."""

NODES = 1000
SECONDS = 40
SETTLE_S = 60.0
"""Nodes join and every stream is planned for the first time; the processor's time is taken from here on."""

GOODPUT_BPS = 40e6
DEVICE_SPEED = 0.05
MAX_SHARE = 0.20
MAX_REPLAN_S = 1.0
MAX_GROWTH = 0.10
"""By which resident memory may grow from half way to the end."""


@dataclass
class Played:
    """One node."""

    name: str
    tier: Tier | None
    socket: zmq.Socket[bytes]
    peers: list[str] = field(default_factory=list)
    """Nodes whose bytes come in here."""
    goodput: dict[str, float] = field(default_factory=dict)
    """By peer, relative to the common one."""
    sequence: int = 0
    scheduler: str = ""
    heard: int = -1
    plans: dict[str, dict[int, Plan]] = field(default_factory=dict)
    """By stream and epoch."""
    epoch: int = 0

    def report(self, model: str, rng: random.Random) -> None:
        """Send one."""
        self.sequence += 1
        crossings = {peer: self._crossing(peer, rng) for peer in self.peers}
        stream = self.name if self.tier is Tier.DEVICE else ""
        streams = (self._stream(),) if stream else ()
        report = Report(
            self.name, self.tier, f"i-{self.name}", self.sequence, time.monotonic(), model=model,
            endpoints=Endpoints(frames="tcp://127.0.0.1:1"), load=Load(4, 1.0, 0.3, 1 << 28, 1 << 32),
            links=tuple(LinkReport(peer, (each,), 0.01) for peer, each in crossings.items()),
            epochs=tuple(Readiness(name, tuple(sorted(found))) for name, found in self.plans.items()),
            streams=streams, scheduler=self.scheduler, heard=self.heard,
        )  # fmt: skip
        self.socket.send_multipart([topic(self.name), encode(report)])

    def hear(self, message: Announcement) -> None:
        """Build what is announced, at once; a device follows the commit."""
        self.scheduler, self.heard = message.scheduler, message.sequence
        self.plans[message.stream] = {plan.epoch: plan for plan in message.plans if plan.epoch}
        if message.stream == self.name:
            self.epoch = max(self.epoch, message.commit)

    def _crossing(self, peer: str, rng: random.Random) -> Crossing:
        goodput_bps = GOODPUT_BPS * self.goodput.get(peer, 1.0) * rng.uniform(0.99, 1.01)
        return Crossing(50_000, 50_000 * 8.0 / goodput_bps, 0.05, 1)

    def _stream(self) -> StreamReport:
        plan = self.plans.get(self.name, {}).get(self.epoch)
        steady = Figure(10.0, 10.0, 10.0)
        return StreamReport(
            self.name, self.epoch, self.epoch, plan, source_fps=30.0, fps=steady, in_flight_epochs=(self.epoch,),
            used=self.epoch,
        )  # fmt: skip


@dataclass
class Outcome:
    """What was measured."""

    share: float = 0.0
    replan_s: float = float("inf")
    half_bytes: int = 0
    end_bytes: int = 0
    reports: int = 0
    planned: int = 0
    lag_s: float = 0.0


def run(nodes: int = NODES, devices: int = DEVICES, seconds: float = SECONDS) -> BenchReport:
    """Play, measure, judge."""
    torch.set_num_threads(1)
    model = load_model("builtin")
    _allow_sockets()
    with tempfile.TemporaryDirectory() as folder, Family(Path(folder) / "logs") as family:
        scheduler = family.start("scheduler", _arguments(Path(folder), model.captured, devices))
        family.wait_ready(scheduler, 120.0)
        found = _play(scheduler, model.captured.graph.fingerprint, nodes, devices, seconds)
    row: dict[str, Cell] = {
        "nodes": nodes, "streams": devices, "reports": found.reports, "streams off the device": found.planned,
        "share of a core": round(found.share, 3), "re-plan s": round(found.replan_s, 3),
        "memory half way MB": found.half_bytes >> 20, "at the end MB": found.end_bytes >> 20,
        "reports late by s": round(found.lag_s, 3),
    }  # fmt: skip
    bars = [
        Bar("share of a core", found.share, MAX_SHARE, "max"),
        Bar("re-plan s", found.replan_s, MAX_REPLAN_S, "max"),
        Bar("growth of memory", found.end_bytes / max(1, found.half_bytes) - 1.0, MAX_GROWTH, "max"),
    ]
    return BenchReport("scale", [row], bars)


def _arguments(folder: Path, captured, devices: int) -> list[str]:  # type: ignore[no-untyped-def]
    graph, fast, slow = folder / "model.json", folder / "fast.json", folder / "slow.json"
    graph.write_bytes(msgspec.json.encode(captured.graph))
    profile = machine_profile(captured)
    profile.save(fast)
    slowed(profile, "*", DEVICE_SPEED).save(slow)
    arguments = ["scheduler", "--reports", "tcp://127.0.0.1:*", "--plans", "tcp://127.0.0.1:*", "--graph", str(graph)]
    arguments += ["--planner", "joint", "--profile", f"*={fast}"]
    for number in range(devices):
        arguments += ["--profile", f"device-{number}={slow}"]
    return arguments


def _allow_sockets() -> None:
    """As many open files as this user may have: each socket needs some."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _play(scheduler: Child, model: str, nodes: int, devices: int, seconds: float) -> Outcome:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    context.set(zmq.MAX_SOCKETS, nodes + 16)
    factory = SocketFactory(context, watched=False)
    played = _nodes(factory, scheduler.endpoints["reports"], nodes, devices)
    plans, _ = factory.subscriber(scheduler.endpoints["plans"], bind=False, topics=tuple(map(topic, played)))
    try:
        return _Game(psutil.Process(scheduler.process.pid), plans, played, model).run(seconds)
    finally:
        context.destroy(linger=0)


def _nodes(factory: SocketFactory, reports: str, nodes: int, devices: int) -> dict[str, Played]:
    names: list[tuple[str, Tier | None]] = [(f"device-{number}", Tier.DEVICE) for number in range(devices)]
    names += [(f"edge-{number}", Tier.EDGE) for number in range(SERVERS)]
    names += [(f"cloud-{number}", Tier.CLOUD) for number in range(SERVERS)]
    names += [(f"tile-{number}", None) for number in range(nodes - len(names))]
    found = {name: Played(name, tier, factory.publisher(reports, bind=False)[0]) for name, tier in names}
    for number in range(devices):
        found[f"edge-{number % SERVERS}"].peers.append(f"device-{number}")
        found[f"cloud-{number % SERVERS}"].peers.append(f"device-{number}")
    for number in range(SERVERS):
        found[f"cloud-{number}"].peers.append(f"edge-{number}")
    return found


class _Game:
    """One second after the other: every node reports once in each, spread evenly."""

    def __init__(self, process: psutil.Process, plans: zmq.Socket[bytes], nodes: dict[str, Played], model: str) -> None:
        self.process, self.plans, self.nodes, self.model = process, plans, nodes, model
        self.rng = random.Random(0)
        self.found = Outcome()
        self.watched = ""
        self.fell_s = float("inf")

    def run(self, seconds: float) -> Outcome:
        """Play for the settling time, and then for `seconds`."""
        self._until(time.monotonic() + SETTLE_S)
        began_s, spent_s = time.monotonic(), self._spent_s()
        self._until(began_s + seconds / 2)
        self.found.half_bytes = self.process.memory_info().rss
        self._fall()
        self._until(began_s + seconds)
        self.found.share = (self._spent_s() - spent_s) / (time.monotonic() - began_s)
        self.found.end_bytes = self.process.memory_info().rss
        return self.found

    def _spent_s(self) -> float:
        times = self.process.cpu_times()
        return float(times.user + times.system)

    def _until(self, end_s: float) -> None:
        order = list(self.nodes.values())
        gap_s = 1.0 / len(order)
        turn, due_s = 0, time.monotonic()
        while time.monotonic() < end_s:
            while due_s <= time.monotonic():
                self.found.lag_s = max(self.found.lag_s, time.monotonic() - due_s)
                order[turn % len(order)].report(self.model, self.rng)
                self.found.reports += 1
                turn, due_s = turn + 1, due_s + gap_s
            if self.plans.poll(1):
                self._listen()

    def _listen(self) -> None:
        for _ in range(64):
            if not self.plans.poll(0):
                return
            name, data = self.plans.recv_multipart()
            node = self.nodes.get(name[:-1].decode())
            if node is None:
                continue
            command = decode_command(data)
            if isinstance(command, Announcement):
                self._time(command)
                before = node.plans.get(command.stream, {}).keys()
                node.hear(command)
                if node.plans[command.stream].keys() - before:
                    node.report(self.model, self.rng)

    def _time(self, command: Announcement) -> None:
        late = command.stream == self.watched and command.prepared is not None
        if late and self.found.replan_s == float("inf"):
            self.found.replan_s = time.monotonic() - self.fell_s

    def _fall(self) -> None:
        """The link of a stream that uses it falls; its receiver says so at once, as often as a node may."""
        running = {
            node.name: plan.nodes[1]
            for node in self.nodes.values()
            if (plan := node.plans.get(node.name, {}).get(node.epoch)) is not None and len(plan.nodes) > 1
        }
        self.found.planned = len(running)
        self.watched = min(running)
        receiver = self.nodes[running[self.watched]]
        for server in self.nodes.values():
            if self.watched in server.peers:
                server.goodput[self.watched] = 0.01
        self.fell_s = time.monotonic()
        for _ in range(3):
            receiver.report(self.model, self.rng)
            self._until(time.monotonic() + 0.1)
