"""Cuts of random block graphs, against the definition."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import ModelError, UnknownCut
from pipeline.model import graph as graph_module
from pipeline.model.graph import INPUT, OUTPUT, Block, ModelGraph, TensorSpec, bits


@st.composite
def graphs(draw: st.DrawFn) -> ModelGraph:
    """Up to nine blocks; each reads one to three tensors made before it, and makes one or two."""
    made: list[str] = [INPUT]
    blocks: list[Block] = []
    for index in range(draw(st.integers(1, 9))):
        inputs = draw(st.lists(st.sampled_from(made), min_size=1, max_size=3, unique=True))
        outputs = tuple(f"t{index}_{part}" for part in range(draw(st.integers(1, 2))))
        blocks.append(Block(index, f"b{index}", "conv", (), tuple(inputs), outputs, 1, 0))
        made.extend(outputs)
    read = draw(st.lists(st.sampled_from(made[1:]), min_size=1, max_size=2, unique=True))
    tensors = {name: TensorSpec(name, (1, 2)) for name in made}
    return ModelGraph("random", "00", tuple(blocks), tensors, tuple(read))


def closed(graph: ModelGraph, mask: int) -> bool:
    """Whether every block of the set has its predecessors in it."""
    return all(graph.predecessors[index] & ~mask == 0 for index in bits(mask))


@given(graphs())
@settings(deadline=None, max_examples=60)
def test_cuts_are_exactly_the_closed_sets(graph: ModelGraph) -> None:
    expected = {mask for mask in range(graph.full_mask + 1) if closed(graph, mask)}
    assert [cut.mask for cut in graph.cuts] == sorted(expected, key=lambda mask: (mask.bit_count(), mask))
    assert graph.cuts_complete
    assert (graph.cuts[0].name, graph.cuts[-1].name) == (INPUT, OUTPUT)
    assert len({cut.name for cut in graph.cuts}) == len(graph.cuts)


@given(graphs())
@settings(deadline=None, max_examples=60)
def test_what_crosses_suffices_and_is_needed(graph: ModelGraph) -> None:
    for cut in graph.cuts:
        behind = graph.between(cut, graph.cut(OUTPUT))
        available = set(cut.tensors)
        for block in behind:
            assert available.issuperset(block.inputs), "a block behind the cut reads what does not cross it"
            available.update(block.outputs)
        assert available.issuperset(graph.outputs)
        read = {name for block in behind for name in block.inputs}
        assert all(name in read or name in graph.outputs for name in cut.tensors)


@given(graphs(), st.data())
@settings(deadline=None, max_examples=60)
def test_between_splits_at_any_cut_on_the_way(graph: ModelGraph, data: st.DataObject) -> None:
    first = data.draw(st.sampled_from(graph.cuts))
    second = data.draw(st.sampled_from([cut for cut in graph.cuts if first.before(cut)]))
    whole = graph.between(graph.cut(INPUT), second)
    parts = (*graph.between(graph.cut(INPUT), first), *graph.between(first, second))
    assert sorted(whole, key=lambda block: block.index) == sorted(parts, key=lambda block: block.index)
    assert graph.cut(first.name) is first
    assert graph.cut_of(second.mask) is second


@given(graphs(), st.integers(1, 12))
@settings(deadline=None, max_examples=60)
def test_pieces_are_nested_even_and_as_many_as_asked_for(graph: ModelGraph, most: int) -> None:
    cuts = graph.pieces(most)
    assert (cuts[0].name, cuts[-1].name) == (INPUT, OUTPUT)
    assert 1 <= len(cuts) - 1 <= most
    flops = [sum(block.flops for block in graph.between(*pair)) for pair in itertools.pairwise(cuts)]
    assert sum(flops) == graph.flops
    assert max(flops) <= graph.flops / most + max(block.flops for block in graph.blocks)


def test_too_many_cuts_fall_back_to_one_order(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = tuple(Block(index, f"b{index}", "conv", (), (INPUT,), (f"t{index}",), 1, 0) for index in range(8))
    tensors = {name: TensorSpec(name, (1,)) for name in (INPUT, *(f"t{index}" for index in range(8)))}
    monkeypatch.setattr(graph_module, "MAX_CUTS", 100)
    graph = ModelGraph("wide", "00", blocks, tensors, ("t7",))
    assert not graph.cuts_complete
    assert [cut.mask for cut in graph.cuts] == [(1 << count) - 1 for count in range(9)]


def test_unknown_cuts_and_broken_graphs_are_refused() -> None:
    block = Block(0, "layer1.conv", "conv", (), (INPUT,), ("t0",), 1, 0)
    last = Block(1, "layer1.relu", "conv", (), ("t0",), ("t1",), 1, 0)
    tensors = {name: TensorSpec(name, (1,)) for name in (INPUT, "t0", "t1")}
    graph = ModelGraph("m", "00", (block, last), tensors, ("t1",))
    with pytest.raises(UnknownCut, match=r"did you mean layer1\.conv"):
        graph.cut("layer1.con")
    with pytest.raises(UnknownCut, match="not a convex cut"):
        graph.cut_of(0b10)
    with pytest.raises(ModelError, match="not before"):
        graph.between(graph.cut(OUTPUT), graph.cut(INPUT))
    with pytest.raises(ModelError, match="topological"):
        ModelGraph("m", "00", (last,), tensors, ("t1",))
