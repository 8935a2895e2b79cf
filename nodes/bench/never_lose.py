"""Our adaptive policy beside every rival, in simulation: traces x networks x device speeds x objectives.

The device's only way out is a link that follows the trace; the edge stands at its end, and the cloud 100 Mbit/s
behind. All policies plan on the same estimates of the same live core. `best fixed` is the best of several fixed plans
chosen afterwards: those that served most frames under our policy and the oracle, and those of the trace's mean and
lower rates. The oracle's figure is the better of its own and that one's. Throughput counts the results within the run
of a source that always has a frame; latency is the median of all frames of a camera, where one that
was let go, since a newer one took its place, counts as later than any other. Higher is better in all figures.
"""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import msgspec
import numpy as np
import typer

from nodes.bench.report import Bar, BenchReport, Cell
from pipeline.errors import ConfigError
from pipeline.model.graph import ModelGraph
from pipeline.model.spec import load_model
from pipeline.plan import Plan, Tier
from scheduler.foresight import ORACLE
from scheduler.objective import Objective
from scheduler.planners.joint import Joint
from scheduler.problem import DEVICE_EDGE, EDGE_CLOUD, LinkEstimate, Problem
from scheduler.simulate import Channel, RunRecord, Scenario, simulate
from scheduler.simulate.figures import MAX_DROP, SPEEDS, Machine, assumed_packing
from scheduler.simulate.scenario import node_name
from scheduler.tables import PackingTable, SegmentTimes
from traces.formats import read_traces
from traces.library import KINDS, library_trace
from traces.trace import Trace

MODELS = {
    "alexnet": "pytorchcv.models.alexnet:alexnet",
    "vgg16": "pytorchcv.models.vgg:vgg16",
    "resnet18": "pytorchcv.models.resnet:resnet18",
    "darknet53": "pytorchcv.models.darknet53:darknet53",
    "inceptionv4": "pytorchcv.models.inceptionv4:inceptionv4",
    "mobilenetv2": "pytorchcv.models.mobilenetv2:mobilenetv2_w1",
}
DEVICE_SPEEDS = {"4G": 4e9, "20G": 20e9, "100G": 100e9}
"""FLOP/s: an old single-board computer, a new one, a phone or an embedded accelerator."""

OBJECTIVES = ("throughput,latency", "latency,throughput")
OURS = "joint"
RIVALS = ("device-only", "cloud-only", "neurosurgeon", "dads", "dyno", "hpa")
FP32 = ("neurosurgeon", "dads", "hpa")
"""Rivals that send full precision."""

BEST_FIXED = "best fixed"
FIXED_PLANS = 6
SECONDS = 60.0
CAMERA_FPS = 2.0
"""For latency: slow enough that most plans keep up."""

ROUNDS = len(MODELS) * len(DEVICE_SPEEDS)
"""Until every cell has been."""

LEAST_OF_BEST = 0.99
LEAST_OF_ORACLE = 0.90
MOST = 1000.0
"""A gain counts as this at most: over a rival that answers next to nothing, or nothing, it has no meaning."""


@dataclass(frozen=True)
class Case:
    """One cell."""

    trace: Trace
    model: str
    speed: str
    objective: str

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.trace.name} {self.model} {self.speed} {self.goal}"

    @property
    def goal(self) -> str:
        """The first goal."""
        return self.objective.partition(",")[0]


def run(
    folder: str = "",
    rounds: int = 1,
    seconds: float = SECONDS,
    part: str = "1/1",
    results: str = "",
    show: str = "all",
) -> BenchReport:
    """Simulate the cells.

    Args:
        folder: of trace files; empty for `../shared/data/traces` where it is there, or else the library's traces.
        rounds: over all traces and objectives; in each, every one of them has another network and speed, and
            after 18 rounds all 972 cells of 27 traces have been.
        seconds: of each simulation, from the beginning of the trace.
        part: `3/12` for the third of twelve slices of these cells.
        results: a file of JSON lines: cells that are in it are taken from there, new ones are added as soon as they are
            done. Several processes may share it.
        show: `all` cells, or those that fall `short` alone; the figures are of all.

    Raises:
        ConfigError: a slice that cannot be, or rows that there are not.
    """
    if show not in ("all", "short"):
        raise ConfigError(f"show={show}", "unknown", "known are all, short")
    cases = sliced(ordered(load_traces(Path(folder) if folder else None), rounds), part)
    kept = Path(results) if results else None
    known = _read(kept)
    rows: list[dict[str, Cell]] = []
    for number, case in enumerate(cases):
        row = known.get((case.name, seconds))
        if row is None:
            began_s = time.monotonic()
            place: dict[str, Cell] = {"trace": case.trace.name, "model": case.model, "speed": case.speed}
            row = {**place, "goal": case.goal, "seconds": seconds, **measure(case, seconds)}
            row["wall s"] = round(time.monotonic() - began_s, 2)
            _append(kept, row)
            typer.echo(f"{number + 1}/{len(cases)} {case.name}: {row['wall s']} s", err=True)
        rows.append(row)
    return _report(rows, seconds, show)


def sliced(cases: Sequence[Case], part: str) -> list[Case]:
    """One of several equal runs of the cells.

    Raises:
        ConfigError: not `k/n` with k from 1 to n.
    """
    first, _, of = part.partition("/")
    if not (first.isdecimal() and of.isdecimal() and 1 <= int(first) <= int(of)):
        raise ConfigError(f"slice {part!r}", "not a part of a whole", "give 3/12 for the third of twelve")
    number, count = int(first), int(of)
    return list(cases[len(cases) * (number - 1) // count : len(cases) * number // count])


def _read(results: Path | None) -> dict[tuple[str, float], dict[str, Cell]]:
    if results is None or not results.exists():
        return {}
    rows: list[dict[str, Cell]] = [msgspec.json.decode(line) for line in results.read_bytes().splitlines()]
    names = ("trace", "model", "speed", "goal")
    return {(" ".join(str(row[name]) for name in names), _value(row, "seconds")): row for row in rows}


def _append(results: Path | None, row: dict[str, Cell]) -> None:
    if results is not None:
        with results.open("ab") as file:
            file.write(msgspec.json.encode(row) + b"\n")


def load_traces(folder: Path | None = None) -> list[Trace]:
    """The first run of every file of a folder; the library's, one of each kind, where there is no folder."""
    folder = folder or Path("../shared/data/traces")
    if not folder.is_dir():
        return [library_trace(f"{kind}-1.up") for kind in KINDS]
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [read_traces(path)[0].named(f"{path.parent.name}/{path.stem[:28]}{path.suffix}") for path in files]


def ordered(traces: Sequence[Trace], rounds: int = ROUNDS) -> list[Case]:
    """The cells, so that any run of them is a fair sample: each round has every trace and objective once."""
    grid = list(itertools.product(MODELS, DEVICE_SPEEDS))
    pairs = list(itertools.product(traces, OBJECTIVES))
    cases = []
    for turn, (number, (trace, objective)) in itertools.product(range(min(rounds, ROUNDS)), enumerate(pairs)):
        # 7 has no factor in common with the 18 pairs: in turn, all of them come up.
        model, speed = grid[(7 * number + number // ROUNDS + turn) % ROUNDS]
        cases.append(Case(trace, model, speed, objective))
    return cases


def measure(case: Case, seconds: float = SECONDS) -> dict[str, float]:
    """The figure of every policy in one cell: results per second, or one over the median latency."""
    records = {policy: simulate(scenario(case, policy, seconds)) for policy in (OURS, *RIVALS, ORACLE)}
    values = {policy: figure(case, record, seconds) for policy, record in records.items()}
    plans = _candidates(case, records, seconds)
    fixed = [figure(case, simulate(scenario(case, "fixed", seconds, plan)), seconds) for plan in plans]
    values[BEST_FIXED] = max([*fixed, values["device-only"]])
    # Both know the future: the oracle's next second, and the whole run in choosing the fixed plan.
    values[ORACLE] = max(values[ORACLE], values[BEST_FIXED])
    return values


def figure(case: Case, record: RunRecord, seconds: float) -> float:
    """What a run is judged by; more is better."""
    if case.goal == "throughput":
        return sum(done <= seconds for done in record.frames.done_s) / seconds
    latencies = sorted(record.frames.latency_s)
    middle = (len(latencies) + sum(record.totals.drops.values())) // 2
    return 1.0 / latencies[middle] if middle < len(latencies) else 0.0


def scenario(case: Case, policy: str, seconds: float, fixed: Plan | None = None) -> Scenario:
    """The cell's run under one policy."""
    graph, packing = graph_of(case.model)
    camera = {"fps": CAMERA_FPS, "admit": "latest"} if case.goal == "latency" else {}
    made = Scenario(
        graph=graph,
        packing=packing,
        times=times_of(case.model, case.speed),
        channels={
            DEVICE_EDGE: Channel(case.trace, 0.010),
            EDGE_CLOUD: Channel(Trace.constant(100e6), 0.010),
        },
        policy=policy,
        fixed=fixed,
        objective=Objective.parse(case.objective, max_drop=MAX_DROP),
        seconds=seconds,
    )
    return made.alike(**camera)


@cache
def graph_of(model: str) -> tuple[ModelGraph, PackingTable]:
    """A network and its packing table, loaded once."""
    graph = load_model(MODELS[model]).captured.graph
    return graph, assumed_packing(graph)


@cache
def times_of(model: str, speed: str) -> dict[Tier, SegmentTimes]:
    """Analytic times of the three tiers."""
    speeds = {**SPEEDS, Tier.DEVICE: DEVICE_SPEEDS[speed]}
    return {tier: Machine(each).times(graph_of(model)[0]) for tier, each in speeds.items()}


# --- the best fixed plan


def _candidates(case: Case, records: Mapping[str, RunRecord], seconds: float) -> list[Plan]:
    """Plans that served most frames, and those that suit the trace's mean and lower rates."""
    served: Counter[bytes] = Counter()
    plans: dict[bytes, Plan] = {}
    for policy in (OURS, ORACLE):
        epochs = records[policy].totals.epochs
        for use in records[policy].plans:
            key = msgspec.json.encode(msgspec.structs.replace(use.plan, epoch=1))
            plans[key] = msgspec.structs.replace(use.plan, epoch=1)
            served[key] += epochs.get(use.plan.epoch, 0)
    chosen = [key for key, _ in served.most_common(FIXED_PLANS - 2)]
    rates = case.trace.slice(0.0, seconds).resample(min(1.0, seconds)).rates_bps
    for rate_bps in (float(np.mean(rates)), float(np.percentile(rates, 25))):
        plan = _plan_at(case, max(rate_bps, 1.0))
        key = msgspec.json.encode(plan)
        plans[key] = plan
        chosen.append(key)
    return [plans[key] for key in dict.fromkeys(chosen)]


def _plan_at(case: Case, rate_bps: float) -> Plan:
    made = scenario(case, OURS, SECONDS)
    nodes = {tier: node_name(tier) for tier in made.times}
    links = {DEVICE_EDGE: LinkEstimate(rate_bps, 0.02), EDGE_CLOUD: LinkEstimate(100e6, 0.02)}
    problem = Problem(
        graph=made.graph,
        stream="stream-1",
        nodes=nodes,
        times={name: made.times[tier] for tier, name in nodes.items()},
        packing=made.packing,
        links=links,
        objective=made.objective,
        fps=made.fps or None,
        epoch=1,
    )
    return Joint().plan(problem).plan


# --- the report


def _report(rows: list[dict[str, Cell]], seconds: float, show: str = "all") -> BenchReport:
    for row in rows:
        rivals = {name: _value(row, name) for name in (*RIVALS, BEST_FIXED)}
        best = max(rivals, key=lambda name: rivals[name])
        row["of best rival"], row["best rival"] = _ratio(row, best), best
        row["of oracle"] = _ratio(row, ORACLE)
    short = [row for row in rows if _is_short(row)]
    ratios = [_of_best(row) for row in rows]
    oracle = [_value(row, "of oracle") for row in rows]
    bars = [
        Bar("least over the best rival", min(ratios, default=0.0), LEAST_OF_BEST, "min"),
        Bar("geometric mean of the oracle", geometric(oracle), LEAST_OF_ORACLE, "min"),
    ]
    notes = [
        f"{len(rows)} cells, {seconds:.0f} s each; figures: results/s (throughput), 1/s of median latency (latency)",
        f"below {LEAST_OF_BEST} of the best rival: {len(short)} cells; geometric mean over the best rival "
        f"{geometric(ratios):.3f}",
        "held against D3's 3.4x and DynO's 7.9x: their own best figures, on their machines and networks, not on these",
        *(_over(rows, rival) for rival in (*RIVALS, BEST_FIXED)),
        f"most over fp32 splitting {_most(rows, FP32):.1f}; over cloud-only {_most(rows, ('cloud-only',)):.1f}",
        *(f"falls short, by {name}: {_counts(short, rows, name)}" for name in ("goal", "model", "speed", "trace")),
    ]
    shown = sorted(short, key=_of_best) if show == "short" else rows
    for row in shown:
        for name in (OURS, *RIVALS, BEST_FIXED, ORACLE, "of best rival", "of oracle"):
            row[name] = round(_value(row, name), 3)
    return BenchReport("never_lose", shown, bars, notes)


def _is_short(row: Mapping[str, Cell]) -> bool:
    return _of_best(row) < LEAST_OF_BEST


def _of_best(row: Mapping[str, Cell]) -> float:
    return _value(row, "of best rival")


def _ratio(row: Mapping[str, Cell], rival: str) -> float:
    """Ours over a rival's figure; 1 where neither answers the median frame, and `MOST` at most."""
    ours, theirs = _value(row, OURS), _value(row, rival)
    if theirs > 0.0:
        return min(MOST, ours / theirs)
    return MOST if ours > 0.0 else 1.0


def _over(rows: Sequence[Mapping[str, Cell]], rival: str) -> str:
    """How much better ours is, over the cells in which the rival has a figure at all."""
    gains = [_ratio(row, rival) for row in rows if _value(row, rival) > 0.0]
    if not gains:
        return f"over {rival}: it has no figure"
    text = f"over {rival}: geometric mean {geometric(gains):.2f}, most {max(gains):.1f}, least {min(gains):.3f}"
    return f"{text}; it has none in {len(rows) - len(gains)} cells" if len(gains) < len(rows) else text


def _counts(short: Sequence[Mapping[str, Cell]], rows: Sequence[Mapping[str, Cell]], name: str) -> str:
    found, every = (Counter(str(row[name]) for row in each) for each in (short, rows))
    return ", ".join(f"{value} {count} of {every[value]}" for value, count in found.most_common()) or "none"


def _most(rows: Sequence[Mapping[str, Cell]], rivals: Sequence[str]) -> float:
    """Most over the best of several rivals."""
    best = [(row, max(rivals, key=lambda name: _value(row, name))) for row in rows]
    return max((_ratio(row, rival) for row, rival in best if _value(row, rival) > 0.0), default=0.0)


def _value(row: Mapping[str, Cell], name: str) -> float:
    value = row[name]
    return float(value) if isinstance(value, (int, float)) else 0.0


def geometric(values: Sequence[float]) -> float:
    """Geometric mean; 0 where a value is, or where there are none."""
    return math.exp(statistics.fmean(math.log(value) for value in values)) if min(values, default=0.0) > 0 else 0.0
