"""What keys cost: frames/s of the same fixed plan with every socket encrypted, over the same without.

ResNet-18 cut evenly over three processes of this machine. Rounds with and without keys take turns, and so does which
comes first, so that what else the machine does falls on both; the figure is the median of the rounds' ratios.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from rich.console import Console

from nodes.bench.report import Bar, BenchReport, Cell
from nodes.local.keys import NEW
from nodes.local.run import LocalRun, RunSettings
from nodes.summary import Summary
from pipeline.plan import Tier

ROUNDS = 5
FRAMES = 200
MIN_RATIO = 0.95

RESNET = "pytorchcv.models.resnet:resnet18"
CASES: Mapping[str, Mapping[Tier, float]] = {
    "full speed": {},
    "device 0.2, edge 0.4": {Tier.DEVICE: 0.2, Tier.EDGE: 0.4},
}
"""At full speed all nodes share this machine's cores with the encryption: the worst case."""


def run(rounds: int = ROUNDS, frames: int = FRAMES) -> BenchReport:
    """Measure both cases."""
    torch.set_num_threads(1)
    rows: list[dict[str, Cell]] = []
    bars: list[Bar] = []
    for name, speeds in CASES.items():
        fps: dict[str, list[float]] = {"": [], NEW: []}
        sent_bytes = 0.0
        for number in range(rounds):
            for keys in ("", NEW) if number % 2 else (NEW, ""):
                summary = _live(keys, speeds, frames)
                fps[keys].append(summary.fps)
                sent_bytes = sum(summary.link_bytes.values())
        ratios = [with_keys / without for with_keys, without in zip(fps[NEW], fps[""], strict=True)]
        ratio = statistics.median(ratios)
        rows.append(
            {
                "case": name,
                "frames/s without": round(statistics.median(fps[""]), 2),
                "frames/s with keys": round(statistics.median(fps[NEW]), 2),
                "ratio": round(ratio, 4),
                "worst round": round(min(ratios), 4),
                "kB a frame": round(sent_bytes / 1e3, 1),
            }
        )
        bars.append(Bar(f"{name}: frames/s with keys / without", ratio, MIN_RATIO, "min"))
    return BenchReport("keys", rows, bars)


def _live(keys: str, speeds: Mapping[Tier, float], frames: int) -> Summary:
    with tempfile.TemporaryDirectory() as folder:
        settings = RunSettings("scene:", Path(folder) / "run", RESNET, frames=frames, speeds=speeds, keys=keys)
        return LocalRun(settings, Console(quiet=True)).run()
