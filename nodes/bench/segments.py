"""The whole network as one segment, beside the plain `nn.Module` in eval and inference mode.

Both run in turn in this process, so that whatever else the machine does falls on both. A round's ratio is
segment time over module time; the figure is the median ratio of all rounds. The bar is 1.0 on that median: noise
alone moves it either way, and no allowance is made for it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import torch

from nodes.bench.report import Bar, BenchReport, Cell
from pipeline.model.capture import capture
from pipeline.model.segment import Segment
from pipeline.model.spec import load_plain

MODELS = (
    "pytorchcv.models.alexnet:alexnet",
    "pytorchcv.models.vgg:vgg16",
    "pytorchcv.models.resnet:resnet18",
    "pytorchcv.models.resnet:resnet50",
    "pytorchcv.models.mobilenetv2:mobilenetv2_w1",
    "pytorchcv.models.darknet53:darknet53",
    "pytorchcv.models.densenet:densenet121",
    "pytorchcv.models.inceptionv4:inceptionv4",
)
MAX_RATIO = 1.0
ROUNDS = 15


def run(models: Sequence[str] = MODELS, rounds: int = ROUNDS, threads: int = 1) -> BenchReport:
    """Measure each model.

    Args:
        models: specs.
        rounds: pairs of runs, after two warm ones.
        threads: of torch; put back afterwards.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        rows = [_measure(spec, rounds) for spec in models]
    finally:
        torch.set_num_threads(before)
    bars = [Bar(f"{row['model']}: segment / module", float(str(row["ratio"])), MAX_RATIO, "max") for row in rows]
    notes = [f"medians of {rounds} interleaved rounds, {threads} torch thread(s), batch 1, random weights"]
    return BenchReport("segments", rows, bars, notes)


def _measure(spec: str, rounds: int) -> dict[str, Cell]:
    plain = load_plain(spec)
    module = plain.module.eval()
    begin = time.perf_counter()
    captured = capture(module, plain.example, plain.name)
    capture_s = time.perf_counter() - begin
    cuts = captured.graph.cuts
    segment = Segment(captured, cuts[0], cuts[-1])
    picture = torch.randint(0, 256, plain.example.shape, dtype=torch.uint8)
    runs: tuple[Callable[[], object], ...] = (
        torch.inference_mode()(lambda: module(picture)),
        lambda: segment.run({"input": picture}),
    )
    times = _interleaved(runs, rounds)
    return {
        "model": plain.name,
        "layout": segment.layout.value,
        "module_ms": round(statistics.median(times[0]) * 1e3, 2),
        "segment_ms": round(statistics.median(times[1]) * 1e3, 2),
        "ratio": round(statistics.median(ours / theirs for theirs, ours in zip(*times, strict=True)), 3),
        "capture_s": round(capture_s, 2),
    }


def _interleaved(runs: Sequence[Callable[[], object]], rounds: int) -> list[list[float]]:
    times: list[list[float]] = [[] for _ in runs]
    for round_number in range(rounds + 2):
        for index, function in enumerate(runs):
            start = time.perf_counter()
            function()
            if round_number >= 2:
                times[index].append(time.perf_counter() - start)
    return times
