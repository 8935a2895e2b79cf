"""Tiled stacks of captured networks: split, run, merge."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pipeline.errors import PlanError
from pipeline.model.graph import INPUT, Cut
from pipeline.model.layouts import Layout, candidates
from pipeline.model.segment import Segment
from pipeline.plan import TilePlan, TileStack
from pipeline.tiling import execute
from pipeline.tiling.execute import TiledStack, stacks_of
from pipeline.tiling.regions import Interval, Region, equal_shares
from tests.pipeline.tiling.mixed import mixed

LAYOUTS = candidates(torch.device("cpu"))


def tensors_at(cut: Cut, batch: int = 1) -> dict[str, Tensor]:
    """What crosses a cut, for a random picture."""
    x = torch.randn(batch, 3, 64, 48, generator=torch.Generator().manual_seed(2))
    return Segment(mixed(), mixed().graph.cut(INPUT), cut, layout=Layout.CONTIGUOUS).run({INPUT: x})


def worst(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    assert list(found) == list(expected)
    return max(float((found[n] - expected[n]).abs().max() / expected[n].abs().max()) for n in expected)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("first", "last"), [(INPUT, "mix.concat"), ("wide", "add"), ("gate.widen", "last")])
def test_merged_tiles_equal_the_segment(first: str, last: str, layout: Layout) -> None:
    graph = mixed().graph
    start, end = graph.cut(first), graph.cut(last)
    inputs = tensors_at(start)
    expected = Segment(mixed(), start, end, layout=layout).run(inputs)
    stack = TiledStack(mixed(), start, end, layout=layout)
    for rows, columns in ((1, 1), (1, 2), (2, 1), (3, 3), (4, 4)):
        regions = stack.regions(equal_shares(rows), equal_shares(columns))
        assert worst(stack.run(inputs, regions), expected) < 1e-5
    unequal = stack.regions((0.55, 0.3, 0.15), (0.7, 0.3))
    assert worst(stack.run(inputs, unequal), expected) < 1e-5


def test_inputs_are_not_written_to() -> None:
    graph = mixed().graph
    start, end = graph.cut("wide"), graph.cut("add")
    inputs = tensors_at(start)
    before = {name: tensor.clone() for name, tensor in inputs.items()}
    for layout in LAYOUTS:
        stack = TiledStack(mixed(), start, end, layout=layout)
        stack.run(inputs, stack.regions((0.5, 0.5), (1.0,)))
    assert all(torch.equal(inputs[name], before[name]) for name in inputs)


def test_split_copies_nothing() -> None:
    graph = mixed().graph
    stack = TiledStack(mixed(), graph.cut(INPUT), graph.cut("stem.3"), layout=Layout.CONTIGUOUS)
    x = torch.randn(1, 3, 64, 48)
    parts = stack.split({INPUT: x}, stack.regions((0.5, 0.5), (0.5, 0.5)))
    assert all(part[INPUT].untyped_storage().data_ptr() == x.untyped_storage().data_ptr() for part in parts)
    assert sum(part[INPUT].numel() for part in parts) < 1.5 * x.numel()


def test_what_crosses_both_cuts_is_handed_through() -> None:
    graph = mixed().graph
    start, end = graph.cut("wide"), graph.cut("narrow")
    inputs = tensors_at(start)
    stack = TiledStack(mixed(), start, end, layout=Layout.CONTIGUOUS)
    assert stack.reads == ("wide",) and stack.makes == ("narrow",)
    made = stack.run(inputs, stack.regions((0.5, 0.5), (1.0,)))
    assert made["stem_3"] is inputs["stem_3"]


def test_a_gate_from_outside_is_needed_whole_by_every_tile() -> None:
    graph = mixed().graph
    stack = TiledStack(mixed(), graph.cut("gate.widen"), graph.cut("gate.mul"), layout=Layout.CONTIGUOUS)
    tile = stack.regions((0.5, 0.5), (1.0,))[1]
    needed = stack.needed(tile)
    assert needed["gate_widen"] == Region(Interval(0, 1), Interval(0, 1))
    assert needed["mix_concat"] == tile


def test_batches() -> None:
    graph = mixed().graph
    start, end = graph.cut(INPUT), graph.cut("mix.concat")
    inputs = tensors_at(start, batch=3)
    expected = Segment(mixed(), start, end, layout=Layout.CONTIGUOUS).run(inputs)
    stack = TiledStack(mixed(), start, end, layout=Layout.CONTIGUOUS)
    assert worst(stack.run(inputs, stack.regions((0.4, 0.6), (0.5, 0.5))), expected) < 1e-5


def test_bad_tiles_are_refused() -> None:
    graph = mixed().graph
    stack = TiledStack(mixed(), graph.cut(INPUT), graph.cut("stem.3"), layout=Layout.CONTIGUOUS)
    tile = stack.regions((0.5, 0.5), (1.0,))[0]
    with pytest.raises(PlanError, match="not given input"):
        stack.run_tile(tile, {})
    with pytest.raises(PlanError, match="where the tile needs"):
        stack.run_tile(tile, {INPUT: torch.zeros(1, 3, 64, 48)})
    with pytest.raises(PlanError, match="not inside"):
        stack.needed(Region(Interval(0, 99), Interval(0, 1)))


def test_programs_are_kept_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execute, "PROGRAMS_KEPT", 2)
    graph = mixed().graph
    stack = TiledStack(mixed(), graph.cut(INPUT), graph.cut("stem.0"), layout=Layout.CONTIGUOUS)
    tiles = stack.regions(equal_shares(4), (1.0,))
    for tile in tiles:
        stack.warm(tile, runs=1)
    assert list(stack._programs) == list(tiles[-2:])


def test_a_plan_may_run_blocks_untiled_between_its_stacks() -> None:
    graph = mixed().graph
    stacks = (TileStack("mix.concat", (0.5, 0.5)), TileStack("gate.widen"), TileStack("last", (0.3, 0.7), (0.5, 0.5)))
    planned = stacks_of(mixed(), TilePlan(stacks, ("edge", "tile")), graph.cut(INPUT), layout=Layout.CONTIGUOUS)
    assert [len(stack.regions) for stack in planned] == [2, 0, 4]
    tensors = tensors_at(graph.cut(INPUT))
    expected = tensors_at(graph.cut("last"))
    for stack in planned:
        tensors = stack.run(tensors)
    assert worst(tensors, expected) < 1e-5
    with pytest.raises(PlanError, match="global pooling"):
        bad = TilePlan((TileStack("gate.widen", (0.5, 0.5)),), ("edge",))
        stacks_of(mixed(), bad, graph.cut(INPUT), layout=Layout.CONTIGUOUS)
