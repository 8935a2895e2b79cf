"""The cost of the halo, tile shares, and the choice of fused stacks."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import PlanError
from pipeline.model.graph import INPUT, OUTPUT
from pipeline.model.layouts import Layout
from pipeline.plan import TilePlan, in_chains
from pipeline.tiling.analysis import analysis_of, demand
from pipeline.tiling.crew import ChainTime, Crew, Exchange, stack_time
from pipeline.tiling.execute import TiledStack
from pipeline.tiling.fuse import (
    SpanCosts,
    StackChoice,
    equal_strips,
    fuse_everything,
    merge_every_layer,
    waists_between,
)
from pipeline.tiling.halo import StackReach, halo_overhead, tile_flops
from pipeline.tiling.regions import boundaries, equal_shares
from pipeline.tiling.search import Runs, choose_stacks
from pipeline.tiling.shares import balanced_strips, strips_for
from tests.pipeline.tiling.mixed import mixed

STACKS = [(INPUT, "mix.concat"), (INPUT, "stem.3"), ("wide", "add"), ("gate.widen", "last"), ("gate.mul", "up")]
GRIDS = [((0.5, 0.5), (1.0,)), ((0.2, 0.5, 0.3), (0.6, 0.4)), (equal_shares(4), equal_shares(3))]


def crew(*speeds: float, goodput_bps: float = 1e9) -> Crew:
    return Crew(speeds, {block.name: block.flops * 1e-8 + 1e-5 for block in mixed().graph.blocks}, goodput_bps)


@pytest.mark.parametrize(("rows", "columns"), GRIDS)
@pytest.mark.parametrize(("first", "last"), STACKS)
def test_work_and_bytes_are_those_of_the_reverse_tile_calculation(
    first: str, last: str, rows: tuple[float, ...], columns: tuple[float, ...]
) -> None:
    graph, analysis = mixed().graph, analysis_of(mixed())
    start, end = graph.cut(first), graph.cut(last)
    stack = TiledStack(mixed(), start, end, layout=Layout.CONTIGUOUS)
    tiles = stack.regions(rows, columns)
    made = {analysis.node(name) for name in stack.makes}
    expected = []
    for tile in tiles:
        found = demand(analysis.operators, stack.members, dict.fromkeys(made, tile))
        expected.append(sum(analysis.operators[n].flops(r) for n, r in found.items() if n in set(stack.members)))
    assert tile_flops(mixed(), start, end, rows, columns).ravel() == pytest.approx(expected)

    zeros = {name: torch.zeros(graph.tensors[name].shape) for name in start.tensors}
    parts = stack.split(zeros, tiles)
    reach = StackReach(analysis, end, start)
    cuts = (boundaries(rows, stack.size[0]), boundaries(columns, stack.size[1]))
    held = [sum(tensor.nbytes for tensor in part.values()) for part in parts]
    assert reach.bytes_in(start).of(*cuts).ravel() == pytest.approx(held)
    given_back = sum(graph.tensors[name].nbytes for name in stack.makes)
    assert reach.bytes_out(start).of(*cuts).sum() == pytest.approx(given_back)


def test_strip_costs_are_differences_of_two_lists() -> None:
    graph = mixed().graph
    start, end = graph.cut(INPUT), graph.cut("mix.concat")
    reach = StackReach(analysis_of(mixed()), end, start)
    first, last = reach.work(start).strips(reach.width)
    strips = boundaries((0.3, 0.45, 0.25), reach.height)
    found = reach.work(start).of(strips, boundaries((1.0,), reach.width)).ravel()
    assert found == pytest.approx([last[strip.stop - 1] - first[strip.start] for strip in strips])


def test_halo_grows_with_depth_and_with_tiles() -> None:
    graph = mixed().graph
    end = graph.cut("mix.concat")
    by_depth = [
        halo_overhead(mixed(), graph.cut(name), end, (0.5, 0.5), (1.0,)) for name in ("add", "narrow", "stem.3", INPUT)
    ]
    assert by_depth[0] == 0, "one layer reads more than it makes, but computes nothing twice"
    assert 0 < by_depth[1] and by_depth == sorted(by_depth)
    by_tiles = [halo_overhead(mixed(), graph.cut(INPUT), end, equal_shares(n), (1.0,)) for n in (1, 2, 3, 4)]
    assert by_tiles[0] == 0 and by_tiles == sorted(by_tiles)


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=4), st.integers(5, 16), st.floats(0, 20))
def test_balanced_strips_are_as_good_as_any(speeds: list[float], size: int, halo: float) -> None:
    def cost(worker: int, start: int, stop: int) -> float:
        return (min(stop + halo, size) - max(start - halo, 0)) / speeds[worker]

    workers = range(len(speeds))
    table = np.array([[[cost(k, a, b + 1) for b in range(size)] for a in range(size)] for k in workers])
    strips = balanced_strips(table)
    slowest = max(cost(k, strip.start, strip.stop) for k, strip in enumerate(strips))
    assert strips[0].start == 0 and strips[-1].stop == size
    assert all(a.stop == b.start for a, b in itertools.pairwise(strips))
    every = itertools.combinations(range(1, size), len(speeds) - 1)
    edges = ([0, *inner, size] for inner in every)
    best = min(max(cost(k, a, b) for k, (a, b) in enumerate(itertools.pairwise(cut))) for cut in edges)
    assert slowest <= best * (1 + 1e-12)


def test_more_workers_than_rows_are_refused() -> None:
    with pytest.raises(PlanError, match="3 positions"):
        balanced_strips(np.ones((4, 3, 3)))


def test_unequal_workers_finish_together() -> None:
    graph = mixed().graph
    start, end = graph.cut(INPUT), graph.cut("stem.3")
    reach, unequal = StackReach(analysis_of(mixed()), end, start), crew(1.0, 0.5, 0.25)
    costs = reach.costs(start, unequal.block_s, {})
    strips = strips_for(costs, unequal, 3)
    one_row = max(
        costs.seconds.of([row], boundaries((1.0,), reach.width))[0, 0]
        for row in boundaries(equal_shares(reach.height), reach.height)
    )
    times = stack_time(costs, unequal, strips, boundaries((1.0,), reach.width)).worker_s
    assert max(times) - min(times) < 2 * one_row / 0.25
    thirds = boundaries(equal_shares(3), reach.height)
    assert max(times) < max(stack_time(costs, unequal, thirds, boundaries((1.0,), reach.width)).worker_s)


@given(st.floats(0.5, 1.0), st.integers(2, 3), st.sampled_from([1e8, 1e9, 1e11]))
def test_fitted_strips_are_never_slower_than_equal_ones(other: float, count: int, goodput_bps: float) -> None:
    graph = mixed().graph
    conditions = crew(1.0, *(other,) * (count - 1), goodput_bps=goodput_bps)
    reach = StackReach(analysis_of(mixed()), graph.cut("stem.3"), graph.cut(INPUT))
    costs = reach.costs(graph.cut(INPUT), conditions.block_s, {})
    found, equal = strips_for(costs, conditions, count), boundaries(equal_shares(count), reach.height)
    across = boundaries((1.0,), reach.width)
    found_s, equal_s = (stack_time(costs, conditions, rows, across).total_s for rows in (found, equal))
    assert found_s <= equal_s


@pytest.mark.parametrize("speeds", [(1.0, 1.0), (1.0, 0.5, 0.25), (1.0, 1.0, 1.0, 1.0), (0.2, 1.0)])
@pytest.mark.parametrize("goodput_bps", [1e7, 1e9, 1e11])
def test_ours_is_never_slower_than_the_choices_of_others(speeds: tuple[float, ...], goodput_bps: float) -> None:
    cuts, conditions = mixed().graph.cuts, crew(*speeds, goodput_bps=goodput_bps)
    ours = choose_stacks(mixed(), cuts[0], cuts[-1], conditions)
    for rival in (equal_strips, fuse_everything, merge_every_layer):
        assert ours.seconds <= rival(mixed(), cuts[0], cuts[-1], conditions).seconds * (1 + 1e-9)
    assert ours.seconds <= conditions.untiled_s([block.name for block in mixed().graph.blocks]) * (1 + 1e-9)
    assert covered(ours) == [block.name for block in mixed().graph.blocks]


@pytest.mark.parametrize("speeds", [(1.0, 1.0), (1.0, 0.5, 0.25)])
def test_chains_are_the_shortest_of_all(speeds: tuple[float, ...]) -> None:
    cuts = mixed().graph.cuts
    runs = Runs(SpanCosts(mixed(), cuts[0], cuts[-1], crew(*speeds, goodput_bps=1e10)))
    seen = 0
    for chain, (first, last) in itertools.product(runs.chains, itertools.combinations(range(len(runs.costs.cuts)), 2)):
        if np.isfinite(chain.best_s[first, last]) and last - first <= 8:
            inner = range(first + 1, last)
            ways = (way for count in range(1, len(inner) + 1) for way in itertools.combinations(inner, count))
            found = []
            for way in ways:
                links = list(itertools.pairwise((first, *way, last)))
                later = sum(chain.next_s[link] for link in links[1:])
                found.append(chain.first_s[links[0]] + later + chain.last_s[last])
            assert min(found) >= chain.best_s[first, last] * (1 - 1e-9)
            # One link by itself is no chain, but may be the shortest way to the waist before the last.
            assert sum(piece.seconds for piece in chain.pieces(first, last)) == pytest.approx(chain.best_s[first, last])
            seen += 1
    assert seen > 10


def test_strips_stay_where_that_is_cheaper_than_a_merge() -> None:
    graph = mixed().graph
    fast = crew(1.0, 1.0, goodput_bps=1e11)
    ours = choose_stacks(mixed(), graph.cuts[0], graph.cuts[-1], fast)
    assert any(piece.stack.chained for piece in ours.pieces)
    for before, piece in itertools.pairwise(ours.pieces):
        assert not piece.stack.chained or len(before.stack.rows) == len(piece.stack.rows) > 1
    slow = dataclasses.replace(fast, latency_s=1.0)
    assert not choose_stacks(mixed(), graph.cuts[0], graph.cuts[-1], slow).stacks


@pytest.mark.parametrize("count", [2, 3, 4])
def test_rows_at_the_edges_come_first_where_crossing_takes_longer_than_that(count: int) -> None:
    graph = mixed().graph
    costs = SpanCosts(mixed(), graph.cut("stem.3"), graph.cut("narrow"), crew(*[1.0] * count, goodput_bps=1e12))
    middle = next(number for number, cut in enumerate(costs.cuts) if cut.name == "wide")
    before, after = costs.costs(middle - 1, middle), costs.costs(middle, middle + 1)
    assert before is not None and after is not None
    strips = boundaries(equal_shares(count), before.size[0])

    def exchange(latency_s: float, again_s: float = costs.crew.again_s) -> Exchange:
        far = dataclasses.replace(costs.crew, latency_s=latency_s, again_s=again_s)
        return ChainTime(far, after).exchange(strips, strips, ChainTime(far, before).split_s(strips))

    prompt, far = exchange(latency_s=0.0), exchange(latency_s=1.0)
    assert far.is_early and far.next_s == pytest.approx(far.work_s + far.split_s), "no waiting, but a row by itself"
    assert far.split_s == pytest.approx(prompt.split_s) and far.waiting_s > prompt.waiting_s + 0.99
    assert not exchange(latency_s=1.0, again_s=10.0).is_early
    single = boundaries(equal_shares(before.size[0]), before.size[0])
    assert ChainTime(costs.crew, before).split_s(single) == np.inf, "of strips of one row nothing is left"


def covered(choice: StackChoice) -> list[str]:
    """Blocks of all pieces, which follow each other."""
    return [block.name for piece in choice.pieces for block in mixed().graph.between(piece.start, piece.end)]


def test_work_that_does_not_shrink_with_the_tile_speaks_against_tiles() -> None:
    cuts, free = mixed().graph.cuts, crew(1.0, 1.0, goodput_bps=1e11)
    stuck = dataclasses.replace(free, fixed_s=free.block_s)
    assert choose_stacks(mixed(), cuts[0], cuts[-1], free).stacks
    assert choose_stacks(mixed(), cuts[0], cuts[-1], stuck).stacks == ()


def test_slow_links_leave_everything_on_the_edge_node_and_fast_ones_do_not() -> None:
    cuts = mixed().graph.cuts
    assert choose_stacks(mixed(), cuts[0], cuts[-1], crew(1.0, 1.0, goodput_bps=1e4)).stacks == ()
    fast = choose_stacks(mixed(), cuts[0], cuts[-1], crew(1.0, 1.0, goodput_bps=1e11))
    assert fast.stacks
    plan = TilePlan(fast.stacks, ("edge", "tile"))
    at = cuts[0]
    for stack in plan.stacks:
        end = mixed().graph.cut(stack.until)
        if len(stack.rows) * len(stack.columns) > 1:
            tiled = TiledStack(mixed(), at, end, layout=Layout.CONTIGUOUS)
            assert len(tiled.regions(stack.rows, stack.columns)) > 1
        at = end


def test_waists() -> None:
    graph = mixed().graph
    found = waists_between(mixed(), graph.cut(INPUT), graph.cut(OUTPUT))
    assert found[0].name == INPUT and found[-1].name == OUTPUT
    for waist, cut in itertools.product(found, graph.cuts):
        assert waist.before(cut) or cut.before(waist)
    with pytest.raises(PlanError):
        waists_between(mixed(), graph.cut(OUTPUT), graph.cut(INPUT))


def test_a_crew_needs_a_worker() -> None:
    with pytest.raises(PlanError):
        Crew((), {})
    with pytest.raises(PlanError):
        Crew((1.0, 0.0), {})


def meetings(choice: StackChoice) -> int:
    """Of a chain one more than links; a stack by itself is scattered and merged."""
    tiled = [piece for piece in choice.pieces if piece.tiles > 1]
    return sum(len(chain) + 1 for chain in in_chains(tiled, lambda _, piece: piece.stack.chained))


def test_the_more_a_meeting_takes_the_fewer_there_are() -> None:
    graph, span = mixed().graph, (mixed().graph.cut(INPUT), mixed().graph.cut("mix.concat"))
    block_s = {block.name: block.flops * 1e-7 for block in graph.blocks}
    untiled_s = sum(block_s[block.name] for block in graph.between(*span))
    prices = (0.0, 0.01, 0.05, 0.2, 1.0, 4.0)
    found = [choose_stacks(mixed(), *span, Crew((1.0, 1.0), block_s, 1e12, meeting_s=untiled_s * p)) for p in prices]
    counts, seconds = [meetings(choice) for choice in found], [choice.seconds for choice in found]
    assert counts == sorted(counts, reverse=True) and counts[0] > 2 and counts[-1] == 0
    assert seconds == sorted(seconds) and seconds[-1] == pytest.approx(untiled_s)
