"""Random stacks of random operators: every tile equals the whole map, to floating-point rounding."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, fx

from pipeline.tiling.regions import Region
from tests.pipeline.tiling.flat import Flat, crop, regions, stacks

SETTINGS = settings(deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


def relative_error(found: Tensor, expected: Tensor, scale: Tensor) -> float:
    """Largest difference, relative to the largest magnitude in the whole map."""
    return float((found.double() - expected).abs().max() / scale.abs().max().clamp(min=1e-30))


def check(flat: Flat, last: fx.Node, picks: list[Region]) -> None:
    operators = flat.describe()
    assert not [operator.barrier for operator in operators.values() if operator.barrier]
    source = next(node for node in flat.program.graph.nodes if node.op == "placeholder")
    x = torch.randn(flat.shape(source), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    expected = flat.run(last, x)
    # A dilated pooling window that lies wholly in the padding gives minus infinity, tiled or not.
    assume(bool(torch.isfinite(expected).all()))
    for region in picks:
        tile = flat.run_tile(operators, last, region, x)
        assert relative_error(tile, crop(expected, region), expected) < 1e-12
        single = flat.run_tile(operators, last, region, x.float().double().float())
        assert single.dtype == torch.float32
        assert relative_error(single, crop(flat.run(last, x.float().double()), region), expected) < 1e-5


@given(st.data())
@settings(SETTINGS, max_examples=150)
def test_any_tile_of_any_stack_equals_the_whole_map(data: st.DataObject) -> None:
    flat, last = data.draw(stacks())
    check(flat, last, [data.draw(regions(*flat.shape(last)[2:])) for _ in range(3)])


@given(st.data())
@settings(SETTINGS, max_examples=10)
def test_a_map_of_one_row_keeps_its_axes_through_a_channel_shuffle(data: st.DataObject) -> None:
    flat = Flat()
    x = flat.input(1, 2, 1, 6)
    parts = flat.call(torch.ops.aten.reshape.default, x, [-1, 2, 1, 1, 6])
    mixed = flat.call(torch.ops.aten.transpose.int, parts, 1, 2)
    back = flat.call(torch.ops.aten.reshape.default, mixed, [-1, 2, 1, 6])
    last = flat.call(torch.ops.aten.max_pool2d.default, back, [1, 3], [1, 1], [0, 1])
    check(flat, last, [data.draw(regions(1, 6))])


@pytest.mark.slow
@pytest.mark.timeout(1200)
@given(st.data())
@settings(SETTINGS, max_examples=4000)
def test_any_tile_of_many_stacks_equals_the_whole_map(data: st.DataObject) -> None:
    flat, last = data.draw(stacks(most=12))
    check(flat, last, [data.draw(regions(*flat.shape(last)[2:])) for _ in range(4)])
