"""How long each block takes on this machine, and how much of that a tile saves.

A tile of half the work does not take half the time: a convolution with many channels on a small map spends its time
reading weights, and every operator has a start. So each step is run untiled and as one tile of half the height, and
a line is laid through the two: seconds = fixed + (work of the tile) x rate. Both are run in turns: what is fixed is a
small difference of the two, and the machine is not as fast in one moment as in the next.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from pipeline.model.capture import CapturedModel
from pipeline.model.graph import Block, Cut
from pipeline.model.segment import Segment
from pipeline.tiling.analysis import analysis_of
from pipeline.tiling.execute import TiledStack
from pipeline.tiling.fuse import waists_between
from pipeline.tiling.halo import tile_flops
from pipeline.tiling.regions import Region

HALVES = (0.5, 0.5)


@dataclass(frozen=True)
class BlockTimes:
    """Seconds of each block of a span, as `Crew` wants them."""

    block_s: dict[str, float]
    fixed_s: dict[str, float]


def measure_blocks(captured: CapturedModel, start: Cut, end: Cut, runs: int = 5) -> BlockTimes:
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
        found = _measured(captured, first, last, runs)
        with captured.lock:
            captured.prepared[key] = found
    return found


def _measured(captured: CapturedModel, first: Cut, last: Cut, runs: int) -> tuple[float, float | None]:
    """The same, measured now."""
    segment = Segment(captured, first, last)
    given = _zeros(captured, first, segment.layout.memory_format)
    untiled = partial(segment.run, given)
    if analysis_of(captured).why_no_stack(first, last) is not None:
        return _fastest([untiled], runs)[0], None
    stack = TiledStack(captured, first, last)
    if stack.size[0] < len(HALVES):
        [whole_s] = _fastest([untiled], runs)
        return whole_s, whole_s
    tile = stack.regions(HALVES, (1.0,))[0]
    [part] = stack.split(given, [tile])
    held = {name: tensor.contiguous(memory_format=stack.format_of(tensor)) for name, tensor in part.items()}
    whole_s, half_s = _fastest([untiled, partial(stack.run_tile, tile, held)], runs)
    return whole_s, _fixed_s(stack, tile, whole_s, half_s)


def _fixed_s(stack: TiledStack, tile: Region, whole_s: float, half_s: float) -> float:
    """Where a line through the times of all of a step and of a tile of the first of its halves begins."""
    work = tile_flops(stack.captured, stack.start, stack.end, HALVES, (1.0,))
    untiled = tile_flops(stack.captured, stack.start, stack.end, (1.0,), (1.0,)).sum()
    share = float(work[0, 0] / untiled) if untiled else tile.rows.size / stack.size[0]
    return min(max((half_s - share * whole_s) / (1 - share), 0.0), whole_s) if share < 1 else whole_s


def _fastest(each: Sequence[Callable[[], object]], runs: int) -> list[float]:
    """Least seconds of several things that are run in turns, behind a first one of each."""
    found: list[list[float]] = [[] for _ in each]
    for _ in range(runs + 1):
        for run, seconds in zip(each, found, strict=True):
            begin = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - begin)
    return [min(seconds[1:]) for seconds in found]


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
