"""What a worker does of a chain before its answers, and what behind them."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from nodes.tiles.held import HeldChains, Task
from pipeline.errors import WireError
from pipeline.frames.wire import Tile
from pipeline.model.segment import Segment
from pipeline.tiling.execute import TiledStack
from pipeline.tiling.regions import Interval, Region
from pipeline.tiling.resident import Seat, Strips, seats_of
from tests.pipeline.tiling.mixed import mixed
from tests.pipeline.tiling.test_execute import tensors_at

CUTS = ("stem.3", "wide", "narrow", "add")


class Worker:
    """The upper strips of a chain of three stacks between two holders, the edges first."""

    def __init__(self) -> None:
        graph = mixed().graph
        self.stacks = [TiledStack(mixed(), graph.cut(a), graph.cut(b)) for a, b in itertools.pairwise(CUTS)]
        strips = [
            [
                (region, owner)
                for region, owner in zip(stack.regions((0.5, 0.5), (1.0,)), ("worker", "edge"), strict=True)
            ]
            for stack in self.stacks
        ]
        seats = [row[0] for row in seats_of(self.stacks, strips, graph.cut(CUTS[-1]))]
        self.tasks = [self._task(number, seat) for number, seat in enumerate(seats)]
        self.ran: list[Region] = []
        self.fails = False
        self.chains = HeldChains(self._run)

    def _task(self, number: int, seat: Seat) -> Task:
        kept = frozenset(name for stack in self.stacks[number + 1 :] for name in stack.reads)
        is_last = number == len(self.stacks) - 1
        return Task(
            self.stacks[number], seat.region, (), (), "fp32", seat.gets, seat.gives, number > 0, kept, early=not is_last
        )

    def _run(self, stack: TiledStack, region: Region, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        if self.fails:
            raise RuntimeError("out of memory")
        self.ran.append(region)
        return stack.run_tile(region, tensors)

    def header(self, number: int) -> Tile:
        """Asks for a task."""
        return Tile("edge", "s", 1, 7, number, number, (), chain=3)

    def rows(self, number: int) -> dict[str, Tensor]:
        """What it is given, cut from the whole maps."""
        graph, stack, found = mixed().graph, self.stacks[number], {}
        inputs = tensors_at(graph.cut(CUTS[0]))
        whole = Segment(mixed(), graph.cut(CUTS[0]), stack.start).run(inputs) if number else inputs
        for name, rows in (self.tasks[number].gets or {}).items():
            strips, layout = Strips(), stack.analysis.layout(name)
            strips.put(stack, name, (Interval(0, layout.height if layout else 1),), whole[name])
            found[name] = strips.rows(stack, name, rows)
        return found

    def strip(self, number: int) -> dict[str, Tensor]:
        """Have a task answered."""
        return self.chains.strip(self.header(number), self.tasks[number], self.rows(number)).tensors


def test_the_rest_of_a_strip_is_computed_behind_its_answer_and_what_it_took_is_said_with_the_next() -> None:
    worker = Worker()
    wide = worker.tasks[0]
    made = worker.chains.strip(worker.header(0), wide, worker.rows(0))
    assert [region.rows for region in worker.ran] == list(wide.gives), "the rows that the other one lacks"
    assert all(tensor.shape[2] == sum(rows.size for rows in wide.gives) for tensor in made.tensors.values())
    assert made.rest_s == 0.0
    worker.chains.settle(worker.header(0), worker.tasks)
    assert sum(region.rows.size for region in worker.ran) == wide.region.rows.size
    count = len(worker.ran)
    narrow = worker.chains.strip(worker.header(1), worker.tasks[1], worker.rows(1))
    assert narrow.rest_s > 0.0
    assert len(worker.ran) == count, "nobody lacks a row of it: the answer needs none"


@pytest.mark.parametrize("settles", [True, False])
def test_strips_whose_edges_came_first_are_those_of_the_whole_map(settles: bool) -> None:
    worker, graph = Worker(), mixed().graph
    for number in range(len(worker.tasks)):
        made = worker.strip(number)
        if settles:
            worker.chains.settle(worker.header(number), worker.tasks)
        whole = Segment(mixed(), graph.cut(CUTS[0]), worker.stacks[number].end).run(tensors_at(graph.cut(CUTS[0])))
        for name, tensor in made.items():
            held, stack = Strips(), worker.stacks[number]
            layout = stack.analysis.layout(name)
            assert layout is not None
            held.put(stack, name, (Interval(0, layout.height),), whole[name])
            torch.testing.assert_close(tensor, held.rows(stack, name, worker.tasks[number].gives), rtol=1e-5, atol=1e-5)
    assert len(worker.chains) == 0, "nothing is held behind the end"


def test_a_rest_that_fails_ends_the_chain_and_not_the_worker() -> None:
    worker = Worker()
    worker.strip(0)
    worker.fails = True
    worker.chains.settle(worker.header(0), worker.tasks)
    worker.fails = False
    with pytest.raises(WireError, match="not held"):
        worker.strip(1)
    assert worker.strip(0), "the next frame begins anew"
