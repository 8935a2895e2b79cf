"""Chains: strips that stay with their workers, and are given the rows that they lack, equal the whole map."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pipeline.errors import PlanError
from pipeline.model.graph import INPUT, Cut
from pipeline.model.layouts import Layout, candidates
from pipeline.model.segment import Segment
from pipeline.tiling.analysis import analysis_of
from pipeline.tiling.execute import TiledStack
from pipeline.tiling.fuse import waists_between
from pipeline.tiling.regions import Interval, Region, boundaries, equal_shares
from pipeline.tiling.resident import (
    Seat,
    Strips,
    given_rows,
    in_turns,
    joined,
    lacked,
    seats_of,
    specs_of,
    within,
    without,
)
from pipeline.tiling.resident import given as given_back
from tests.pipeline.tiling.mixed import mixed
from tests.pipeline.tiling.test_execute import tensors_at, worst

LAYOUTS = candidates(torch.device("cpu"))
SPANS = [(INPUT, "mix.concat"), ("wide", "mix.concat"), ("gate.widen", "last"), ("gate.widen", "up")]


def shares(count: int) -> st.SearchStrategy[tuple[float, ...]]:
    parts = st.lists(st.floats(0.2, 1.0), min_size=count, max_size=count)
    return parts.map(lambda each: tuple(part / sum(each) for part in each))


@st.composite
def chains(draw: st.DrawFn) -> tuple[list[Cut], list[tuple[float, ...]], list[list[int]]]:
    """Cuts at which stacks begin and end, the shares of each stack, and who computes its strips."""
    first, last = draw(st.sampled_from(SPANS))
    graph = mixed().graph
    waists = waists_between(mixed(), graph.cut(first), graph.cut(last))
    inner = [cut for cut in waists[1:-1] if draw(st.booleans())]
    cuts = [waists[0], *inner, waists[-1]]
    analysis = analysis_of(mixed())
    cuts = [cut for cut in cuts if cut is waists[0] or analysis.why_no_stack(waists[0], cut) is None]
    count = draw(st.integers(2, 4))
    split, owners = [], []
    for _ in cuts[1:]:
        here = count if draw(st.booleans()) else draw(st.integers(1, 4))
        split.append(draw(shares(here)))
        owners.append([draw(st.integers(0, count - 1)) if draw(st.booleans()) else k % count for k in range(here)])
    return cuts, split, owners


def run(
    stacks: list[TiledStack],
    seats: tuple[tuple[Seat, ...], ...],
    end: Cut,
    inputs: dict[str, Tensor],
    ahead: bool,
    early: bool,
) -> tuple[dict[str, Tensor], int]:
    """A chain between several holders, "0" being the edge node; its outputs, and the rows that crossed.

    With `ahead`, room is made for what a strip needs before all of it is there; with `early`, the rows that a strip
    gives are computed by themselves, and given before the others are computed.
    """
    held: dict[str, Strips] = {}
    edge, crossed = held.setdefault("0", Strips()), 0

    def height(name: str) -> int:
        layout = stacks[0].analysis.layout(name)
        return layout.height if layout else 1

    for name, tensor in inputs.items():
        edge.put(stacks[0], name, (Interval(0, height(name)),), tensor)
    for stack, row in zip(stacks, seats, strict=True):
        for seat in row:
            if ahead and seat.owner in held:
                held[seat.owner].make_room(stack, seat.region)
        for seat in row:
            own = held.setdefault(seat.owner, Strips())
            for spec, (name, rows) in zip(specs_of(stack, seat.gets), seat.gets.items(), strict=True):
                sent = edge.rows(stack, name, rows)
                assert tuple(sent.shape) == spec.shape
                if own is not edge:
                    crossed += sum(each.size for each in rows)
                    own.put(stack, name, rows, sent)
        turns = [in_turns(seat.region, seat.gives) if early else ((seat.region,), ()) for seat in row]
        for turn in range(2):
            for seat, regions in zip(row, turns, strict=True):
                own = held[seat.owner]
                for region in regions[turn]:
                    for name, tensor in stack.run_tile(region, own.tile(stack, region)).items():
                        own.put(stack, name, (region.rows,), tensor)
                if turn == 0 and own is not edge:
                    for name, rows in given_back(stack, seat.gives).items():
                        edge.put(stack, name, rows, own.rows(stack, name, rows))
    last = stacks[-1]
    found = {
        name: inputs[name] if name in inputs else edge.rows(last, name, (Interval(0, height(name)),))
        for name in end.tensors
    }
    return found, crossed


@settings(deadline=None, max_examples=60)
@given(chains(), st.sampled_from(LAYOUTS), st.booleans(), st.booleans())
def test_any_chain_equals_the_segment(
    chain: tuple[list[Cut], list[tuple[float, ...]], list[list[int]]], layout: Layout, ahead: bool, early: bool
) -> None:
    cuts, split, owners = chain
    stacks = [TiledStack(mixed(), a, b, layout=layout) for a, b in itertools.pairwise(cuts)]
    strips = [
        [(region, str(owner)) for region, owner in zip(stack.regions(each, (1.0,)), own, strict=True)]
        for stack, each, own in zip(stacks, split, owners, strict=True)
    ]
    inputs = tensors_at(cuts[0])
    seats = seats_of(stacks, strips, cuts[-1])
    found, _ = run(stacks, seats, cuts[-1], inputs, ahead, early)
    assert worst(found, Segment(mixed(), cuts[0], cuts[-1], layout=layout).run(inputs)) < 1e-5
    for row in seats:
        assert joined(seat.region.rows for seat in row) == (Interval(0, row[-1].region.rows.stop),)


def test_only_rows_that_are_lacked_cross() -> None:
    graph = mixed().graph
    names = ("wide", "narrow", "add")
    stacks = [TiledStack(mixed(), graph.cut(a), graph.cut(b)) for a, b in itertools.pairwise(("stem.3", *names))]
    strips = [[(region, str(k)) for k, region in enumerate(stack.regions((0.5, 0.5), (1.0,)))] for stack in stacks]
    wide, narrow, add = seats_of(stacks, strips, graph.cut("add"))
    assert [sum(rows.size for rows in seat.gets["wide"]) for seat in narrow] == [1, 1], "a 3x3 kernel lacks one row"
    assert [seat.gives for seat in wide] == [seat.gets["wide"] for seat in reversed(narrow)]
    assert all(not seat.gets for seat in add), "a sum of maps that are there lacks nothing"
    assert all(seat.gives == () for seat in narrow), "and so nobody gives anything for it"
    assert [seat.gives for seat in add] == [(seat.region.rows,) for seat in add], "the end is given back whole"


def test_strips_must_be_as_wide_as_the_map() -> None:
    graph = mixed().graph
    stack = TiledStack(mixed(), graph.cut("wide"), graph.cut("narrow"))
    with pytest.raises(PlanError, match="no strip"):
        lacked([(stack, Region(Interval(0, 4), Interval(0, 5)))])
    strips = Strips()
    with pytest.raises(PlanError, match="not here"):
        strips.tile(stack, stack.regions(equal_shares(2), (1.0,))[0])


INTERVALS = st.tuples(st.integers(0, 20), st.integers(1, 6)).map(lambda each: Interval(each[0], sum(each)))


def rows_in(rows: tuple[Interval, ...]) -> set[int]:
    return {row for each in rows for row in range(each.start, each.stop)}


@given(INTERVALS, st.lists(INTERVALS, max_size=4))
def test_sets_of_rows(one: Interval, others: list[Interval]) -> None:
    held = joined(others)
    assert rows_in(held) == rows_in(tuple(others))
    assert all(a.stop < b.start for a, b in itertools.pairwise(held))
    assert rows_in(without(one, held)) == rows_in((one,)) - rows_in(held)
    assert rows_in(within(held, one)) == rows_in((one,)) & rows_in(held)
    assert given_rows([(each.start, each.stop) for each in held], Interval(0, 26)) == held


@pytest.mark.parametrize("edges", [[(0, 5)], [(4, 6), (1, 2)], [(1, 3), (3, 4)], [(3, 3)], [(8, 12)]])
def test_rows_that_a_strip_cannot_give_are_refused(edges: list[tuple[int, int]]) -> None:
    with pytest.raises(PlanError):
        given_rows(edges, boundaries((0.1, 0.9), 10)[1])


@given(st.integers(0, 20), st.integers(1, 20), st.lists(st.tuples(st.integers(0, 40), st.integers(1, 9)), max_size=4))
def test_turns_are_the_rows_that_are_given_and_then_the_others(
    start: int, size: int, asked: list[tuple[int, int]]
) -> None:
    strip = Region(Interval(start, start + size), Interval(0, 7))
    gives = within(joined(Interval(first, first + count) for first, count in asked), strip.rows)
    first, rest = in_turns(strip, gives)
    assert tuple(each.rows for each in first) == gives
    rows = [row for each in (*first, *rest) for row in range(each.rows.start, each.rows.stop)]
    assert sorted(rows) == list(range(start, start + size)), "each row once"
    assert all(each.columns == strip.columns for each in (*first, *rest))
