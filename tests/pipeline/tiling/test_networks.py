"""The six networks of the field: merged tiles equal the untiled maps, and the top-1 is the same."""

from __future__ import annotations

import functools
import itertools
import logging
import random

import pytest
import torch
from pytorchcv.model_provider import get_model
from torch import Tensor

from pipeline.model.capture import CapturedModel, capture
from pipeline.model.graph import INPUT, Cut
from pipeline.model.layouts import Layout, candidates
from pipeline.model.segment import Segment, fastest_layout
from pipeline.plan import TilePlan, in_chains
from pipeline.tiling.analysis import analysis_of
from pipeline.tiling.crew import Crew, seats
from pipeline.tiling.execute import TiledStack, stacks_of
from pipeline.tiling.fuse import waists_between
from pipeline.tiling.regions import Region, equal_shares
from pipeline.tiling.resident import seats_of
from pipeline.tiling.search import choose_stacks
from tests.pipeline.tiling.test_resident import run as run_chain

log = logging.getLogger(__name__)

SIZES = {"alexnet": 224, "vgg16": 224, "resnet18": 224, "darknet53": 224, "inceptionv4": 299, "mobilenetv2_w1": 224}
"""Input height and width of each network, and the networks of the issue."""

BOUND = 1e-5
"""Largest difference allowed, relative to the largest magnitude of the map."""

GRIDS = [(equal_shares(rows), equal_shares(columns)) for rows, columns in itertools.product(range(1, 5), repeat=2)][1:]
GRIDS += [((0.6, 0.4), (1.0,)), ((0.5, 0.3, 0.2), (1.0,)), ((0.25, 0.75), (0.65, 0.35))]
"""1x2 to 4x4, and unequal shares."""

MOST = 150
"""Stacks of a network that the slow test looks at, besides the deepest."""


@functools.lru_cache(maxsize=1)
def network(name: str, size: int) -> CapturedModel:
    """The captured network, with random weights (none are shipped); inputs may be smaller than its own."""
    torch.manual_seed(7)
    module = get_model(name, pretrained=False)
    if size != SIZES[name]:
        module = module.features
        if hasattr(module, "final_pool"):
            del module.final_pool  # its kernel is made for the full size
    return capture(module, torch.zeros(1, 3, size, size), name)


def reference(captured: CapturedModel, waists: tuple[Cut, ...], layout: Layout) -> dict[str, Tensor]:
    """Every tensor that crosses a waist, computed untiled."""
    shape = captured.example.shape
    tensors = {INPUT: torch.rand(shape, generator=torch.Generator().manual_seed(11)) * 2 - 1}
    for start, end in itertools.pairwise(waists):
        tensors.update(Segment(captured, start, end, layout=layout).run({n: tensors[n] for n in start.tensors}))
    return tensors


def stacks(captured: CapturedModel, waists: tuple[Cut, ...]) -> list[tuple[Cut, Cut]]:
    """Every fused stack from waist to waist."""
    analysis = analysis_of(captured)
    pairs = itertools.combinations(waists, 2)
    return [(start, end) for start, end in pairs if analysis.why_no_stack(start, end) is None]


def tiles(stack: TiledStack, number: int) -> tuple[Region, ...]:
    """A grid of the list, or the next one that the map is large enough for."""
    height, width = stack.size
    fitting = [grid for grid in GRIDS if len(grid[0]) <= height and len(grid[1]) <= width]
    rows, columns = fitting[number % len(fitting)]
    return stack.regions(rows, columns)


def error_of(captured: CapturedModel, pair: tuple[Cut, Cut], known: dict[str, Tensor], layout: Layout, n: int) -> float:
    """Largest relative error of a stack's merged maps."""
    stack = TiledStack(captured, *pair, layout=layout)
    made = stack.run({name: known[name] for name in pair[0].tensors}, tiles(stack, n))
    scales = {name: known[name].abs().max() for name in stack.makes}
    assert all(torch.isfinite(known[name]).all() and scales[name] > 0 for name in stack.makes)
    return max(float((made[name] - known[name]).abs().max() / scales[name]) for name in stack.makes)


@pytest.mark.parametrize(
    ("name", "size"), [("alexnet", 127), ("resnet18", 64), ("darknet53", 64), ("mobilenetv2_w1", 64)]
)
def test_sampled_stacks(name: str, size: int) -> None:
    captured = network(name, size)
    layout = fastest_layout(captured, torch.device("cpu"))
    waists = waists_between(captured, captured.graph.cuts[0], captured.graph.cuts[-1])
    known, every = reference(captured, waists, layout), stacks(captured, waists)
    picked = random.Random(3).sample(every, 5)
    assert max(error_of(captured, pair, known, layout, n) for n, pair in enumerate(picked)) < BOUND


def test_sampled_stacks_of_an_inception_network() -> None:
    """One module of each shape, cut out of the network, which takes long to capture whole."""
    torch.manual_seed(7)
    features = get_model("inceptionv4", pretrained=False).features
    part = torch.nn.Sequential(features.stage1.unit1, features.stage2.unit1, features.stage2.unit2)
    captured = capture(part, torch.zeros(1, 384, 19, 17), "inception modules")
    layout = fastest_layout(captured, torch.device("cpu"))
    waists = waists_between(captured, captured.graph.cuts[0], captured.graph.cuts[-1])
    known, every = reference(captured, waists, layout), stacks(captured, waists)
    picked = random.Random(3).sample(every, min(4, len(every)))
    assert max(error_of(captured, pair, known, layout, n) for n, pair in enumerate(picked)) < BOUND


def chosen_runs(
    captured: CapturedModel, layout: Layout, speeds: tuple[float, ...], x: Tensor, early: bool
) -> list[Tensor]:
    """The network's outputs with the stacks and chains that the system chooses, the edges of strips first or not."""
    cuts = captured.graph.cuts
    seconds = {block.name: block.flops * 2e-11 + 1e-5 for block in captured.graph.blocks}
    choice, tensors = choose_stacks(captured, cuts[0], cuts[-1], Crew(speeds, seconds)), {INPUT: x}
    for group in in_chains(choice.pieces, lambda _, piece: piece.stack.chained):
        end = group[-1].end
        if len(group) == 1:
            [stack] = stacks_of(captured, TilePlan((group[0].stack,), ("edge",)), group[0].start, layout=layout)
            tensors = stack.run(tensors)
            continue
        chain = [TiledStack(captured, piece.start, piece.end, layout=layout) for piece in group]
        rows = [stack.regions(piece.stack.rows, (1.0,)) for stack, piece in zip(chain, group, strict=True)]
        owners = [str(seat) for seat in seats(len(rows[0]), len(speeds))]
        strips = [list(zip(each, owners, strict=True)) for each in rows]
        tensors, crossed = run_chain(chain, seats_of(chain, strips, end), end, tensors, True, early)
        log.info("%s, %s: a chain of %d, %d rows crossed", captured.graph.name, speeds, len(chain), crossed)
    return list(tensors.values())


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", SIZES)
def test_stacks_at_full_size(name: str) -> None:
    """Stacks from waist to waist at full input size, layouts and grids in turn; the deepest ones in all grids.

    All stacks where there are no more than `MOST`, else as many, evenly spread.
    """
    captured = network(name, SIZES[name])
    waists = waists_between(captured, captured.graph.cuts[0], captured.graph.cuts[-1])
    every = stacks(captured, waists)
    ends = list(dict.fromkeys(end for _, end in every))
    deepest = [next(pair for pair in every if pair[1] is end) for end in ends[-1 :: -max(len(ends) // 3, 1)]][:3]
    runs = [(pair, n) for n, pair in enumerate(every[:: max(len(every) // MOST, 1)])]
    runs += [(pair, n) for pair in deepest for n in range(len(GRIDS))]
    layouts = candidates(torch.device("cpu"))
    for number, layout in enumerate(layouts):
        known = reference(captured, waists, layout)
        errors = [error_of(captured, pair, known, layout, n) for pair, n in runs[number :: len(layouts)]]
        equal = 100 * sum(error == 0 for error in errors) / len(errors)
        log.info("%s, %s: %d merges, %.0f %% bit-equal, worst %.1e", name, layout, len(errors), equal, max(errors))
        assert max(errors) < BOUND


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", SIZES)
def test_the_top_1_is_the_same(name: str) -> None:
    captured = network(name, SIZES[name])
    layout, cuts = fastest_layout(captured, torch.device("cpu")), captured.graph.cuts
    whole = Segment(captured, cuts[0], cuts[-1], layout=layout)
    crews = [(1.0, 1.0), (1.0, 0.5, 0.25), (1.0, 1.0, 1.0, 1.0)]
    for seed, speeds, early in itertools.product(range(3), crews, (False, True)):
        x = torch.rand(captured.example.shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1
        expected = list(whole.run({INPUT: x}).values())
        found = chosen_runs(captured, layout, speeds, x, early)
        assert [int(t.argmax()) for t in found] == [int(t.argmax()) for t in expected]
        worst = max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(found, expected, strict=True))
        log.info("%s, %s, edges first %s, picture %d: worst %.1e", name, speeds, early, seed, worst)
        assert worst < BOUND
