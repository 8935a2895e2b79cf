"""A long live run under a changing link and a random fault each minute: nothing lost, and nothing grows.

Resident memory, file handles (sockets are among them), threads and connections of every process are sampled all the
while. `growth` is what a straight line through the samples of the run's second half gains; `noise` is how far they are
from that line (two standard deviations). A process that has just been started builds plans and fills caches: so from a
third of the run on only the last tile worker is killed still, and all others, who are frozen at worst, are judged.
"""

from __future__ import annotations

import contextlib
import os
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import msgspec
import numpy as np
import psutil
import torch

from nodes.bench._chaos import NAMES, Chaos, Scene
from nodes.bench._data import video
from nodes.bench.report import Bar, BenchReport, Cell
from nodes.machine import machine_profile
from pipeline.errors import ConfigError
from pipeline.model import memory
from pipeline.model.spec import load_model
from pipeline.plan import Tier

MINUTES = 60.0
FAULT_S = 60.0
SAMPLE_S = 2.0
LEAST_SAMPLES = 10
FPS = 4.0
"""Modest: under a quarter of a core for all processes together."""

TRACE = "lte-driving-1.up"
MODEL = "builtin"
TILE_WORKERS = 2
FIXED = ("--cut", "layer1.0.conv1,layer3.1.add", "--codec", "q4", "--tile-stacks", "layer2.1.add")
SEED = 9
SLACK_MIB = 1.0
"""Beyond noise: an allocator's arena that was taken once."""


class Sample(msgspec.Struct, frozen=True):
    """One process at one time."""

    name: str
    pid: int
    at_s: float
    rss: int
    handles: int
    threads: int
    connections: int
    cpu_s: float


def run(minutes: float = MINUTES, planner: str = "fixed", samples: str = "") -> BenchReport:
    """Run it for so long.

    Args:
        minutes: how long.
        planner: `fixed` keeps every process at work. Under any other, edge node and tile workers mostly stand by at so
            modest a pace, and what their first frame takes, were it in the second half, would look like growth.
        samples: a file that every sample is written to at once, a JSON object a line; none is kept without it.

    Raises:
        ConfigError: that file cannot be written.
    """
    torch.set_num_threads(1)
    model = load_model(MODEL)
    rng, done = random.Random(SEED), list[str]()
    with tempfile.TemporaryDirectory() as folder:
        profile = Path(folder) / "profile.json"
        machine_profile(model.captured).save(profile)
        scene = Scene(
            MODEL, video(), fps=FPS, tile_workers=TILE_WORKERS, traces={(Tier.DEVICE, Tier.EDGE): TRACE}, exact=False,
            scheduler=FIXED if planner == "fixed" else ("--planner", planner, "--profile", f"*={profile}"),
        )  # fmt: skip
        chaos = Chaos(Path(folder), model, scene)
        # On disk: kept in memory they would be the growth that is measured.
        kept = Path(samples or Path(folder) / "samples.jsonl")
        with _opened(kept) as file, chaos.running():
            memory.settle()  # as every device does
            begin_s = time.monotonic()
            fault_s, mend_s = begin_s + FAULT_S, begin_s + 1.5 * FAULT_S
            while (now := time.monotonic()) < begin_s + 60.0 * minutes:
                chaos.check_alive()
                for sample in _sampled(chaos, now - begin_s):
                    file.write(msgspec.json.encode(sample) + b"\n")
                file.flush()
                if now >= mend_s:
                    chaos.mend_all()
                    mend_s += FAULT_S
                if now >= fault_s:
                    is_late = now - begin_s >= 20.0 * minutes
                    done.append(chaos.strike(rng, spared=chaos.names[:-1] if is_late else ()))
                    fault_s += FAULT_S
                chaos.done.wait(SAMPLE_S)
            chaos.mend_all()
        disk = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file() and path != kept)
        found = [msgspec.json.decode(line, type=Sample) for line in kept.read_bytes().splitlines()]
        return _report(chaos, found, done, minutes, disk)


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("wb")
    except OSError as error:
        raise ConfigError(f"samples={path}", str(error), "name a file that can be written") from error


def _sampled(chaos: Chaos, at_s: float) -> list[Sample]:
    pids = {NAMES[Tier.DEVICE]: os.getpid()}
    pids |= {name: child.process.pid for name, child in chaos.family.children.items() if child.is_running}
    found = []
    for name, pid in pids.items():
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid)
            with process.oneshot():
                times = process.cpu_times()
                found.append(
                    Sample(
                        name, pid, at_s, process.memory_info().rss, process.num_fds(), process.num_threads(),
                        len(process.net_connections("tcp")), times.user + times.system,
                    )
                )  # fmt: skip
    return found


def rows_of(samples: Sequence[Sample], minutes: float) -> list[dict[str, Cell]]:
    """A row for each process; growth and noise for those that lived through the second half of so many minutes."""
    half_s = 30.0 * minutes
    rows: list[dict[str, Cell]] = []
    for name, pid in dict.fromkeys((each.name, each.pid) for each in samples):
        life = [each for each in samples if each.pid == pid]
        is_whole = life[0].at_s < half_s and life[-1].at_s > 2.0 * half_s - FAULT_S
        if len(life) >= LEAST_SAMPLES:
            rows.append(_row(name, life, [each for each in life if is_whole and each.at_s >= half_s]))
    return rows


def _report(chaos: Chaos, samples: list[Sample], done: list[str], minutes: float, disk: int) -> BenchReport:
    rows = rows_of(samples, minutes)
    growths = [over for row in rows if (over := _over(row)) is not None]
    account, ledger = chaos.account, chaos.device.admission.ledger
    cpu_s = sum(_spent(samples, pid) for pid in {each.pid for each in samples})
    bars = [
        Bar("unaccounted frames", chaos.unaccounted, 0, "max"),
        Bar("results out of order", account.out_of_order, 0, "max"),
        Bar("growth of memory beyond noise, MiB", max(growths), SLACK_MIB, "max"),
        Bar("processes whose memory is judged", len(growths), len(NAMES) + TILE_WORKERS, "min"),
        Bar("growth of handles", max(int(row["handles grown"] or 0) for row in rows), 0, "max"),
        Bar("growth of threads", max(int(row["threads grown"] or 0) for row in rows), 0, "max"),
    ]
    notes = [
        f"{minutes:g} minutes, {ledger.admitted} frames, {len(chaos.faults)} faults: {', '.join(done)}",
        f"admitted again {dict(ledger.readmissions)}; {cpu_s / (60 * minutes):.2f} cores for all processes together; "
        f"{disk / 2**20 / minutes:.2f} MiB of logs and events a minute",
    ]
    return BenchReport("soak", rows, bars, notes)


def _row(name: str, life: Sequence[Sample], judged: Sequence[Sample]) -> dict[str, Cell]:
    growth, noise = _trend(judged) if judged else (None, None)
    return {
        "process": name,
        "seconds": round(life[-1].at_s - life[0].at_s),
        "rss MiB": round(life[-1].rss / 2**20, 1),
        "growth MiB": growth,
        "noise MiB": noise,
        "handles": life[-1].handles,
        "handles grown": _grown([each.handles for each in life]),
        "threads": life[-1].threads,
        "threads grown": _grown([each.threads for each in life]),
        "connections": life[-1].connections,
    }


def _trend(judged: Sequence[Sample]) -> tuple[float, float]:
    """What a straight line through the memory gains, and two standard deviations from it, in MiB."""
    at_s = np.array([each.at_s for each in judged])
    rss = np.array([each.rss for each in judged]) / 2**20
    slope, offset = np.polyfit(at_s, rss, 1)
    noise = 2.0 * float(np.std(rss - (slope * at_s + offset)))
    return round(float(slope * (at_s[-1] - at_s[0])), 2), round(noise, 2)


def _grown(counts: Sequence[int]) -> int:
    """By how much the median of a life's last third is above the most before: peers that go and come back move the
    count down and up again, a leak moves it up and up."""
    before = max(1, 2 * len(counts) // 3)
    return round(statistics.median(counts[before:] or counts) - max(counts[:before]))


def _over(row: dict[str, Cell]) -> float | None:
    growth, noise = row["growth MiB"], row["noise MiB"]
    return None if growth is None or noise is None else float(growth) - float(noise)


def _spent(samples: Sequence[Sample], pid: int) -> float:
    spent = [each.cpu_s for each in samples if each.pid == pid]
    return spent[-1] - spent[0]
