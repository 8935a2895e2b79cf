"""Frames/s of a live stream while strangers flood and forge on every one of its sockets.

The strangers know all that can be heard on the plans' socket. They run at the lowest priority, as if on machines of
their own, since what is measured is what they do to the nodes and not what they take of this machine's cores.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import psutil
import torch

from nodes.bench._chaos import NAMES, STREAM, Chaos, Scene
from nodes.bench._data import video
from nodes.bench._stranger import Knowledge, attack
from nodes.bench.report import Bar, BenchReport, Cell
from pipeline.model.spec import load_model
from pipeline.plan import Tier
from scheduler.events import LogDecision, decode_line

MODEL = "builtin"
FPS = 15.0
SECONDS = 20.0
"""Of each phase."""

CUT_OFF_S = 2.0
"""Strangers are at it for this long before frames are counted."""

LEAST = 0.9
MOST_MIB = 150.0
"""Beyond what a process had before: the queues of the sockets, for the few connections that are up at a time."""


def run(seconds: float = SECONDS, fps: float = FPS) -> BenchReport:
    """Run calm, attacked and calm again."""
    torch.set_num_threads(1)
    model = load_model(MODEL)
    with tempfile.TemporaryDirectory() as folder:
        chaos = Chaos(Path(folder), model, Scene(MODEL, video(), fps=fps, tile_workers=1))
        with chaos.running():
            if not chaos.runs(tuple(NAMES[tier] for tier in Tier), 60.0):
                raise TimeoutError(f"the stream did not reach its plan: {chaos.state()}")
            chaos.recover()
            before = _counted(chaos, seconds)
            memory = _memory(chaos)
            with attack(_endpoints(chaos), _knowledge(chaos)):
                threading.Event().wait(CUT_OFF_S)
                during = _counted(chaos, seconds)
                grown = {name: _memory(chaos)[name] - memory[name] for name in memory}
            after = _counted(chaos, seconds)
            given_up = _given_up(chaos)
        refused: Counter[str] = chaos.device.loop.links.refused
        account = chaos.account
        row: dict[str, Cell] = {
            "frames/s before": round(before, 2), "under attack": round(during, 2), "after": round(after, 2),
            "most memory grown, MiB": round(max(grown.values()), 1), "by": max(grown, key=lambda name: grown[name]),
            "refused by the device": sum(refused.values()) - refused["cut off"], "cut off by it": refused["cut off"],
        }  # fmt: skip
        bars = [
            Bar("frames/s under attack, of before and after", during / ((before + after) / 2), LEAST, "min"),
            Bar("unaccounted frames", chaos.unaccounted, 0, "max"),
            Bar("wrong or out of order", account.wrong + account.out_of_order, 0, "max"),
            Bar("nodes taken for dead", len(given_up), 0, "max"),
            Bar("most memory grown, MiB", max(grown.values()), MOST_MIB, "max"),
        ]
    return BenchReport("hostile", [row], bars, [f"{MODEL}, {fps:g} frames/s offered, {seconds:g} s a phase"])


def _counted(chaos: Chaos, seconds: float) -> float:
    begin, begin_s = chaos.account.results, time.monotonic()
    chaos.done.wait(seconds)
    return (chaos.account.results - begin) / (time.monotonic() - begin_s)


def _given_up(chaos: Chaos) -> list[str]:
    """Nodes of this deployment that the scheduler has taken for dead."""
    lines = (decode_line(data) for data in chaos.events.read_bytes().splitlines()[1:])
    records = (line.instruction.record for line in lines if isinstance(line.instruction, LogDecision))
    return [record.node for record in records if record.kind == "death" and record.node in chaos.family.children]


def _memory(chaos: Chaos) -> dict[str, float]:
    pids = {name: child.process.pid for name, child in chaos.family.children.items()}
    found = {name: psutil.Process(pid).memory_info().rss / 2**20 for name, pid in pids.items()}
    return {**found, NAMES[Tier.DEVICE]: psutil.Process().memory_info().rss / 2**20}


def _endpoints(chaos: Chaos) -> dict[str, str]:
    """Every bound socket of the deployment."""
    found = {
        f"{kind} of {name}": endpoint
        for name, child in chaos.family.children.items()
        if name != "scheduler"
        for kind, endpoint in child.endpoints.items()
        if endpoint
    }
    agent = chaos.device.agent
    results = {} if agent is None else {"results": agent.identity.endpoints.results}
    return {**found, **results, "reports": chaos.address.reports, "plans": chaos.address.plans}


def _knowledge(chaos: Chaos) -> Knowledge:
    graph, plan = chaos.model.captured.graph, chaos.device.admission.plan
    crossing = tuple(graph.tensors[name] for name in graph.cut(plan.stages[0].until).tensors)
    outputs = tuple(graph.tensors[name] for name in graph.outputs)
    known = [tuple((spec.name, spec.shape, spec.dtype, "fp32") for spec in specs) for specs in (crossing, outputs)]
    return Knowledge(STREAM, graph.fingerprint, plan.epoch, NAMES[Tier.EDGE], "tile-1", *known)
