"""A planner small enough to reason about, and nodes that follow docs/live-loop.md, in simulated time."""

from __future__ import annotations

import functools
import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import msgspec

from pipeline.errors import PlanError
from pipeline.model.graph import OUTPUT
from pipeline.plan import Link, Plan, Stage, Tier, device_only
from scheduler.commands import Announcement, ProbeOrder, Refusal
from scheduler.core import CoreConfig, SchedulerCore
from scheduler.events import (
    Event,
    Instruction,
    LogDecision,
    Publish,
    ReportReceived,
    StreamSettings,
    Tick,
    decode_command,
    decode_report,
    encode,
)
from scheduler.problem import Cost, LinkCost, StageCost, WayHome
from scheduler.reports import Crossing, Endpoints, Figure, LinkReport, Readiness, Report, StageReport, StreamReport
from scheduler.world import Advice, World

MODEL = "cafe" * 16
FRAME_BYTES = 50_000
DEVICE_S = 0.2
EDGE_S = 0.02


def cost(period_s: float, latency_s: float | None = None, sent: float = 0.0) -> Cost:
    """A cost of which only time and bytes matter."""
    latency = period_s if latency_s is None else latency_s
    return Cost(latency, period_s, sent, 0.0, 0.0, 0.0, 0.0, None, (), (), WayHome(), "device compute")


def plan_of(stream: str, device: str, *helpers: tuple[Tier, str], epoch: int = 0, codec: str = "fp32") -> Plan:
    """Device, then helpers, each up to a cut of its own."""
    tiers = [(Tier.DEVICE, device), *helpers]
    cuts = [f"cut{number}" for number in range(len(tiers) - 1)] + [OUTPUT]
    stages = tuple(Stage(tier, node, until) for (tier, node), until in zip(tiers, cuts, strict=True))
    return Plan(epoch, stream, MODEL, stages, tuple(Link(codec) for _ in helpers))


class ToyAdvisor:
    """Everything on the device, or all but the picture on one other node: whichever has the shorter period."""

    def __init__(self) -> None:
        self.asked = 0
        self.broken = False

    def advise(self, world: World) -> Advice:
        self.asked += 1
        if self.broken:
            raise PlanError("planner", "it is broken")
        plans = [device_only(world.stream, world.device, world.model, 0)]
        plans.extend(
            plan_of(world.stream, world.device, (each.tier, each.name))
            for each in world.candidates[1:]
            if each.tier is not None and (world.device, each.name) in world.links
        )
        best = min(plans, key=lambda plan: (self.cost(plan, world).period_s, plan.nodes))
        usable = set(world.current.nodes) <= {candidate.name for candidate in world.candidates}
        return Advice(best, self.cost(best, world), self.cost(world.current, world) if usable else None)

    def cost(self, plan: Plan, world: World) -> Cost:
        if len(plan.nodes) == 1:
            return cost(DEVICE_S * world.loads[world.device].slowdown)
        route = (world.device, plan.nodes[1])
        transfer = FRAME_BYTES * 8.0 / world.links[route].goodput_bps if route in world.links else 1e3
        compute = EDGE_S * world.loads[plan.nodes[1]].slowdown
        found = cost(max(transfer, compute), transfer + compute, FRAME_BYTES)
        tier, node = plan.stages[1].tier, plan.nodes[1]
        link = LinkCost(Tier.DEVICE, Tier.EDGE, "fp32", FRAME_BYTES, transfer, 0.0)
        return replace(found, stages=(StageCost(tier, node, OUTPUT, 0.0, compute, 0.0),), links=(link,))

    def stage_s(self, plan: Plan, node: str) -> float | None:
        if len(plan.nodes) == 1:
            return DEVICE_S
        return EDGE_S if node != plan.stages[0].node else 0.0


@dataclass
class ToyNode:
    """A node that builds what it is told to, and says so. See "What a node does" in docs/live-loop.md."""

    name: str
    tier: Tier | None
    rng: random.Random
    model: str = MODEL
    build_s: float = 0.3
    goodput_bps: dict[str, float] = field(default_factory=dict)
    """Of incoming links, by peer; probes and frames are timed by it."""
    refuses: bool = False
    slowdown: float = 1.0
    incarnation: str = ""
    sequence: int = 0
    alive: bool = True
    scheduler: str = ""
    heard: int = -1
    plans: dict[str, dict[int, tuple[Plan, float]]] = field(default_factory=dict)
    """By stream and epoch: the plan and when it is ready."""
    newest: dict[str, int] = field(default_factory=dict)
    """Sequence of the newest announcement, by stream."""
    crossings: dict[str, list[tuple[float, Crossing]]] = field(default_factory=dict)
    refusal: str = ""
    orders: list[ProbeOrder] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """A new process."""
        self.incarnation = f"{self.rng.getrandbits(64):x}"
        self.sequence, self.scheduler, self.heard = 0, "", -1
        self.plans, self.crossings, self.newest, self.alive = {}, {}, {}, True

    def hear(self, message: object, now: float) -> None:
        if isinstance(message, Refusal) and message.incarnation == self.incarnation:
            self.refusal = message.reason
        if isinstance(message, ProbeOrder):
            self.orders.append(message)
        if isinstance(message, Announcement) and self._is_news(message):
            self.follow(message, now)

    def _is_news(self, message: Announcement) -> bool:
        """Per stream in a real node; here every toy node hears of few streams and keeps one number for each."""
        return message.scheduler != self.scheduler or message.sequence > self.newest.get(message.stream, -1)

    def follow(self, message: Announcement, now: float) -> None:
        if message.scheduler != self.scheduler:
            self.newest.clear()
            self.scheduler, self.heard = message.scheduler, -1
        self.newest[message.stream] = message.sequence
        self.heard = max(self.heard, message.sequence)
        mine = self.plans.setdefault(message.stream, {})
        for plan in message.plans:
            known = mine.get(plan.epoch)
            if self.name in plan.nodes and (known is None or known[0] != plan):
                mine[plan.epoch] = (plan, now + self.build_s)
        for epoch in [epoch for epoch in mine if epoch < message.oldest]:
            del mine[epoch]

    def runs(self, plan: Plan, now: float) -> bool:
        """Whether a frame of this plan is computed here, and by this very plan."""
        known = self.plans.get(plan.stream, {}).get(plan.epoch)
        return self.alive and known is not None and known[0] == plan and known[1] <= now

    def report(self, now: float) -> Report:
        self.sequence += 1
        return Report(
            self.name, self.tier, self.incarnation, self.sequence, now, self.model,
            endpoints=Endpoints(f"tcp://{self.name}:1"),
            stages=self.stages(now),
            links=self._links(now),
            epochs=tuple(self._readiness(stream, now) for stream in self.plans),
            streams=self.streams(now),
            scheduler=self.scheduler, heard=self.heard,
        )  # fmt: skip

    def stages(self, now: float) -> tuple[StageReport, ...]:
        return ()

    def streams(self, now: float) -> tuple[StreamReport, ...]:
        return ()

    def _links(self, now: float) -> tuple[LinkReport, ...]:
        taken, self.crossings = self.crossings, {}
        return tuple(
            LinkReport(
                peer,
                tuple(msgspec.structs.replace(each, age_s=max(0.0, now - at)) for at, each in found[-16:]),
                rtt_s=0.01,
            )
            for peer, found in taken.items()
        )

    def _readiness(self, stream: str, now: float) -> Readiness:
        known = self.plans[stream]
        if self.refuses:
            return Readiness(stream, refused={str(epoch): "no memory left" for epoch in known})
        ready = tuple(sorted(epoch for epoch, (_, at) in known.items() if at <= now))
        return Readiness(stream, ready, tuple(sorted(set(known) - set(ready))))

    def carry(self, peer: str, size: int, now: float) -> None:
        """Bytes from `peer` came in."""
        bps = self.goodput_bps.get(peer, 0.0)
        if bps > 0.0:
            busy = size * 8.0 / bps * self.rng.lognormvariate(0.0, 0.1)
            self.crossings.setdefault(peer, []).append((now, Crossing(size, busy, 0.0)))


@dataclass
class ToyDevice(ToyNode):
    """A device with one stream of a fixed frame rate."""

    stream: str = "cam"
    fps: float = 5.0
    epoch: int = 0
    left: int = 0
    """The highest epoch that it has left: a commit must be above."""
    highest: int = 0
    current: Plan | None = None
    number: int = 0
    in_flight: dict[int, Plan] = field(default_factory=dict)
    """Frames that no node could compute: they wait until the device admits them again."""
    results: dict[int, Plan] = field(default_factory=dict)
    stamped: list[tuple[float, Plan]] = field(default_factory=list)
    fallback: str = ""

    def restart(self) -> None:
        super().restart()
        self.epoch = self.highest = self.left = 0
        self.current, self.in_flight, self.fallback = None, {}, ""

    @property
    def plan(self) -> Plan:
        return self.current or device_only(self.stream, self.name, self.model, 0)

    def follow(self, message: Announcement, now: float) -> None:
        super().follow(message, now)
        self.highest = max(self.highest, *(plan.epoch for plan in message.plans))
        for node, epoch in message.lost.items():
            for number, plan in list(self.in_flight.items()):
                if plan.epoch <= epoch and node in plan.nodes:
                    self.results[number] = device_only(self.stream, self.name, self.model, 0)
                    del self.in_flight[number]

    def fall_back(self, reason: str) -> None:
        """Go on alone, without asking anyone."""
        self.left = max(self.left, self.epoch)
        self.epoch, self.current, self.fallback = 0, None, reason

    def consider(self, message: Announcement, now: float) -> None:
        """Stamp frames with the committed plan once it can run here."""
        plan = message.committed
        can = len(plan.nodes) == 1 or self.runs(plan, now)
        if plan.epoch == message.commit and plan.epoch > max(self.epoch, self.left) and can:
            self.left = max(self.left, self.epoch)
            self.epoch, self.current, self.fallback = plan.epoch, plan, ""

    def streams(self, now: float) -> tuple[StreamReport, ...]:
        epochs = {plan.epoch for plan in self.in_flight.values()}
        return (
            StreamReport(
                self.stream, self.epoch, self.highest, self.current,
                in_flight_epochs=tuple(sorted(epochs)), source_fps=0.0,
                fps=Figure(self.fps, self.fps, self.fps), latency_s=Figure(0.1, 0.1, 0.1), fallback=self.fallback,
                used=max(self.left, self.epoch),
            ),
        )  # fmt: skip


class ToyCluster:
    """Scheduler core and toy nodes on one event queue; every message may be lost, late or doubled."""

    def __init__(self, seed: int = 0, *, loss: float = 0.0, delay_s: float = 0.002, twice: float = 0.0) -> None:
        self.rng = random.Random(seed)
        self.loss, self.delay_s, self.twice = loss, delay_s, twice
        self.now = 0.0
        self.nodes: dict[str, ToyNode] = {}
        self.advisor = ToyAdvisor()
        self.settings = StreamSettings()
        self.events: list[tuple[float, Event]] = []
        self.log: list[LogDecision] = []
        self.instructions: list[list[Instruction]] = []
        self.newest: dict[str, Announcement] = {}
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()
        self._starts = 0
        self.core: SchedulerCore | None = None
        self.start_scheduler()
        self.every(0.25, self._tick)

    def start_scheduler(self) -> None:
        self._starts += 1
        self.core = SchedulerCore(self.advisor, CoreConfig(f"scheduler{self._starts}", settings=self.settings))

    def add(self, node: ToyNode) -> ToyNode:
        self.nodes[node.name] = node
        self.every(1.0, lambda: self.report(node), first_s=self.rng.uniform(0.0, 1.0))
        if isinstance(node, ToyDevice):
            self.every(1.0 / node.fps, lambda: self._frame(node))
        return node

    def at(self, when: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (when, next(self._count), action))

    def every(self, interval_s: float, action: Callable[[], None], first_s: float = 0.0) -> None:
        def again() -> None:
            action()
            self.at(self.now + interval_s, again)

        self.at(self.now + first_s, again)

    def run(self, seconds: float) -> None:
        until = self.now + seconds
        while self._queue and self._queue[0][0] <= until:
            self.now, _, action = heapq.heappop(self._queue)
            action()
        self.now = until

    def report(self, node: ToyNode) -> None:
        if node.alive:
            data = encode(node.report(self.now))
            self._send(lambda: self._handle(ReportReceived(decode_report(data))))

    def decisions(self, *kinds: str) -> list[str]:
        return [each.record.kind for each in self.log if not kinds or each.record.kind in kinds]

    def _tick(self) -> None:
        self._handle(Tick())

    def _handle(self, event: Event) -> None:
        if self.core is None:
            return
        self.events.append((self.now, event))
        found = self.core.handle(event, self.now)
        self.instructions.append(found)
        for each in found:
            if isinstance(each, LogDecision):
                self.log.append(each)
            else:
                self._carry_out(each)

    def _carry_out(self, publish: Publish) -> None:
        data = encode(publish.message)
        for name in publish.to:
            node = self.nodes.get(name)
            if node is not None:
                self._send(functools.partial(self._deliver, node, data))

    def _deliver(self, node: ToyNode, data: bytes) -> None:
        if not node.alive:
            return
        message = decode_command(data)
        node.hear(message, self.now)
        if isinstance(message, ProbeOrder):
            target = self.nodes.get(message.target)
            if target is not None and target.alive:
                self._send(lambda: target.carry(node.name, message.payload_bytes, self.now))
        if isinstance(node, ToyDevice) and isinstance(message, Announcement):
            self.newest[node.name] = message

    def _frame(self, device: ToyDevice) -> None:
        if not device.alive:
            return
        newest = self.newest.get(device.name)
        if newest is not None and newest.scheduler == device.scheduler:
            device.consider(newest, self.now)
        device.number += 1
        plan = device.plan
        device.stamped.append((self.now, plan))
        hops = [self.nodes[name] for name in plan.nodes[1:]]
        if not all(node.runs(plan, self.now) for node in hops):
            device.in_flight[device.number] = plan
            return
        device.results[device.number] = plan
        for sender, node in zip(plan.nodes, hops, strict=False):
            node.carry(sender, FRAME_BYTES, self.now)

    def _send(self, action: Callable[[], None]) -> None:
        for _ in range(2 if self.rng.random() < self.twice else 1):
            if self.rng.random() >= self.loss:
                self.at(self.now + self.rng.expovariate(1.0 / self.delay_s), action)
