"""What this machine allows: convolutional parts and tiles computed in processes of their own, nothing sent.

Two processes on two cores share memory bandwidth and the last cache, so that even two untiled copies that know
nothing of each other take longer than one alone. That is the ceiling of any split.

Run as a module, it is one such process: a line of JSON in (what to compute), a line of JSON out (seconds).
"""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import IO, cast

import torch
from torch import Tensor

from nodes.bench._cores import keep_to_core
from nodes.tiles.layout import Layout, TiledStep, WholeStep
from pipeline.model import memory
from pipeline.model.capture import CapturedModel
from pipeline.model.graph import Cut
from pipeline.model.segment import Segment
from pipeline.model.spec import load_model
from pipeline.packing.plain import DTYPES
from pipeline.tiling.execute import TiledStack
from pipeline.tiling.regions import Interval, Region

Job = tuple[str, str, tuple[int, int, int, int] | None]
"""Cuts, and rows and columns of a tile; None for the whole."""


class Bystander:
    """A process with the network and one torch thread."""

    def __init__(self, spec: str, core: int) -> None:
        self._child = subprocess.Popen(
            [sys.executable, "-m", __name__, spec], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        keep_to_core(core, self._child.pid)
        self._answer()

    def start(self, jobs: Sequence[Job], rounds: int) -> None:
        """Have it run each job `rounds` times, all in turn."""
        stream = cast(IO[str], self._child.stdin)
        stream.write(json.dumps({"jobs": jobs, "rounds": rounds}) + "\n")
        stream.flush()

    def seconds(self) -> list[float]:
        """Median seconds of each job."""
        return self._answer()

    def stop(self) -> None:
        """End it."""
        cast(IO[str], self._child.stdin).close()
        self._child.wait(timeout=60)
        cast(IO[str], self._child.stdout).close()

    def _answer(self) -> list[float]:
        found: list[float] = json.loads(cast(IO[str], self._child.stdout).readline())
        return found


@contextlib.contextmanager
def bystanders(spec: str, count: int) -> Iterator[list[Bystander]]:
    """Processes that can compute parts of a network at the same time."""
    with contextlib.ExitStack() as stack:
        found = []
        for core in range(count):
            found.append(Bystander(spec, core))
            stack.callback(found[-1].stop)
        yield found


def together(processes: Sequence[Bystander], jobs: Sequence[Sequence[Job]], rounds: int) -> list[list[float]]:
    """Run a list of jobs in each process, all at once; median seconds of each."""
    for process, own in zip(processes, jobs, strict=True):
        process.start(own, rounds)
    return [process.seconds() for process in processes]


def jobs_of(layout: Layout, worker: str) -> list[Job]:
    """A worker's tiles in a layout, in order; the edge node's untiled blocks too."""
    found: list[Job] = []
    for step, (start, end, _) in zip(layout.steps, layout.pieces, strict=True):
        if isinstance(step, TiledStep):
            for part in step.parts:
                if part.worker == worker:
                    rows, columns = part.region.rows, part.region.columns
                    found.append((start.name, end.name, (rows.start, rows.stop, columns.start, columns.stop)))
        elif worker == layout.crew[0]:
            found.append((start.name, end.name, None))
    return found


def computing_s(layout: Layout, seconds: dict[str, list[float]]) -> float:
    """Seconds of a frame if nothing but computing took any: of each stack, its slowest worker's."""
    left, total = {worker: iter(each) for worker, each in seconds.items()}, 0.0
    for step in layout.steps:
        if isinstance(step, WholeStep):
            total += next(left[layout.crew[0]])
        else:
            busy = dict.fromkeys(layout.crew, 0.0)
            for part in step.parts:
                busy[part.worker] += next(left[part.worker])
            total += max(busy.values())
    return total


class _Work:
    """A job that can be run again and again."""

    def __init__(self, captured: CapturedModel, job: Job) -> None:
        start, end = captured.graph.cut(job[0]), captured.graph.cut(job[1])
        self._zeros = _zeros(captured, start)
        self._segment = Segment(captured, start, end) if job[2] is None else None
        self._stack = None
        if job[2] is not None:
            first, stop, left, right = job[2]
            self._stack, self._region = (
                TiledStack(captured, start, end),
                Region(Interval(first, stop), Interval(left, right)),
            )
            [part] = self._stack.split(self._zeros, [self._region])
            self._zeros = {
                name: tensor.contiguous(memory_format=self._stack.format_of(tensor)) for name, tensor in part.items()
            }

    def seconds(self) -> float:
        begin = time.perf_counter()
        if self._segment is not None:
            self._segment.run(dict(self._zeros))
        elif self._stack is not None:
            self._stack.run_tile(self._region, self._zeros)
        return time.perf_counter() - begin


def _zeros(captured: CapturedModel, cut: Cut) -> dict[str, Tensor]:
    specs = [captured.graph.tensors[name] for name in cut.tensors]
    return {spec.name: torch.zeros(spec.shape, dtype=DTYPES[spec.dtype]) for spec in specs}


def _serve(spec: str) -> None:
    torch.set_num_threads(1)
    memory.keep_freed()
    captured = load_model(spec).captured
    sys.stdout.write("[]\n")
    sys.stdout.flush()
    for line in sys.stdin:
        asked = json.loads(line)
        work = [_Work(captured, job) for job in asked["jobs"]]
        for each in work:
            each.seconds()
        rounds = [[each.seconds() for each in work] for _ in range(asked["rounds"])]
        sys.stdout.write(json.dumps([statistics.median(each) for each in zip(*rounds, strict=True)]) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _serve(sys.argv[1])
