"""How long each block takes on this machine, and how much of that a tile saves.

A tile of half the work does not take half the time: a convolution with many channels on a small map spends its time
reading weights, and every operator has a start. So each step is run untiled and as one tile of half the height, and
a line is laid through the two: seconds = fixed + (work of the tile) x rate.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.model.capture import CapturedModel
from pipeline.model.graph import Block, Cut
from pipeline.model.segment import Segment
from pipeline.tiling.analysis import analysis_of
from pipeline.tiling.execute import TiledStack
from pipeline.tiling.fuse import waists_between
from pipeline.tiling.halo import tile_flops

HALVES = (0.5, 0.5)


@dataclass(frozen=True)
class BlockTimes:
    """Seconds of each block of a span, as `Crew` wants them."""

    block_s: dict[str, float]
    fixed_s: dict[str, float]


def measure_blocks(captured: CapturedModel, start: Cut, end: Cut, runs: int = 3) -> BlockTimes:
    """Time every step from waist to waist, with as many threads as torch is set to; the fastest of `runs`,
    for the rest is other processes' doing.

    The blocks of a step with several (the branches of an inception module) share its time by their operations.
    A step is timed once: a stage is built while another one's frames run, which would have to wait for it.

    Raises:
        PlanError: `start` is not before `end`.
    """
    times = BlockTimes({}, {})
    for first, last in itertools.pairwise(waists_between(captured, start, end)):
        whole_s, fixed_s = _step_s(captured, first, last, runs)
        blocks = captured.graph.between(first, last)
        _share(times.block_s, blocks, whole_s)
        if fixed_s is not None:
            _share(times.fixed_s, blocks, fixed_s)
    return times


def _step_s(captured: CapturedModel, first: Cut, last: Cut, runs: int) -> tuple[float, float | None]:
    """Seconds of one step untiled, and of them what a tile does not save; None for that where it cannot be tiled."""
    key = ("step", first.name, last.name, torch.get_num_threads(), runs)
    with captured.lock:
        found: tuple[float, float | None] | None = captured.prepared.get(key)
    if found is None:
        segment = Segment(captured, first, last)
        given = _zeros(captured, first, segment.layout.memory_format)
        whole_s = _fastest(lambda: segment.run(given), runs)
        fixed_s = None
        if analysis_of(captured).why_no_stack(first, last) is None:
            fixed_s = _fixed_s(TiledStack(captured, first, last), given, whole_s, runs)
        found = whole_s, fixed_s
        with captured.lock:
            captured.prepared[key] = found
    return found


def _fixed_s(stack: TiledStack, given: Mapping[str, Tensor], whole_s: float, runs: int) -> float:
    if stack.size[0] < len(HALVES):
        return whole_s
    tile = stack.regions(HALVES, (1.0,))[0]
    [part] = stack.split(given, [tile])
    held = {name: tensor.contiguous(memory_format=stack.format_of(tensor)) for name, tensor in part.items()}
    half_s = _fastest(lambda: stack.run_tile(tile, held), runs)
    work = tile_flops(stack.captured, stack.start, stack.end, HALVES, (1.0,))
    untiled = tile_flops(stack.captured, stack.start, stack.end, (1.0,), (1.0,)).sum()
    share = float(work[0, 0] / untiled) if untiled else tile.rows.size / stack.size[0]
    return min(max((half_s - share * whole_s) / (1 - share), 0.0), whole_s) if share < 1 else whole_s


def _fastest(run: Callable[[], object], runs: int) -> float:
    run()
    found = []
    for _ in range(runs):
        begin = time.perf_counter()
        run()
        found.append(time.perf_counter() - begin)
    return min(found)


def _share(into: dict[str, float], blocks: Iterable[Block], seconds: float) -> None:
    weights = {block.name: max(block.flops, 1) for block in blocks}
    total = sum(weights.values())
    into.update({name: seconds * weight / total for name, weight in weights.items()})


def _zeros(captured: CapturedModel, cut: Cut, memory_format: torch.memory_format) -> dict[str, Tensor]:
    specs = [captured.graph.tensors[name] for name in cut.tensors]
    zeros = {spec.name: torch.zeros(spec.shape, dtype=getattr(torch, spec.dtype)) for spec in specs}
    return {
        name: each.contiguous(memory_format=memory_format) if each.dim() == 4 else each for name, each in zeros.items()
    }
