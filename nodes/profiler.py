"""Measures a network's segments on this machine: the only part of planning that runs anything.

Segments are measured in the rhythm of a node: a run that stands for the frame before, a pause, and the run that is
timed. Without the pause caches stay warm: ResNet-18's first 6 ms take a tenth less than behind 60 ms of waiting, its
last 2.4 ms a quarter less (a busy wait instead changes nothing; a second run in a row is as fast as in a loop). Without
the run before it, the allocator has given back to the system what the last segment used, or not: MobileNetV2's first
2 ms then take 2 or 5, and 1,144 page faults or none.

Times are the computing thread's own where torch computes with one thread, so that whatever else runs on the machine
does not get into the profile (live, that is the load estimate's business); wall time otherwise.
"""

from __future__ import annotations

import itertools
import logging
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nodes.working_memory import peak_bytes
from pipeline.model.capture import CapturedModel
from pipeline.model.graph import Cut, ModelGraph, TensorSpec
from pipeline.model.segment import Segment
from pipeline.packing import codec as codecs
from scheduler.fitting import Sample, fit, steady
from scheduler.profile import Profile, blocks_before, working_bytes

log = logging.getLogger(__name__)

SEGMENTS_PER_BLOCK = 3
SEGMENTS = (120, 800)
"""Different segments that are measured: three per block, within these bounds."""

PAUSE_S = 0.02
"""Between a visit's two runs."""

LEAST_SEGMENTS = 40
"""However short the budget."""

MEAN_SHARE = 0.4
"""Of the whole network's time, that a random segment takes, building it included."""

VISITS = (6, 40)
"""Every segment is visited at least and at most this often, in rounds over all of them: whatever else keeps the
machine busy for seconds must not fall on some segments only."""

MEMORY_SEGMENTS = 10
"""Segments from the input on whose memory is measured."""

PACKING_CODEC = "q4"
PACKING_SHAPE = (1, 64, 56, 56)
"""What packing is measured with: an activation of a typical early cut."""

Progress = Callable[[float, str], None]
"""Told the share that is done (0..1), and what is being measured."""


@dataclass(frozen=True)
class ProfilerSettings:
    """How to measure."""

    budget_s: float = 120.0
    """Measuring ends after this, but not before every segment has been visited `VISITS[0]` times."""
    torch_threads: int = 1
    """0 leaves torch's own choice."""
    torch_device: str = "cpu"
    seed: int = 0


def profile_node(captured: CapturedModel, node: str, settings: ProfilerSettings, progress: Progress) -> Profile:
    """Measure a network on this machine.

    Args:
        captured: the network.
        node: name that the profile gets.
        settings: budget and threads.
        progress: told how far it is.

    Raises:
        ModelError: the torch device is not there.
    """
    if settings.torch_threads:
        torch.set_num_threads(settings.torch_threads)
    rng = np.random.default_rng(settings.seed)
    bench = _Bench(captured, settings)
    samples = _measure_all(bench, rng, progress)
    timing, error = fit(captured.graph, samples)
    progress(1.0, "packing beside compute")
    packing_s, contention = bench.packing()
    progress(1.0, "memory")
    memory_scale, memory_error = _memory(bench)
    return Profile(
        fingerprint=captured.graph.fingerprint,
        model=captured.graph.name,
        node=node,
        timing=timing,
        error=error,
        torch_device=settings.torch_device,
        torch_threads=torch.get_num_threads(),
        segments=len(samples),
        packing_s_per_byte=packing_s,
        contention=contention,
        memory_scale=memory_scale,
        memory_error=memory_error,
    )


def _measure_all(bench: _Bench, rng: np.random.Generator, progress: Progress) -> list[Sample]:
    graph, budget_s = bench.captured.graph, bench.settings.budget_s
    count = _count(bench)
    chosen = list(dict.fromkeys(itertools.islice(_segments(graph, rng), 4 * count)))[:count]
    visits: list[tuple[int, float]] = []
    begin = time.perf_counter()
    for visit in range(VISITS[1]):
        for number in rng.permutation(len(chosen)):
            spent = (time.perf_counter() - begin) / budget_s
            if spent >= 1 and visit >= VISITS[0]:
                break
            visits.append((int(number), bench.visit(*chosen[number])))
            progress(min(spent, 1.0), f"{len(chosen)} segments, round {visit + 1}")
    numbers, seconds = (np.array(each) for each in zip(*visits, strict=True))
    typical = steady(numbers, seconds)
    return [Sample(start, end, float(found)) for (start, end), found in zip(chosen, typical, strict=True)]


def _memory(bench: _Bench) -> tuple[float, float | None]:
    """Working memory of some segments from the input on, over arithmetic: the largest ratio, and how far it is off."""
    graph = bench.captured.graph
    expected = working_bytes(graph, blocks_before(graph))
    ends = np.unique(np.linspace(1, len(graph.cuts) - 1, MEMORY_SEGMENTS).astype(int))
    measured = {int(end): bench.working_bytes(graph.cuts[end]) for end in ends}
    ratios = np.array([peak / expected[end] for end, peak in measured.items() if peak])
    if not len(ratios):
        return 1.0, None
    scale = float(ratios.max())
    return scale, float(np.median(np.abs(scale / ratios - 1.0)))


def _count(bench: _Bench) -> int:
    """How many segments to measure: as many as the network wants, and the budget can visit often enough."""
    graph = bench.captured.graph
    wanted = min(max(SEGMENTS_PER_BLOCK * len(graph.blocks), SEGMENTS[0]), SEGMENTS[1])
    whole_s = bench.visit(graph.cuts[0], graph.cuts[-1])
    visit_s = PAUSE_S + 2 * MEAN_SHARE * whole_s
    return max(min(wanted, int(bench.settings.budget_s / (VISITS[0] * visit_s))), LEAST_SEGMENTS)


def _segments(graph: ModelGraph, rng: np.random.Generator) -> Iterator[tuple[Cut, Cut]]:
    """Random segments without end: the whole network, then prefixes, suffixes and parts of all lengths."""
    yield graph.cuts[0], graph.cuts[-1]
    while True:
        kind = rng.random()
        start = graph.cuts[0] if kind < 0.25 else graph.cuts[int(rng.integers(0, len(graph.cuts) - 1))]
        if 0.25 <= kind < 0.5:
            yield start, graph.cuts[-1]
            continue
        end = _behind(graph, rng, start)
        if end is not None:
            yield start, end


def _behind(graph: ModelGraph, rng: np.random.Generator, start: Cut) -> Cut | None:
    """A random cut behind `start`, every length by powers of two as likely; None where the dice fell badly."""
    room = len(graph.blocks) - start.mask.bit_count()
    length = int(np.ceil(2 ** rng.uniform(0, np.log2(room)))) if room > 1 else room
    wanted = start.mask.bit_count() + length
    sizes = [cut.mask.bit_count() for cut in graph.cuts]
    first, last = np.searchsorted(sizes, wanted, "left"), np.searchsorted(sizes, wanted, "right")
    behind = [cut for cut in graph.cuts[int(first) : int(last)] if start.before(cut)]
    return behind[int(rng.integers(len(behind)))] if behind else None


class _Bench:
    """Runs segments on random tensors."""

    def __init__(self, captured: CapturedModel, settings: ProfilerSettings) -> None:
        self.captured, self.settings = captured, settings
        self._segments: dict[tuple[int, int], Segment] = {}
        self._random = torch.Generator().manual_seed(settings.seed)
        whole = self._segment(captured.graph.cuts[0], captured.graph.cuts[-1])
        whole.warm()

    def visit(self, start: Cut, end: Cut) -> float:
        """Seconds of one run of a segment, a pause after another one."""
        key = start.index, end.index
        if key not in self._segments:
            self._segments[key] = self._segment(start, end)
        segment, inputs, clock = self._segments[key], self._inputs(start), self._clock()
        segment.run(inputs)
        time.sleep(PAUSE_S)
        before = clock()
        segment.run(inputs)
        return max(clock() - before, 1e-7)

    def working_bytes(self, end: Cut) -> int | None:
        """Memory that a run of the segment from the input to `end` takes beside the weights; None where unknown."""
        segment, inputs = self._segment(self.captured.graph.cuts[0], end), self._inputs(self.captured.graph.cuts[0])
        segment.run(inputs)
        return peak_bytes(lambda: segment.run(inputs)) if self.settings.torch_device == "cpu" else None

    def packing(self) -> tuple[float, float]:
        """Seconds to pack one fp32 byte, and by how much one second of packing slows compute beside it."""
        if PACKING_CODEC not in codecs.names():
            return 0.0, 0.0
        spec = TensorSpec("reference", PACKING_SHAPE, unsigned=True)
        pack = _packer(spec)
        alone = _median(pack, pause_s=PAUSE_S)
        whole = self._segment(self.captured.graph.cuts[0], self.captured.graph.cuts[-1])
        inputs = self._inputs(self.captured.graph.cuts[0])
        quiet = _median(lambda: whole.run(inputs))
        with _Beside(pack) as beside:
            busy = _median(lambda: whole.run(inputs))
        share = beside.share
        slowdown = (busy - quiet) / (share * busy) if share > 0 else 0.0
        return alone / spec.nbytes, min(max(slowdown, 0.0), 1.0)

    def _segment(self, start: Cut, end: Cut) -> Segment:
        return Segment(self.captured, start, end, torch_device=self.settings.torch_device)

    def _inputs(self, cut: Cut) -> dict[str, Tensor]:
        specs = (self.captured.graph.tensors[name] for name in cut.tensors)
        return {spec.name: _random_tensor(spec, self._random) for spec in specs}

    def _clock(self) -> Callable[[], float]:
        alone = self.settings.torch_device == "cpu" and torch.get_num_threads() == 1
        return time.thread_time if alone else time.perf_counter


def _random_tensor(spec: TensorSpec, random: torch.Generator) -> Tensor:
    dtype: torch.dtype = getattr(torch, spec.dtype)
    if not dtype.is_floating_point:
        return torch.randint(0, 2 if dtype == torch.bool else 100, spec.shape, generator=random).to(dtype)
    found = torch.randn(spec.shape, generator=random).to(dtype)
    return found.relu() if spec.unsigned else found


def _packer(spec: TensorSpec) -> Callable[[], object]:
    codec = codecs.get(PACKING_CODEC)
    tensor = _random_tensor(spec, torch.Generator().manual_seed(0))
    return lambda: codec.encode(tensor, spec)


def _median(run: Callable[[], object], runs: int = 7, pause_s: float = 0.0) -> float:
    """Median wall time, each behind a pause."""
    run()
    found = []
    for _ in range(runs):
        time.sleep(pause_s)
        begin = time.perf_counter()
        run()
        found.append(time.perf_counter() - begin)
    return statistics.median(found)


class _Beside:
    """Runs something over and over in a thread of its own; `share` tells what part of the time it really ran."""

    def __init__(self, run: Callable[[], object]) -> None:
        self._run, self._stop = run, threading.Event()
        self._thread = threading.Thread(target=self._loop, name="packing", daemon=True)
        self.share = 0.0

    def __enter__(self) -> _Beside:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _loop(self) -> None:
        wall, own = time.perf_counter(), time.thread_time()
        while not self._stop.is_set():
            self._run()
        self.share = (time.thread_time() - own) / max(time.perf_counter() - wall, 1e-9)
