"""The control side of a simulated node: reports, epochs built beside the frames, and the scheduler's word."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable

from pipeline.errors import AnabranchError
from pipeline.plan import MAX_SEGMENTS, Plan
from scheduler.commands import Announcement, Command, ProbeOrder
from scheduler.reports import Endpoints, Load, Readiness, Report
from scheduler.simulate.agenda import Agenda
from scheduler.simulate.device import SimulatedDevice
from scheduler.simulate.links import SimulatedLink
from scheduler.simulate.node import SimulatedNode
from scheduler.simulate.peers import Peers
from scheduler.simulate.routes import Routes

INTERVAL_S = 1.0
"""The live nodes' heartbeat."""

LOOP_S = 0.003
"""By which a live node's interval is longer than that, so that nodes and frames keep no step."""

URGENT_S = 0.02
"""As in the live agent: how soon a jump is reported."""

LOOK_S = 0.1
"""How often links are looked at on which nothing comes in; the live agent does so every 20 ms, but is told of no jump
within 0.1 s of a report."""

CONTROL_S = 0.005
"""One way between a node and the scheduler."""

WARM_FRAMES = 3
"""A new segment is run so often before it counts as ready."""


class Epochs:
    """The segments that a node has built, one after the other in a thread of their own."""

    def __init__(self, node: str, agenda: Agenda, routes: Routes, build_s: float) -> None:
        self.on_change: Callable[[], None] = lambda: None
        self._node = node
        self._agenda = agenda
        self._routes = routes
        self._build_s = build_s
        self._free_s = 0.0
        self._ready: dict[str, set[int]] = {}
        self._building: dict[str, set[int]] = {}
        self._refused: dict[str, dict[str, str]] = {}
        self._kept: OrderedDict[tuple[str, ...], None] = OrderedDict()
        """Segments that were built last, by their cuts."""

    def add(self, stream: str, epoch: int) -> None:
        """Enter a segment that is there from the start."""
        self._ready.setdefault(stream, set()).add(epoch)

    def is_ready(self, plan: Plan) -> bool:
        """Whether frames of this plan can be computed here."""
        return plan.epoch in self._ready.get(plan.stream, ())

    def keep(self, stream: str, plans: Iterable[Plan]) -> None:
        """Build what is new; these and no others of the stream stay."""
        ready, building = self._ready.setdefault(stream, set()), self._building.setdefault(stream, set())
        wanted = {plan.epoch: plan for plan in plans}
        ready.intersection_update({0, *wanted})
        refused = self._refused.setdefault(stream, {})
        for epoch, plan in wanted.items():
            if epoch not in ready and epoch not in building and str(epoch) not in refused:
                self._order(plan, building, refused)

    def _order(self, plan: Plan, building: set[int], refused: dict[str, str]) -> None:
        try:
            compute_s = self._routes.compute_s(plan, self._node)
        except AnabranchError as error:
            refused[str(plan.epoch)] = str(error)
            return
        if plan.nodes == (self._node,):
            self._ready[plan.stream].add(plan.epoch)  # the whole network is there already, as epoch 0
            return
        building.add(plan.epoch)
        hop = plan.hop_of(self._node)
        cuts = tuple(stage.until for stage in plan.stages[max(0, hop - 1) : hop + 1])
        build_s = 0.0 if cuts in self._kept else self._build_s + WARM_FRAMES * compute_s
        self._kept[cuts] = None
        self._kept.move_to_end(cuts)
        while len(self._kept) > MAX_SEGMENTS:
            self._kept.popitem(last=False)
        self._free_s = max(self._free_s, self._agenda.now) + build_s
        self._agenda.at(self._free_s, self._built, plan)

    def _built(self, plan: Plan) -> None:
        self._building[plan.stream].discard(plan.epoch)
        self._ready[plan.stream].add(plan.epoch)
        self.on_change()

    def readiness(self) -> tuple[Readiness, ...]:
        """What the node's report says of its epochs."""
        return tuple(
            Readiness(
                stream,
                tuple(sorted(ready)),
                tuple(sorted(self._building.get(stream, ()))),
                self._refused.get(stream, {}),
            )
            for stream, ready in self._ready.items()
        )


class SimulatedAgent:
    """Reports every second and at once on a jump; carries the scheduler's word out."""

    def __init__(self, node: SimulatedNode, epochs: Epochs, model: str, send: Callable[[Report], None]) -> None:
        self.node = node
        self.epochs = epochs
        self.device: SimulatedDevice | None = None
        self.peers = Peers()
        self.probe: Callable[[str, str, int], None] = lambda source, target, nbytes: None
        self._model = model
        self._send = send
        self._agenda = node.agenda
        self._sequence = 0
        self._announced = ("", -1)
        self._hurried = False
        epochs.on_change = self.hurry

    def start(self, first_s: float) -> None:
        """Begin to report."""
        self._agenda.at(first_s, self._regular)
        if self.device is None:
            self._agenda.at(first_s, self.look)

    def look(self) -> None:
        """Report at once where a message has been on its way for too long: nothing comes in that would tell."""
        if any(link.watch.jumped(self._agenda.now) for link in self.peers.links.values()):
            self.hurry()
        if not self._is_over():
            self._agenda.after(LOOK_S, self.look)

    def hurry(self) -> None:
        """Report at once."""
        if not self._hurried:
            self._hurried = True
            self._agenda.after(URGENT_S, self._report)

    def crossed(self, link: SimulatedLink) -> None:
        """Something came in whole: report at once where the link has jumped."""
        self.peers.heard(link)
        if link.watch.jumped(self._agenda.now):
            self.hurry()

    def hear(self, command: Command) -> None:
        """Take the scheduler's word."""
        if isinstance(command, Announcement):
            plans = [plan for plan in command.plans if self.node.name in plan.participants]
            self.epochs.keep(command.stream, plans)
            self.peers.learn(command.peers)
            self._announced = (command.scheduler, command.sequence)
            if self.device is not None and command.stream == self.device.source.stream:
                self.device.hear(command)
        elif isinstance(command, ProbeOrder):
            self.probe(command.source, command.target, command.payload_bytes)

    def _regular(self) -> None:
        self._report()
        if not self._is_over():
            self._agenda.after(INTERVAL_S + LOOP_S, self._regular)

    def _is_over(self) -> bool:
        return self.device is not None and self.device.is_finished

    def _report(self) -> None:
        self._hurried = False
        self._sequence += 1
        now, name = self._agenda.now, self.node.name
        scheduler, heard = self._announced
        links = self.peers.links.values()
        report = Report(
            name,
            self.node.tier,
            "simulated",
            self._sequence,
            now,
            model=self._model,
            interval_s=INTERVAL_S,
            endpoints=Endpoints(frames=name, results=name),
            load=Load(),
            stages=self.node.meter.reports(),
            links=tuple([link.take(now) for link in links]),
            epochs=self.epochs.readiness(),
            streams=() if self.device is None else (self.device.report(),),
            scheduler=scheduler,
            heard=heard,
        )
        for link in links:
            link.ping(now)
        self._agenda.after(CONTROL_S, self._send, report)
