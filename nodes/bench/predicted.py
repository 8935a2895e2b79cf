"""Predicted against measured: random plans, run live with emulated speeds and shaped links, beside the cost model.

Each network has one deployment: the device in this process, edge and cloud in processes of their own, a shaper in
front of each inbox. Plan after plan is drawn, predicted, switched to and run: with a full window for its frames/s, then
with one frame in flight for its latency, since the cost model's latency is without queues.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from nodes.admission import Outcome, Waiting
from nodes.agent import SchedulerAddress
from nodes.bench.report import Bar, BenchReport, Cell
from nodes.bench.switch import NAMES, STREAM, _scheduler
from nodes.commands.options import peer_endpoints
from nodes.device import DeviceNode, StreamSettings
from nodes.launch import Family
from nodes.local_links import LocalLinks
from nodes.machine import machine_profile
from nodes.node import NodeSettings
from pipeline.errors import NodeError
from pipeline.frames.source import Frame
from pipeline.frames.sources import open_source
from pipeline.model.graph import OUTPUT
from pipeline.model.spec import LoadedModel, load_model
from pipeline.plan import Link, Plan, Stage, Tier
from scheduler.catalogue import slowed
from scheduler.cost import evaluate
from scheduler.events import StreamConfigured
from scheduler.events import StreamSettings as Wanted
from scheduler.packing import arithmetic
from scheduler.problem import DEVICE_CLOUD, DEVICE_EDGE, EDGE_CLOUD, Cost, LinkEstimate, Problem
from scheduler.service import SchedulerService

MODELS = ("builtin", "pytorchcv.models.resnet:resnet18", "pytorchcv.models.mobilenetv2:mobilenetv2_w1")
PLANS = 12
"""Per network."""

SPEEDS = {Tier.DEVICE: 0.15, Tier.EDGE: 0.4, Tier.CLOUD: 1.0}
RATES_BPS = {DEVICE_EDGE: 40e6, EDGE_CLOUD: 25e6, DEVICE_CLOUD: 15e6}
DELAY_S = 0.005
CODECS = ("fp32", "fp16")
"""Codecs whose size follows from arithmetic: nothing but the cost model is on trial."""

PERIOD_S = (0.005, 0.4)
"""Plans outside take too long to run, or are faster than this machine can feed."""

WARM_FRAMES, FRAMES, LONE_FRAMES = 8, 30, 10
MAX_MEDIAN, MAX_P95 = 0.10, 0.20
LIMIT_S = 60.0


@dataclass(frozen=True)
class Trial:
    """One plan, predicted and measured."""

    model: str
    plan: Plan
    predicted: Cost
    fps: float
    latency_s: float

    @property
    def fps_error(self) -> float:
        """|predicted - measured| / measured."""
        return abs(self.predicted.throughput_fps - self.fps) / self.fps

    @property
    def latency_error(self) -> float:
        """|predicted - measured| / measured."""
        return abs(self.predicted.latency_s - self.latency_s) / self.latency_s


def run(plans: int = PLANS, seed: int = 11) -> BenchReport:
    """Measure plans of all networks."""
    torch.set_num_threads(1)
    trials = [trial for spec in MODELS for trial in _trials(load_model(spec), spec, plans, random.Random(seed))]
    bars = []
    for name, errors in (
        ("frames/s", [trial.fps_error for trial in trials]),
        ("latency", [trial.latency_error for trial in trials]),
    ):
        bars.append(Bar(f"{name}: median error", statistics.median(errors), MAX_MEDIAN, "max"))
        bars.append(Bar(f"{name}: p95 error", float(np.quantile(errors, 0.95)), MAX_P95, "max"))
    return BenchReport("predicted", [_row(trial) for trial in trials], [Bar("plans", len(trials), 30, "min"), *bars])


def _row(trial: Trial) -> dict[str, Cell]:
    return {
        "model": trial.model,
        "plan": " | ".join(f"{stage.tier} ..{stage.until}" for stage in trial.plan.stages),
        "codecs": ", ".join(link.codec for link in trial.plan.links),
        "bottleneck": trial.predicted.bottleneck,
        "predicted frames/s": round(trial.predicted.throughput_fps, 2),
        "measured frames/s": round(trial.fps, 2),
        "error": round(trial.fps_error, 3),
        "predicted ms": round(trial.predicted.latency_s * 1e3, 1),
        "measured ms": round(trial.latency_s * 1e3, 1),
        "latency error": round(trial.latency_error, 3),
    }


def _trials(model: LoadedModel, spec: str, count: int, rng: random.Random) -> Iterator[Trial]:
    problem = _problem(model)
    chosen = list(itertools.islice(_draws(problem, rng), count))
    traces = {hop: f"{rate / 1e6:g}Mbit" for hop, rate in RATES_BPS.items()}
    links = LocalLinks(NAMES, traces, DELAY_S)
    with tempfile.TemporaryDirectory() as folder, links.running(), _scheduler(chosen[0][0]) as (service, address):
        with Family(Path(folder)) as family:
            _start_nodes(family, spec, links, address)
            with _Live(model, links, address, service) as live:
                for plan, cost in chosen:
                    fps, latency_s = live.measure(plan)
                    yield Trial(model.captured.graph.name, plan, cost, fps, latency_s)


def _problem(model: LoadedModel) -> Problem:
    graph = model.captured.graph
    profile = machine_profile(model.captured)
    times = {NAMES[tier]: slowed(profile, NAMES[tier], speed).bind(graph) for tier, speed in SPEEDS.items()}
    links = {hop: LinkEstimate(rate, 2 * DELAY_S) for hop, rate in RATES_BPS.items()}
    return Problem(graph, STREAM, NAMES, times, arithmetic(graph), links)


def _draws(problem: Problem, rng: random.Random) -> Iterator[tuple[Plan, Cost]]:
    """Random plans whose period this machine can show."""
    graph = problem.graph
    routes = ((Tier.DEVICE, Tier.EDGE), (Tier.DEVICE, Tier.CLOUD), tuple(Tier), tuple(Tier))
    for route in itertools.cycle(routes):
        cuts = sorted(rng.sample(graph.cuts[:-1], len(route) - 1), key=lambda cut: cut.mask.bit_count())
        if not all(a.before(b) for a, b in itertools.pairwise(cuts)):
            continue
        names = [*(cut.name for cut in cuts), OUTPUT]
        stages = tuple(Stage(tier, NAMES[tier], until) for tier, until in zip(route, names, strict=True))
        codecs = tuple(Link(rng.choice(CODECS) if cut.index else "fp32") for cut in cuts)
        plan = Plan(0, STREAM, graph.fingerprint, stages, codecs)
        cost = evaluate(problem, plan)
        if PERIOD_S[0] < cost.period_s < PERIOD_S[1]:
            yield plan, cost


def _start_nodes(family: Family, spec: str, links: LocalLinks, address: SchedulerAddress) -> None:
    for tier in (Tier.EDGE, Tier.CLOUD):
        arguments = [
            tier, "--name", NAMES[tier], "--model", spec, "--scheduler", f"{address.reports},{address.plans}",
            "--torch-threads", "1", "--emulate-speed", str(SPEEDS[tier]), *links.arguments(tier),
        ]  # fmt: skip
        family.start(NAMES[tier], arguments)
    for child in family.children.values():
        family.wait_ready(child, 120.0)


class _Live:
    """The device in this process, and what came out of it."""

    def __init__(
        self, model: LoadedModel, links: LocalLinks, address: SchedulerAddress, service: SchedulerService
    ) -> None:
        arguments = links.arguments(Tier.DEVICE)
        peers = [value for flag, value in itertools.pairwise(arguments) if flag == "--peer"]
        settings = NodeSettings(
            NAMES[Tier.DEVICE], address, arguments[1], peers=peer_endpoints(peers), emulate_speed=SPEEDS[Tier.DEVICE]
        )
        stream = StreamSettings(STREAM, first_plan_timeout_s=LIMIT_S, needs_plan=True)
        self._service = service
        self._device = DeviceNode(settings, model, stream, self._emit)
        self._done: list[tuple[float, Outcome]] = []
        self._changed = threading.Condition()
        self._over = threading.Event()
        source = open_source("scene:", limit=20)
        with contextlib.closing(source):
            self._pictures = [Waiting(frame, model.preprocess.picture(frame.rgb)) for frame in source.frames()]
        self._stream = threading.Thread(target=self._device.run, args=(self._feed,), name="stream")

    def __enter__(self) -> _Live:
        self._device.start()
        self._stream.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._device.admission.stop()
        self._stream.join(LIMIT_S)
        self._device.stop()

    def measure(self, plan: Plan) -> tuple[float, float]:
        """Frames/s with a full window, and the median latency of frames that travel alone."""
        self._service.inject(StreamConfigured(STREAM, Wanted(planner="fixed", plan=plan)))
        done = self._collect(plan, WARM_FRAMES + FRAMES)[WARM_FRAMES:]
        times = [at_s for at_s, _ in done]
        fps = (len(times) - 1) / (times[-1] - times[0])
        self._device.admission.narrow(1)
        alone = self._collect(plan, WARM_FRAMES + LONE_FRAMES)[WARM_FRAMES:]
        return fps, statistics.median(outcome.latency_s for _, outcome in alone)

    def _collect(self, plan: Plan, count: int) -> list[tuple[float, Outcome]]:
        """The next `count` results under the plan."""
        nodes = [stage.node for stage in plan.stages]
        admission = self._device.admission

        def of_plan() -> list[tuple[float, Outcome]]:
            now = (admission.plan.stages, admission.plan.links) == (plan.stages, plan.links)
            epoch = admission.plan.epoch if now else -1
            return [
                each
                for each in self._done
                if each[1].header.epoch == epoch and [hop.node for hop in each[1].header.hops] == nodes
            ]

        with self._changed:
            self._done.clear()
            if not self._changed.wait_for(lambda: len(of_plan()) >= count, LIMIT_S):
                raise NodeError("bench predicted", f"{len(of_plan())} of {count} results in {LIMIT_S:.0f} s of {plan}")
            return of_plan()[:count]

    def _emit(self, outcome: Outcome) -> None:
        with self._changed:
            self._done.append((time.monotonic(), outcome))
            self._changed.notify_all()

    def _feed(self, offer: Callable[[Waiting], bool]) -> None:
        for number, waiting in enumerate(itertools.cycle(self._pictures)):
            frame = Frame(number, waiting.frame.time_s, waiting.frame.rgb)
            if self._over.is_set() or not offer(Waiting(frame, waiting.picture)):
                return
