"""A thousand plan switches in one stream of a real video: nothing lost, nothing wrong, nothing late.

The device runs in this process, so that raw outputs can be compared; edge and cloud are processes of their own; the
scheduler runs in this process on real sockets, and its fixed plan is changed through its own events. Afterwards every
frame is computed again, alone, stage by stage, under the plan of its epoch.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import torch
from torch import Tensor

from nodes.admission import Outcome, Waiting
from nodes.agent import SchedulerAddress
from nodes.bench._alone import Alone
from nodes.bench._data import video
from nodes.bench._live import NAMES, STREAM, Draws, fixed_core, serving
from nodes.bench.report import Bar, BenchReport, Cell
from nodes.device import DeviceNode, StreamSettings
from nodes.launch import Family
from nodes.node import NodeSettings
from pipeline.errors import NodeError
from pipeline.frames.prefetch import Prefetcher
from pipeline.frames.source import Frame
from pipeline.frames.sources import open_source
from pipeline.model import memory
from pipeline.model.capture import CapturedModel
from pipeline.model.layouts import Layout
from pipeline.model.spec import LoadedModel, load_model
from pipeline.plan import Plan, Tier, TilePlan, TileStack
from pipeline.tiling.analysis import analysis_of
from pipeline.tiling.fuse import waists_between
from scheduler.events import StreamConfigured
from scheduler.events import StreamSettings as Wanted
from scheduler.handmade import worker_name
from scheduler.service import SchedulerService
from scheduler.window import least_window

WORKER = worker_name(1)
LAYOUT = Layout.ONEDNN
"""Pinned: each process would choose its fastest one by itself, and the last bits of the results with it. In this one
tiles have the bits of the whole map (docs/tiling.md), whatever strips the edge node fits to its worker."""

ROUTES = (
    (Tier.DEVICE,),
    (Tier.DEVICE, Tier.EDGE),
    (Tier.DEVICE, Tier.CLOUD),
    (Tier.DEVICE, Tier.EDGE, Tier.CLOUD),
)
DRAWS = Draws(
    codecs=("fp32", "fp16", "q8", "q6", "q4", "q8c"), picture_codecs=("fp32", "jpeg90", "webp75"), pictures_share=0.25
)

TILES_SHARE = 0.5
"""Of the plans with an edge stage: these cut it into tiles, where it can be."""

GRIDS = (((0.5, 0.5), (1.0,)), ((1.0,), (0.5, 0.5)), ((0.5, 0.5), (0.5, 0.5)))
"""Shares of height and of width."""

MIN_TILES_MB = 0.001
"""A run in which no tile went to the worker has shown nothing of tiles."""

STEADY_FRAMES = 6
"""Frames under a plan that has settled, before the next switch is asked for: what its own latencies are read off."""

MIN_IN_TIME = 0.99


@dataclass(frozen=True)
class SwitchCase:
    """What is switched on what."""

    switches: int = 1000
    model: str = "builtin"
    source: str = ""
    """Empty for the real video where it is, and rendered scenes elsewhere."""
    pictures: int = 300
    """Frames of the source that are decoded and gone round."""
    plans: int = 24
    seed: int = 6
    limit_s: float = 30.0
    """A switch that takes longer ends the benchmark."""


@dataclass(frozen=True)
class Seen:
    """One result as it left the device."""

    frame: int
    epoch: int
    admitted_s: float
    emitted_s: float
    outputs: dict[str, Tensor]

    @property
    def latency_s(self) -> float:
        """From admission to its turn."""
        return self.emitted_s - self.admitted_s


@dataclass(frozen=True)
class Change:
    """One switch."""

    plan: Plan
    first_frame: int
    asked_s: float
    stamped_s: float


@dataclass
class Record:
    """What the run left. Written under `changed`."""

    results: list[Seen] = field(default_factory=list)
    plans: dict[int, Plan] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)
    settled: dict[int, tuple[int, float]] = field(default_factory=dict)
    """By epoch: the first frame that met none of the plan before, and when the next switch was asked for."""
    readmitted: int = 0
    duplicates: int = 0
    tile_bytes: int = 0
    """What the tile worker took in."""
    changed: threading.Condition = field(default_factory=threading.Condition)


def run(case: SwitchCase = SwitchCase()) -> BenchReport:
    """Switch, compare, judge."""
    torch.set_num_threads(1)
    model = load_model(case.model)
    plans = catalogue(model.captured, case.plans, random.Random(case.seed))
    pictures = _pictures(case, model)
    record = _stream(case, model, plans, pictures)
    return judge(case, record, Alone(model, LAYOUT), [waiting.picture for waiting in pictures])


def catalogue(captured: CapturedModel, count: int, rng: random.Random) -> list[Plan]:
    """Plans over all routes in turn, with cuts, codecs and tiles drawn; everything on the device is one of them."""
    found: dict[str, Plan] = {}
    for route in itertools.islice(itertools.cycle(ROUTES), 50 * count):
        plan = DRAWS.plan(captured.graph, route, rng)
        if Tier.EDGE in route and rng.random() < TILES_SHARE:
            plan = _in_tiles(captured, plan, rng)
        found.setdefault(repr(plan), plan)
        if len(found) == count:
            break
    return list(found.values())


def _in_tiles(captured: CapturedModel, plan: Plan, rng: random.Random) -> Plan:
    """The plan with the beginning of its edge stage shared with a worker; as it is where that cannot be tiled."""
    edge = NAMES[Tier.EDGE]
    start, end = plan.span(plan.hop_of(edge), captured.graph)
    why_not = analysis_of(captured).why_no_stack
    ends = [cut.name for cut in waists_between(captured, start, end)[1:] if why_not(start, cut) is None]
    if not ends:
        return plan
    stack = TileStack(rng.choice(ends), *rng.choice(GRIDS))
    return msgspec.structs.replace(plan, tiles=TilePlan((stack,), (edge, WORKER), open=True))


def _pictures(case: SwitchCase, model: LoadedModel) -> list[Waiting]:
    source = open_source(case.source or video(), limit=case.pictures)
    with contextlib.closing(source), Prefetcher(source, model.preprocess) as frames:
        return [Waiting(frame, picture) for frame, picture in frames]


# --- the live part


def _stream(case: SwitchCase, model: LoadedModel, plans: list[Plan], pictures: list[Waiting]) -> Record:
    record, rng, core = Record(), random.Random(case.seed), fixed_core(plans[0])
    with tempfile.TemporaryDirectory() as folder, serving(core) as (service, address):
        with Family(Path(folder)) as family:
            _start_nodes(family, case, address)
            device = _device(model, address, record)
            try:
                _switch_all(case, device, service, record, rng, plans, pictures)
            finally:
                device.stop()
        worker = core.registry.get(WORKER)
        record.tile_bytes = 0 if worker is None else sum(link.bytes_total for link in worker.report.links)
    ledger = device.admission.ledger
    record.readmitted, record.duplicates = sum(ledger.readmissions.values()), ledger.drops["duplicate"]
    return record


def _start_nodes(family: Family, case: SwitchCase, address: SchedulerAddress) -> None:
    for kind, name in (("edge", NAMES[Tier.EDGE]), ("cloud", NAMES[Tier.CLOUD]), ("tile", WORKER)):
        arguments = [
            kind, "--name", name, "--model", case.model, "--scheduler", f"{address.reports},{address.plans}",
            "--torch-threads", "1", "--layout", LAYOUT,
        ]  # fmt: skip
        family.start(name, arguments)
    for child in family.children.values():
        family.wait_ready(child, 120.0)


def _device(model: LoadedModel, address: SchedulerAddress, record: Record) -> DeviceNode:
    def emit(outcome: Outcome) -> None:
        now = time.monotonic()
        with record.changed:
            header = outcome.header
            record.results.append(Seen(header.frame, header.epoch, outcome.admitted_s, now, outcome.outputs))
            record.changed.notify_all()

    settings = NodeSettings(NAMES[Tier.DEVICE], address, layout=LAYOUT)
    device = DeviceNode(settings, model, StreamSettings(STREAM, first_plan_timeout_s=60.0, needs_plan=True), emit)
    device.start()
    memory.settle()
    return device


def _switch_all(
    case: SwitchCase,
    device: DeviceNode,
    service: SchedulerService,
    record: Record,
    rng: random.Random,
    plans: list[Plan],
    pictures: list[Waiting],
) -> None:
    done = threading.Event()
    asked_s = [time.monotonic()]

    def switched(plan: Plan, frame: int) -> None:
        with record.changed:
            record.plans[plan.epoch] = plan
            record.changes.append(Change(plan, frame, asked_s[0], time.monotonic()))
            record.changed.notify_all()
        device.changed()

    def feed(offer: Callable[[Waiting], bool]) -> None:
        for number, waiting in enumerate(itertools.cycle(pictures)):
            frame = Frame(number, waiting.frame.time_s, waiting.frame.rgb)
            if done.is_set() or not offer(Waiting(frame, waiting.picture)):
                return

    device.admission.on_switch = switched
    stream = threading.Thread(target=device.run, args=(feed,), name="stream")
    stream.start()
    try:
        for number in range(case.switches + 1):
            _wait_until_settled(record, number, case.limit_s + 60.0 * (number == 0))
            asked_s[0] = time.monotonic()
            if number < case.switches:
                wanted = _another(plans, record.changes[-1].plan, rng)
                service.inject(StreamConfigured(STREAM, Wanted(planner="fixed", plan=wanted)))
    finally:
        done.set()
        device.admission.source_ended()
        stream.join(case.limit_s)


def _another(plans: list[Plan], running: Plan, rng: random.Random) -> Plan:
    return rng.choice([plan for plan in plans if _key(plan) != _key(running)])


def _wait_until_settled(record: Record, number: int, limit_s: float) -> None:
    """Return once switch `number` is made, and the plan has had its steady frames."""
    with record.changed:
        if not record.changed.wait_for(lambda: len(record.changes) > number, limit_s):
            raise NodeError("bench switch", f"switch {number} is not made within {limit_s:.0f} s")
        change = record.changes[number]
        settled = change.first_frame + least_window(change.plan)
        enough = lambda: bool(record.results) and record.results[-1].frame >= settled + STEADY_FRAMES  # noqa: E731
        if not record.changed.wait_for(enough, limit_s):
            raise NodeError("bench switch", f"no results after switch {number} within {limit_s:.0f} s")
        record.settled[change.plan.epoch] = settled, time.monotonic()


# --- the verdict


@dataclass
class Own:
    """A plan's own figures, away from any switch."""

    latencies_s: list[float] = field(default_factory=list)
    gaps_s: list[float] = field(default_factory=list)

    @property
    def p99_s(self) -> float:
        """By nearest rank."""
        return sorted(self.latencies_s)[min(len(self.latencies_s) - 1, int(0.99 * len(self.latencies_s)))]

    @property
    def period_s(self) -> float:
        """Median time between two results."""
        return statistics.median(self.gaps_s)


def judge(case: SwitchCase, record: Record, alone: Alone, pictures: list[Tensor]) -> BenchReport:
    """Rows by route, and the bars."""
    numbers = [seen.frame for seen in record.results]
    lost, doubled = max(numbers) + 1 - len(set(numbers)), len(numbers) - len(set(numbers))
    disorder = sum(a >= b for a, b in itertools.pairwise(numbers))
    wrong = sum(
        not alone.agrees(record.plans[seen.epoch], seen.frame % len(pictures), pictures, seen.outputs)
        for seen in record.results
    )
    own, late = _own_figures(record), _late(record)
    in_time = statistics.mean(each <= 0.0 for each in late)
    took = sorted(change.stamped_s - change.asked_s for change in record.changes[1:])
    tiled = sum(change.plan.tiles is not None for change in record.changes[1:])
    bars = [
        Bar("switches", len(record.changes) - 1, case.switches, "min"),
        Bar("frames lost", lost, 0, "max"),
        Bar("frames doubled", doubled, 0, "max"),
        Bar("frames out of order", disorder, 0, "max"),
        Bar("megabytes of tiles", record.tile_bytes / 1e6, MIN_TILES_MB, "min"),
        Bar("results that differ from their plan's", wrong, 0, "max"),
        Bar("first frames in time", in_time, MIN_IN_TIME, "min"),
    ]
    notes = [
        f"{len(numbers)} frames, {len(own)} plans; {record.readmitted} admitted again, {record.duplicates} copies",
        f"{tiled} switches to plans with tiles; the tile worker took {record.tile_bytes / 1e6:.1f} MB",
        f"asked to stamped: median {statistics.median(took) * 1e3:.0f} ms, worst {took[-1] * 1e3:.0f} ms",
        f"first frame over its allowance: worst {max(late) * 1e3:.1f} ms",
    ]
    return BenchReport("switch", [_row(plan, figures) for plan, figures in own.values()], bars, notes)


def _key(plan: Plan) -> str:
    return repr((plan.stages, plan.links, plan.tiles))


def _own_figures(record: Record) -> dict[str, tuple[Plan, Own]]:
    found: dict[str, tuple[Plan, Own]] = {}
    for before, seen in itertools.pairwise(record.results):
        settled, until_s = record.settled.get(seen.epoch, (1 << 62, 0.0))
        if seen.frame < settled or seen.emitted_s > until_s:
            continue
        _, own = found.setdefault(_key(record.plans[seen.epoch]), (record.plans[seen.epoch], Own()))
        own.latencies_s.append(seen.latency_s)
        own.gaps_s.append(seen.emitted_s - before.emitted_s)
    return found


def _late(record: Record) -> list[float]:
    """By switch: how far the first frame's latency is above the slower plan's own p99 and one period; 0 is in time."""
    own = _own_figures(record)
    by_frame = {seen.frame: seen for seen in record.results}
    late = []
    for before, change in itertools.pairwise(record.changes):
        slower = max((own[_key(each.plan)][1] for each in (before, change)), key=lambda each: each.p99_s)
        late.append(by_frame[change.first_frame].latency_s - slower.p99_s - slower.period_s)
    return late


def _row(plan: Plan, own: Own) -> dict[str, Cell]:
    return {
        "route": " > ".join(stage.tier for stage in plan.stages),
        "cuts": ", ".join(stage.until for stage in plan.stages[:-1]),
        "codecs": ", ".join(link.codec for link in plan.links),
        "tiles": "" if plan.tiles is None else ", ".join(map(_grid, plan.tiles.stacks)),
        "frames": len(own.latencies_s),
        "period ms": round(own.period_s * 1e3, 2),
        "p50 ms": round(statistics.median(own.latencies_s) * 1e3, 1),
        "p99 ms": round(own.p99_s * 1e3, 1),
    }


def _grid(stack: TileStack) -> str:
    return f"{len(stack.rows)}x{len(stack.columns)} to {stack.until}"
