"""Ten thousand frames under `--admit every` with a fault every ten seconds: each has one result, in order, and right.

Edge, cloud and scheduler are killed, frozen and started again at random; the plan is fixed and in full precision, so
that every result can be held against what the network gives alone and undisturbed.
"""

from __future__ import annotations

import random
import tempfile
import time
from pathlib import Path

import torch

from nodes.bench._chaos import Chaos, Scene
from nodes.bench._data import video
from nodes.bench.report import Bar, BenchReport
from pipeline.model.spec import load_model

FRAMES = 10_000
FPS = 30.0
PAUSE_S = 10.0
"""From one fault to the next; who was hurt is woken or started again half way."""

SEED = 8


def run(frames: int = FRAMES, fps: float = FPS, model: str = "builtin") -> BenchReport:
    """Run it; minutes."""
    torch.set_num_threads(1)
    rng = random.Random(SEED)
    done: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        chaos = Chaos(Path(folder), load_model(model), Scene(model, video(), fps=fps, frames=frames))
        begin_s = time.monotonic()
        with chaos.running():
            while not chaos.done.wait(PAUSE_S / 2):
                done.append(chaos.strike(rng))
                if chaos.done.wait(PAUSE_S / 2):
                    break
                chaos.mend_all(wait=False)
        seconds = time.monotonic() - begin_s
        account, ledger = chaos.account, chaos.device.admission.ledger
        row = {
            "frames": ledger.admitted, "results": account.results, "seconds": round(seconds, 1),
            "faults": len(chaos.faults), "admitted again": sum(ledger.readmissions.values()),
            "second copies dropped": ledger.drops["duplicate"], "other top classes": account.other_top,
        }  # fmt: skip
        bars = [
            Bar("results", account.results, frames, "min"),
            Bar("unaccounted frames", chaos.unaccounted, 0, "max"),
            Bar("results out of order", account.out_of_order, 0, "max"),
            Bar("results that differ from the undisturbed ones", account.wrong + account.other_top, 0, "max"),
        ]
    return BenchReport("faults", [dict(row)], bars, [f"seed {SEED}, {video()}", ", ".join(done)])
