"""Chains on several machines: what a worker holds, refuses and forgets, and frames of which a worker is lost midway."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from nodes.node import NodeSettings
from nodes.tile import Answer, Asked, TileNode
from nodes.tiles.held import MAX_CHAINS
from nodes.tiles.layout import Conditions, Part
from nodes.tiles.maker import LayoutMaker
from nodes.tiles.maker import Running as Now
from nodes.tiles.post import pack_tile, unpack_tile
from pipeline.frames.wire import Message, Tile, TileDone, TileOrder
from pipeline.model.graph import INPUT
from pipeline.model.segment import Segment
from pipeline.model.spec import load_model
from pipeline.plan import Tier, TilePlan, TileStack
from pipeline.tiling.crew import Exchange
from pipeline.tiling.measure import BlockTimes
from pipeline.tiling.resident import Strips
from tests.nodes.test_tiles import Tiled
from tests.nodes.tiny import SPEC

STACKS = (TileStack("first", (0.5, 0.5)), TileStack("second", (0.5, 0.5), chained=True))
ORDER = 7


class Bench:
    """A worker without sockets, and the chain that it is asked for."""

    def __init__(self) -> None:
        model = load_model(SPEC)
        self.captured = model.captured
        graph = self.captured.graph
        self.node = TileNode(NodeSettings("tile-1"), model)
        tiles = TilePlan(STACKS, ("edge", "tile-1"))
        self.maker = LayoutMaker(self.captured, graph.cuts[0], graph.cut("second"), tiles, Now())
        self.maker.times = BlockTimes(dict.fromkeys(self.maker.times.block_s, 0.01), {})  # so that strips are even
        self.layout = self.maker.choose(Conditions(("edge", "tile-1"), {"edge": 1.0, "tile-1": 1.0}))
        self.chain = self.layout.chains[0]
        self.tickets = itertools.count(1)
        ready = self.node._built(TileOrder("edge", graph.fingerprint, ORDER, "fp32", self.layout.tasks["tile-1"]))
        assert not ready.refused and len(ready.seconds) == len(STACKS)

    def part(self, link: int, worker: str = "tile-1") -> Part:
        """A worker's part of a link."""
        return next(part for part in self.chain.links[link].parts if part.worker == worker)

    def ask(self, link: int, rows: dict[str, Tensor], chain: int = 1, stream: str = "s", order: int = ORDER) -> Answer:
        """Have the worker compute its part of a link."""
        part = self.part(link)
        headers, buffers = pack_tile(rows, part.inputs, "fp32")
        header = Tile("edge", stream, 1, order, part.task, next(self.tickets), headers, chain=chain)
        message = Message(header, [bytearray(buffer) for buffer in buffers])
        return self.node._computed(Asked(message, header, 0.0))

    def rows(self, link: int) -> dict[str, Tensor]:
        """Zeros in the shape of what a link gets."""
        return {spec.name: torch.zeros(spec.shape, dtype=getattr(torch, spec.dtype)) for spec in self.part(link).inputs}


@pytest.fixture(scope="module")
def bench() -> Bench:
    """One for all tests: they use streams of their own."""
    return Bench()


def refusal(answer: Answer) -> str:
    assert isinstance(answer.message.header, TileDone)
    return answer.message.header.refused


def test_a_worker_gets_and_gives_what_is_lacked_and_no_more(bench: Bench) -> None:
    graph = bench.captured.graph
    x = torch.randint(0, 256, bench.captured.example.shape, dtype=bench.captured.example.dtype)
    begin, end = bench.chain.links[0].stack, graph.cut("second")
    parts = [Segment(bench.captured, graph.cuts[0], graph.cut(name)).run({INPUT: x}) for name in ("first", "second")]
    edge = Strips()
    for link, (step, made) in enumerate(zip(bench.chain.links, parts, strict=True)):
        part, own = bench.part(link), bench.part(link, "edge")
        assert part.seat is not None
        if link == 0:
            layout = begin.analysis.layout(INPUT)
            assert layout is not None
            edge.put(begin, INPUT, (layout.region.rows,), x)
        rows = {name: edge.rows(step.stack, name, held) for name, held in part.seat.gets.items()}
        answer = bench.ask(link, rows, stream="whole")
        message = bench.node._packed(answer).message
        assert isinstance(message.header, TileDone) and not message.header.refused
        found = unpack_tile(replace(message, buffers=[bytearray(b) for b in message.buffers]), part.outputs, "fp32")
        whole = Strips()
        for name in step.stack.makes:
            layout = step.stack.analysis.layout(name)
            assert layout is not None
            whole.put(step.stack, name, (layout.region.rows,), made[name])
            for given in part.seat.gives:
                expected = whole.rows(step.stack, name, (given,))
                assert float((found[name] - expected).abs().max()) <= 1e-5 * float(made[name].abs().max())
            edge.put(step.stack, name, (own.region.rows,), whole.rows(step.stack, name, (own.region.rows,)))
    assert bench.part(0).outputs == (), "the edge node's strip of a stride of two lacks nothing"
    assert [spec.shape[2] for spec in bench.part(1).inputs] == [1], "the one below lacks a row"
    assert end.tensors == bench.chain.links[-1].stack.makes
    assert ("edge", "whole", 1) not in bench.node._chains, "nothing is held behind the end"


def test_a_chain_that_is_not_held_is_refused(bench: Bench) -> None:
    assert "not held" in refusal(bench.ask(1, bench.rows(1), stream="never begun"))
    bench.ask(0, bench.rows(0), chain=1, stream="other")
    assert "not held" in refusal(bench.ask(1, bench.rows(1), chain=2, stream="other"))
    assert "not held" in refusal(bench.ask(1, bench.rows(1), chain=1, stream="other")), "what did not fit is let go"


def test_a_frame_begun_anew_takes_the_place_of_the_one_before(bench: Bench) -> None:
    for chain in (1, 2):
        bench.ask(0, bench.rows(0), chain=chain, stream="anew")
    assert bench.ask(1, bench.rows(1), chain=2, stream="anew").tensors is not None
    assert "not held" in refusal(bench.ask(1, bench.rows(1), chain=2, stream="anew")), "it is at its end"


def test_rows_of_another_size_are_refused_and_end_the_chain(bench: Bench) -> None:
    bench.ask(0, bench.rows(0), stream="sizes")
    wrong = {name: torch.zeros(1, 8, 5, 16) for name in bench.rows(1)}
    part = bench.part(1)
    specs = tuple(replace(spec, shape=(1, 8, 5, 16)) for spec in part.inputs)
    headers, buffers = pack_tile(wrong, specs, "fp32")
    header = Tile("edge", "sizes", 1, ORDER, part.task, 1, headers, chain=1)
    assert "due" in refusal(bench.node._computed(Asked(Message(header, buffers), header, 0.0)))


def test_what_is_held_is_bounded(bench: Bench) -> None:
    for number in range(2 * MAX_CHAINS):
        bench.ask(0, bench.rows(0), stream=f"camera-{number}")
    assert len(bench.node._chains) == MAX_CHAINS
    assert "not held" in refusal(bench.ask(1, bench.rows(1), stream="camera-0"))
    assert bench.ask(1, bench.rows(1), stream=f"camera-{2 * MAX_CHAINS - 1}").tensors is not None


# --- frames that lose a worker midway


@pytest.fixture
def deployment() -> Iterator[Tiled]:
    """Nodes that are stopped whatever happens."""
    made = Tiled(3)
    yield made
    made.stop()


def _mute(worker: TileNode) -> None:
    """Have it compute the last link of chains and say nothing, as if it froze between two links."""
    hand_over = worker._hand_over

    def say(answer: Answer) -> None:
        if answer.task is None or not answer.task.chained:
            hand_over(answer)

    worker._hand_over = say  # type: ignore[method-assign]


def _forget(worker: TileNode) -> None:
    """Have it lose what it holds between two links, as if it had started anew."""
    hand_over = worker._hand_over

    def lose(answer: Answer) -> None:
        worker._chains.clear()
        hand_over(answer)

    worker._hand_over = lose  # type: ignore[method-assign]


@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize("harm", [_mute, _forget])
def test_a_worker_lost_in_the_middle_of_a_chain_costs_no_frame(
    deployment: Tiled, harm: Callable[[TileNode], None], early: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Exchange, "is_early", early)
    with deployment.scheduler() as address:
        workers = [deployment.worker(number, address) for number in (1, 2)]
        deployment.node(Tier.EDGE, address)
        deployment.feed(address, 30, {8: lambda: harm(workers[0])})
    counts = deployment.edge.tiles.post.counts
    assert counts["late"] + counts["refused"] >= 1, "somebody was waited for in vain"
