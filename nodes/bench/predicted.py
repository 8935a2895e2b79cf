"""Predicted against measured: random plans, run live with emulated speeds and shaped links, beside the cost model.

Each network has one deployment: the device in this process, edge and cloud in processes of their own, a shaper in
front of each inbox. Plan after plan is drawn, predicted, switched to and run: with a full window for its frames/s, then
with one frame in flight for its latency, since the cost model's latency is without queues.

The speeds add up to well under one core, so that three nodes, three shapers and the packing beside them find two cores
free: whatever the plan, frames are not faster than the sum of the speeds over the network's time.

A virtual machine's own speed wanders by a fifth within seconds. So while a plan runs, the whole network is timed here
twice a second, on a thread of its own, and how much slower than profiled it is goes into the prediction as the load of
all three nodes, which in a deployment the scheduler estimates.

Frames that wait are not computed together here: the cost model is of one frame at a time.

It can be run in parts, on another seed or network each: `add` names files with the `--json` output of earlier parts,
whose rows are judged with those of this one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import torch

from nodes.admission import Outcome, Waiting
from nodes.agent import SchedulerAddress
from nodes.batches import Batches
from nodes.bench._live import NAMES, STREAM, Draws, fixed_core, serving
from nodes.bench.report import Bar, BenchReport, Cell, tell
from nodes.commands.options import peer_endpoints
from nodes.device import DeviceNode, StreamSettings
from nodes.launch import Family
from nodes.local.links import LocalLinks
from nodes.node import NodeSettings
from nodes.profiler import ProfilerSettings, profile_node
from pipeline.errors import ConfigError, NodeError
from pipeline.frames.source import Frame
from pipeline.frames.sources import open_source
from pipeline.model.graph import INPUT
from pipeline.model.segment import Segment
from pipeline.model.spec import LoadedModel, load_model
from pipeline.plan import Plan, Tier
from scheduler.catalogue import slowed
from scheduler.cost import evaluate
from scheduler.events import StreamConfigured
from scheduler.events import StreamSettings as Wanted
from scheduler.packing import arithmetic
from scheduler.problem import DEVICE_CLOUD, DEVICE_EDGE, EDGE_CLOUD, Cost, LinkEstimate, LoadEstimate, Problem
from scheduler.profile import Profile
from scheduler.service import SchedulerService

MODELS = {
    "builtin": "builtin",
    "resnet18": "pytorchcv.models.resnet:resnet18",
    "mobilenetv2": "pytorchcv.models.mobilenetv2:mobilenetv2_w1",
}
PLANS = 12
"""Per network."""

SPEEDS = {Tier.DEVICE: 0.1, Tier.EDGE: 0.2, Tier.CLOUD: 0.4}
RATES_BPS = {DEVICE_EDGE: 40e6, EDGE_CLOUD: 25e6, DEVICE_CLOUD: 15e6}
DELAY_S = 0.005
ROUTES = ((Tier.DEVICE, Tier.EDGE), (Tier.DEVICE, Tier.CLOUD), tuple(Tier), tuple(Tier))
DRAWS = Draws(codecs=("fp32", "fp16"), picture_codecs=("fp32",), pictures_share=0.0)
"""Codecs whose size follows from arithmetic: nothing but the cost model is on trial."""

PERIOD_S = (0.005, 0.4)
"""Plans outside take too long to run, or are faster than this machine can feed."""

PROFILE_S = 30.0
GAUGE_S = 0.5
"""Between two looks at the machine's speed."""

WARM_FRAMES, FRAMES, LONE_FRAMES = 8, 30, 10
MAX_MEDIAN, MAX_P95 = 0.10, 0.20
LIMIT_S = 60.0


@dataclass(frozen=True)
class Measured:
    """What a plan did."""

    fps: float
    latency_s: float
    """Median of frames that travelled alone."""
    stages_s: tuple[float, ...]
    """Of these frames, for each stage: unpacking, computing and packing."""
    slowdown: float
    """Of the machine meanwhile, over its profile."""


@dataclass(frozen=True)
class Trial:
    """One plan, predicted and measured."""

    model: str
    plan: Plan
    predicted: Cost
    measured: Measured

    @property
    def row(self) -> dict[str, Cell]:
        """For the table; errors are |predicted - measured| / measured."""
        predicted, measured = self.predicted, self.measured
        stages_s = tuple(stage.decode_s + stage.compute_s + stage.encode_s for stage in predicted.stages)
        fps, latency_s = predicted.throughput_fps, predicted.latency_s
        return {
            "model": self.model,
            "plan": " | ".join(f"{stage.tier} ..{stage.until}" for stage in self.plan.stages),
            "codecs": ", ".join(link.codec for link in self.plan.links),
            "bottleneck": predicted.bottleneck,
            "load": round(measured.slowdown, 3),
            "frames/s": _both(fps, measured.fps, ".2f"),
            "error": abs(fps - measured.fps) / measured.fps,
            "latency ms": _both(latency_s * 1e3, measured.latency_s * 1e3),
            "latency error": abs(latency_s - measured.latency_s) / measured.latency_s,
            "stages ms": ", ".join(_both(a * 1e3, b * 1e3) for a, b in zip(stages_s, measured.stages_s, strict=True)),
            "way ms": _both((latency_s - sum(stages_s)) * 1e3, (measured.latency_s - sum(measured.stages_s)) * 1e3),
        }


def _both(predicted: float, measured: float, form: str = ".1f") -> str:
    return f"{predicted:{form}} / {measured:{form}}"


def run(networks: str = ",".join(MODELS), plans: int = PLANS, seed: int = 11, add: str = "") -> BenchReport:
    """Measure plans.

    Args:
        networks: some of `MODELS`, by comma; none only judges `add`.
        plans: of each network.
        seed: of the draws.
        add: files with reports of earlier parts, by comma.
    """
    torch.set_num_threads(1)
    rows = [row for name in add.split(",") if name for row in _earlier(Path(name))]
    for name in networks.split(",") if networks else []:
        if name not in MODELS:
            raise ConfigError(f"network {name!r}", "not of this benchmark", f"it has {', '.join(MODELS)}")
        for trial in _trials(MODELS[name], plans, random.Random(f"{name} {seed}")):
            rows.append(trial.row)
            tell(f"{len(rows)}: " + ", ".join(f"{key} {_short(value)}" for key, value in trial.row.items()))
    return BenchReport("predicted", rows, judge(rows), ["predicted / measured in each cell"])


def judge(rows: list[dict[str, Cell]]) -> list[Bar]:
    """The bars over the rows of all parts."""
    bars = [Bar("plans", len(rows), 30, "min"), Bar("networks", len({row["model"] for row in rows}), 3, "min")]
    for name, column in (("frames/s", "error"), ("latency", "latency error")):
        errors = [float(row[column] or 0.0) for row in rows]
        bars.append(Bar(f"{name}: median error", statistics.median(errors), MAX_MEDIAN, "max"))
        bars.append(Bar(f"{name}: p95 error", float(np.quantile(errors, 0.95)), MAX_P95, "max"))
    return bars


def _short(value: Cell) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _earlier(path: Path) -> list[dict[str, Cell]]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=BenchReport).rows
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError(f"report {path}", str(error), "make it with `bench predicted --json`") from error


def _trials(spec: str, count: int, rng: random.Random) -> Iterator[Trial]:
    model = load_model(spec)
    profile = profile_node(model.captured, "*", ProfilerSettings(PROFILE_S), lambda share, what: None)
    tell(
        f"{model.captured.graph.name}: profiled, held-out error {profile.error.median:.1%}, p95 {profile.error.p95:.1%}"
    )
    problem = _problem(model, profile)
    chosen = list(itertools.islice(_draws(problem, rng), count))
    traces = {hop: f"{rate / 1e6:g}Mbit" for hop, rate in RATES_BPS.items()}
    links = LocalLinks(NAMES, traces, dict.fromkeys(traces, DELAY_S))
    core = fixed_core(chosen[0])
    with tempfile.TemporaryDirectory() as folder, links.running(), serving(core) as (service, address):
        with Family(Path(folder)) as family:
            _start_nodes(family, spec, links, address)
            with _Gauge(model, profile) as gauge, _Live(model, links, address, service) as live:
                for plan in chosen:
                    measured = live.measure(plan, gauge)
                    loads = dict.fromkeys(NAMES.values(), LoadEstimate(measured.slowdown))
                    cost = evaluate(dataclasses.replace(problem, loads=loads), plan)
                    yield Trial(model.captured.graph.name, plan, cost, measured)


def _problem(model: LoadedModel, profile: Profile) -> Problem:
    graph = model.captured.graph
    times = {NAMES[tier]: slowed(profile, NAMES[tier], speed).bind(graph) for tier, speed in SPEEDS.items()}
    links = {hop: LinkEstimate(rate, 2 * DELAY_S) for hop, rate in RATES_BPS.items()}
    return Problem(graph, STREAM, NAMES, times, arithmetic(graph), links)


def _draws(problem: Problem, rng: random.Random) -> Iterator[Plan]:
    """Random plans whose period this machine can show."""
    for route in itertools.cycle(ROUTES):
        plan = DRAWS.plan(problem.graph, route, rng)
        if PERIOD_S[0] < evaluate(problem, plan).period_s < PERIOD_S[1]:
            yield plan


def _start_nodes(family: Family, spec: str, links: LocalLinks, address: SchedulerAddress) -> None:
    for tier in (Tier.EDGE, Tier.CLOUD):
        arguments = [
            tier, "--name", NAMES[tier], "--model", spec, "--scheduler", f"{address.reports},{address.plans}",
            "--torch-threads", "1", "--batches", Batches.OFF, "--emulate-speed", str(SPEEDS[tier]),
            *links.arguments(tier),
        ]  # fmt: skip
        family.start(NAMES[tier], arguments)
    for child in family.children.values():
        family.wait_ready(child, 120.0)


class _Gauge:
    """Times the whole network now and then, on a thread of its own."""

    def __init__(self, model: LoadedModel, profile: Profile) -> None:
        graph = model.captured.graph
        self._segment = Segment(model.captured, graph.cuts[0], graph.cuts[-1])
        self._segment.warm()
        self._expected_s = profile.bind(graph).seconds(0, len(graph.cuts) - 1)
        self._inputs = {INPUT: torch.randint(0, 256, model.captured.example.shape, dtype=torch.uint8)}
        self._found: list[float] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gauge")

    def __enter__(self) -> _Gauge:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(LIMIT_S)

    def begin(self) -> None:
        """Forget what was found so far."""
        self._found.clear()

    def slowdown(self) -> float:
        """Median since `begin`, over the profile."""
        found = list(self._found)
        return statistics.median(found) / self._expected_s if found else 1.0

    def _run(self) -> None:
        while not self._over.wait(GAUGE_S):
            before = time.thread_time()
            self._segment.run(self._inputs)
            self._found.append(time.thread_time() - before)


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

    def measure(self, plan: Plan, gauge: _Gauge) -> Measured:
        """Frames/s with a full window, then the latency of frames that travel alone."""
        self._service.inject(StreamConfigured(STREAM, Wanted(planner="fixed", plan=plan)))
        gauge.begin()
        done = self._collect(plan, WARM_FRAMES + FRAMES)[WARM_FRAMES:]
        times = [at_s for at_s, _ in done]
        fps = (len(times) - 1) / (times[-1] - times[0])
        self._device.admission.narrow(1)
        alone = [outcome for _, outcome in self._collect(plan, WARM_FRAMES + LONE_FRAMES)[WARM_FRAMES:]]
        stages = [[hop.unpack_s + hop.compute_s + hop.pack_s for hop in outcome.header.hops] for outcome in alone]
        return Measured(
            fps,
            statistics.median(outcome.latency_s for outcome in alone),
            tuple(statistics.median(each) for each in zip(*stages, strict=True)),
            gauge.slowdown(),
        )

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
