"""An edge node's coordinator in this process, tile workers in processes of their own, and stages that they share."""

from __future__ import annotations

import contextlib
import itertools
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
import zmq

from nodes.bench._cores import keep_to_core, on_any_core, on_core
from nodes.emulation import EmulatedSpeed
from nodes.launch import Family
from nodes.outlet import Directory
from nodes.sockets import SocketFactory
from nodes.tiles.coordinator import Coordinator
from nodes.tiles.layout import Conditions, Layout
from nodes.tiles.maker import LayoutMaker, Running
from nodes.tiles.roster import SAMPLES
from nodes.tiles.stage import TiledStage
from pipeline.errors import NodeError
from pipeline.model.capture import CapturedModel
from pipeline.model.graph import INPUT, Cut
from pipeline.model.spec import LoadedModel, load_model
from pipeline.plan import Link, Plan, Stage, Tier, TilePlan
from pipeline.tiling.analysis import analysis_of
from pipeline.tiling.fuse import waists_between
from scheduler.reports import Endpoints
from traces.link import Address, LinkSettings, ShaperConfig, ShaperProcess
from traces.trace import Trace

EDGE, STREAM = "edge-1", "bench"
READY_S = 300.0
TURN = 3
"""Frames that a layout computes in a row, and that count."""


@dataclass(frozen=True)
class Site:
    """An edge node with its workers, and a stage: the network's convolutional part."""

    captured: CapturedModel
    coordinator: Coordinator
    stage: TiledStage
    end: Cut

    def conditions(self) -> Conditions:
        """The crew as it is measured now."""
        return self.stage.conditions(self.coordinator.roster.crew(STREAM, None))

    def prepare(self, layout: Layout) -> Layout:
        """Have everybody build and warm a layout.

        Raises:
            NodeError: a worker does not.
        """
        if not self.coordinator.prepare(self.stage, layout):
            raise NodeError("tile workers", "not ready for a layout")
        return layout

    def frame_s(self, layout: Layout) -> float:
        """Seconds of one frame, from the stage's input to its merged output."""
        self.stage.layout = layout
        inputs = {INPUT: torch.zeros_like(self.captured.example)}
        begin = time.perf_counter()
        self.stage.compute(inputs)
        return time.perf_counter() - begin

    def settle(self, rounds: int) -> Layout:
        """Our layout, fitted to the speeds that its own frames show, as the coordinator would."""
        maker = self.stage.maker
        layout = self.prepare(maker.choose(self.conditions()))
        for _ in range(2):
            for _ in range(max(rounds, SAMPLES)):
                self.frame_s(layout)
            found = maker.choose(self.conditions())
            if maker.gains(found, layout):
                layout = self.prepare(found)
        return layout


def interleaved(site: Site, layouts: Mapping[str, Layout], rounds: int) -> dict[str, list[float]]:
    """Frame times of several layouts, in turns, so that whatever else the machine does falls on all.

    A stream goes on in one layout, so a turn is `TURN` frames, and its figure is their median. The first is left out:
    it finds the caches full of another layout's weights, and the workers asleep.
    """
    times: dict[str, list[float]] = {name: [] for name in layouts}
    for number in range(rounds + 1):
        for name, layout in layouts.items():
            seconds = [site.frame_s(layout) for _ in range(TURN + 1)]
            if number:
                times[name].append(statistics.median(seconds[1:]))
    return times


@contextlib.contextmanager
def neighbours() -> Iterator[list[float]]:
    """Cores that processes other than this one and its children keep busy meanwhile, as the only item at the end.

    On as many cores as there are workers, nothing else can run without slowing them.
    """
    found: list[float] = []
    begin_s, others_s = time.perf_counter(), _others_s()
    yield found
    found.append(max(0.0, _others_s() - others_s) / (time.perf_counter() - begin_s))


def _others_s() -> float:
    """Processor seconds of everybody else since the machine started."""
    machine, this = psutil.cpu_times(), psutil.Process()
    own = this.cpu_times()
    ended_s = own.children_user + own.children_system
    alive = (each.cpu_times() for each in this.children(recursive=True))
    family_s = own.user + own.system + ended_s + sum(each.user + each.system for each in alive)
    busy_s = sum(machine) - machine.idle - getattr(machine, "iowait", 0.0)
    return float(busy_s - family_s)


def ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """Median of the rounds' ratios."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def convolutional_end(captured: CapturedModel) -> Cut:
    """The last waist with maps: what is behind it (pooling, fully connected layers) cannot be tiled."""
    graph = captured.graph
    cuts = waists_between(captured, graph.cuts[0], graph.cuts[-1])
    analysis = analysis_of(captured)
    tileable = [last for first, last in itertools.pairwise(cuts) if analysis.why_no_stack(first, last) is None]
    return tileable[-1]


@dataclass(frozen=True)
class Between:
    """An emulated link from the edge node to each worker, and one like it back; without figures, this machine's own."""

    rate_bps: float = 0.0
    delay_s: float = 0.0
    """One way."""

    @contextlib.contextmanager
    def to(self, endpoint: str) -> Iterator[str]:
        """Where to send to, to reach an endpoint over such a link."""
        if not self.rate_bps:
            yield endpoint
            return
        trace, settings = Trace.constant(self.rate_bps), LinkSettings(delay_s=self.delay_s)
        with ShaperProcess(ShaperConfig(trace, trace, Address.parse(endpoint), settings=settings)) as shaper:
            on_any_core(shaper.pid)
            yield f"tcp://{shaper.address}"


@contextlib.contextmanager
def site(spec: str, speeds: Sequence[float], between: Between = Between()) -> Iterator[Site]:
    """Start an edge node here and a worker process for each further speed, each kept to a core while there are enough.

    Args:
        spec: the network.
        speeds: emulated fractions of this machine's speed, the edge node's own first.
        between: the links between them.
    """
    model = load_model(spec)
    factory, directory = SocketFactory(zmq.Context()), Directory()
    coordinator = Coordinator(EDGE, model.captured, factory, directory)
    coordinator.speed = EmulatedSpeed(speeds[0])
    inbox, endpoint = factory.pull("tcp://127.0.0.1:*")
    with (
        contextlib.ExitStack() as links,
        on_core(0),
        tempfile.TemporaryDirectory() as logs,
        Family(Path(logs)) as family,
    ):
        coordinator.start(inbox)
        try:
            names = [f"tile-{number}" for number in range(1, len(speeds))]
            for number, (name, speed) in enumerate(zip(names, speeds[1:], strict=True), 1):
                home = links.enter_context(between.to(endpoint))
                child = family.start(name, [
                    "tile", "--name", name, "--model", spec, "--peer", f"{EDGE}={home}",
                    "--torch-threads", "1", "--emulate-speed", str(speed),
                ])  # fmt: skip
                keep_to_core(number, child.process.pid)
            for name in names:
                family.wait_ready(family.children[name], READY_S)
                there = links.enter_context(between.to(family.children[name].endpoints["tiles"]))
                directory.learn_peer(name, Endpoints(tiles=there))
            coordinator.roster.see(STREAM, names)
            _await_crew(coordinator, len(speeds))
            end = convolutional_end(model.captured)
            yield Site(model.captured, coordinator, _stage(model, coordinator, end), end)
        finally:
            coordinator.stop()
    factory.context.term()


def _stage(model: LoadedModel, coordinator: Coordinator, end: Cut) -> TiledStage:
    captured = model.captured
    stages = (Stage(Tier.DEVICE, "device-1", INPUT), Stage(Tier.EDGE, EDGE, end.name), Stage(Tier.CLOUD, "c", "output"))
    tiles = TilePlan((), (EDGE,), open=True)
    plan = Plan(1, STREAM, captured.graph.fingerprint, stages, (Link(), Link()), tiles)
    maker = LayoutMaker(captured, captured.graph.cut(INPUT), end, tiles, Running())
    return TiledStage(plan, tiles, maker, coordinator.site)


def _await_crew(coordinator: Coordinator, count: int) -> None:
    until_s, pause = time.monotonic() + READY_S, threading.Event()
    while len(coordinator.roster.crew(STREAM, None)) < count:
        if time.monotonic() > until_s:
            raise NodeError("tile workers", "do not answer")
        pause.wait(0.05)
