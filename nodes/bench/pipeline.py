"""How close a running pipeline comes to its bound: one over its slowest stage, measured alone.

For each fixed plan, every stage is first timed by itself in this process, with the thread count and the emulated
speed that its node will have. Then the real processes run the plan on rendered scenes. Several rounds; medians.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console

from nodes.bench.report import Bar, BenchReport, Cell, tell
from nodes.emulation import EmulatedSpeed
from nodes.local.run import LocalRun, RunSettings
from nodes.summary import Summary
from pipeline.model.graph import INPUT
from pipeline.model.spec import LoadedModel, load_model
from pipeline.plan import Plan, Tier
from pipeline.stage import prepare
from scheduler.handmade import even_cuts, plan_of

ROUNDS = 5
STREAM_S = 6.0
"""Each run has as many frames as the bound lets through in this time, and at least `FRAMES`."""
FRAMES = 30
MIN_SHARE = 0.95
"""Of the bound, that a pipeline must reach."""

MAX_OVERHEAD_SHARE = 0.05
MAX_OVERHEAD_S = 1e-3
"""A node may spend this much of its compute, or this long, per frame on unpacking and packing."""


@dataclass(frozen=True)
class Case:
    """A fixed plan on machines of fixed emulated speeds."""

    model: str
    part: str
    """Which cut: `even`, or the share of the work that the device and the edge do."""
    shares: tuple[float, ...]
    speeds: tuple[tuple[Tier, float], ...]
    codec: str = "fp32"


SLOW = ((Tier.DEVICE, 0.2), (Tier.EDGE, 0.4))
SLOWER = ((Tier.DEVICE, 0.1), (Tier.EDGE, 0.3))
RESNET = "pytorchcv.models.resnet:resnet18"
VGG = "pytorchcv.models.vgg:vgg16"
CASES = (
    Case(RESNET, "even", (), SLOW),
    Case(RESNET, "little on the device", (0.1, 0.5), SLOWER),
    Case(RESNET, "even, packed", (), SLOW, "q8"),
    Case(VGG, "even", (), SLOW),
    Case(VGG, "little on the device", (0.1, 0.5), SLOW),
    Case(VGG, "even, packed", (), SLOW, "q4"),
)


def run(networks: str = "", rounds: int = ROUNDS) -> BenchReport:
    """Measure all cases, or those of some networks.

    Args:
        networks: parts of their names, by comma, such as `resnet18`.
        rounds: of each case.
    """
    torch.set_num_threads(1)
    rows: list[dict[str, Cell]] = []
    bars: list[Bar] = []
    for case in CASES:
        if not any(name in case.model for name in networks.split(",")):
            continue
        row, case_bars = _measure(case, rounds)
        rows.append(row)
        bars.extend(case_bars)
    return BenchReport("pipeline", rows, bars)


def _measure(case: Case, rounds: int) -> tuple[dict[str, Cell], list[Bar]]:
    loaded = load_model(case.model)
    plan = _plan(case, loaded)
    shares, bounds, measured, outside = [], [], [], []
    for number in range(rounds):
        before = _stage_times(loaded, plan, dict(case.speeds))
        summary = _live(case, plan, max(FRAMES, round(STREAM_S / max(before))))
        after = _stage_times(loaded, plan, dict(case.speeds))
        # The machine's speed drifts: a run counts against what its stages took on either side of it.
        slowest_s = max((early + late) / 2 for early, late in zip(before, after, strict=True))
        bounds.append(1.0 / slowest_s)
        measured.append(summary.fps)
        tell(f"{case.model}, {case.part}: round {number + 1} of {rounds}, {summary.fps * slowest_s:.3f} of the bound")
        shares.append(summary.fps * slowest_s)
        outside.append(max(_overhead(stage.unpack_s + stage.pack_s, stage.compute_s) for stage in summary.stages))
    name = f"{loaded.captured.graph.name}, {case.part}"
    share, overhead = statistics.median(shares), statistics.median(outside)
    row: dict[str, Cell] = {
        "plan": name,
        "cuts": ", ".join(stage.until for stage in plan.stages[:-1]),
        "codec": case.codec,
        "bound frames/s": round(statistics.median(bounds), 2),
        "measured frames/s": round(statistics.median(measured), 2),
        "share of bound": round(share, 4),
        "worst round": round(min(shares), 4),
        "outside compute / allowed": round(overhead, 3),
    }
    bars = [Bar(f"{name}: measured / bound", share, MIN_SHARE, "min")]
    if case.codec == "fp32":
        bars.append(Bar(f"{name}: time outside compute / allowed", overhead, 1.0, "max"))
    return row, bars


def _overhead(outside_s: float, compute_s: float) -> float:
    return outside_s / max(MAX_OVERHEAD_S, MAX_OVERHEAD_SHARE * compute_s)


def _plan(case: Case, loaded: LoadedModel) -> Plan:
    graph = loaded.captured.graph
    cuts = even_cuts(graph, 2, case.shares)
    nodes = {tier: f"{tier}-1" for tier in Tier}
    return plan_of(graph, "device-1", nodes, ",".join(cut.name for cut in cuts), case.codec)


def _stage_times(loaded: LoadedModel, plan: Plan, speeds: dict[Tier, float], runs: int = 8) -> list[float]:
    """Median seconds of each stage by itself, at its node's emulated speed."""
    tensors = {INPUT: torch.randint(0, 256, loaded.captured.example.shape, dtype=torch.uint8)}
    times = []
    for hop, stage in enumerate(plan.stages):
        # Padded as its node pads it: behind a sleep the caches are colder than in a tight loop.
        program = prepare(loaded.captured, plan, hop)
        compute = EmulatedSpeed(speeds.get(stage.tier, 1.0)).around(program.compute)
        taken = []
        for _ in range(runs):
            begin = time.monotonic()
            outputs = compute(tensors)
            taken.append(time.monotonic() - begin)
        tensors = outputs
        times.append(statistics.median(taken))
    return times


def _live(case: Case, plan: Plan, frames: int) -> Summary:
    cuts = ",".join(stage.until for stage in plan.stages[:-1])
    with tempfile.TemporaryDirectory() as folder:
        settings = RunSettings(
            "scene:", Path(folder) / "run", case.model, frames=frames, cut=cuts, codec=case.codec,
            speeds=dict(case.speeds),
        )  # fmt: skip
        return LocalRun(settings, Console(quiet=True)).run()
