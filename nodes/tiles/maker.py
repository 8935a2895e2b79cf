"""Makes the layouts of an edge stage: which stacks, in which tiles, computed by whom, under one set of speeds."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import msgspec

from nodes.tiles.layout import Chain, Conditions, Layout, Part, Placed, Step, TiledStep, WholeStep, tile_specs
from nodes.tiles.wire import Wire
from pipeline.errors import PlanError
from pipeline.frames.wire import TileTask
from pipeline.model.capture import CapturedModel
from pipeline.model.graph import Cut, TensorSpec
from pipeline.model.kept import Kept
from pipeline.model.layouts import Layout as MemoryLayout
from pipeline.model.segment import Segment
from pipeline.plan import TilePlan, TileStack, in_chains
from pipeline.tiling.analysis import analysis_of
from pipeline.tiling.crew import ChainTime, Crew, Exchange, seats, stack_time
from pipeline.tiling.execute import TiledStack
from pipeline.tiling.fuse import StackChoice, map_bytes
from pipeline.tiling.halo import StackCosts, StackReach
from pipeline.tiling.measure import measure_blocks
from pipeline.tiling.regions import Interval, Region, boundaries, shares_of
from pipeline.tiling.resident import given, seats_of, specs_of
from pipeline.tiling.search import ResidentStrips, choose_stacks
from pipeline.tiling.shares import strips_for

KEEP = 0.03
"""A layout is left for another one only where the model says that this saves so much of a frame: speeds are measured,
and what is less than their noise would have layouts change forever."""


MAX_SPANS = 256
"""Stacks, segments and costs that a stage keeps for later layouts; twice as many as a plan may name."""


@dataclass(frozen=True)
class Running:
    """How the edge node runs its own part."""

    torch_device: str = "cpu"
    """For what is untiled; tiles run on the CPU."""
    layout: MemoryLayout | None = None


class LayoutMaker:
    """Makes the layouts of one edge stage. Not to be used by two threads at once.

    Raises:
        PlanError: a stack of the plan cannot be tiled, or does not lie in the stage.
        UnknownCut: the plan names a cut that the model does not have.
    """

    def __init__(self, captured: CapturedModel, start: Cut, end: Cut, tiles: TilePlan, how: Running) -> None:
        self.captured, self.start, self.end, self.tiles = captured, start, end, tiles
        self._segments = Kept(
            MAX_SPANS, lambda a, b: Segment(captured, a, b, torch_device=how.torch_device, layout=how.layout)
        )
        self._stacks = Kept(MAX_SPANS, lambda a, b: TiledStack(captured, a, b, layout=how.layout))
        self._costs = Kept(MAX_SPANS, self._costed)
        self._given = self._check(tiles.stacks)
        self.times = measure_blocks(captured, start, end)

    def alone(self, own: str) -> Layout:
        """Everything on the edge node, untiled."""
        piece = (self.start, self.end, TileStack(self.end.name))
        return self._layout(Conditions((own,), {own: 1.0}), (piece,))

    def choose(self, conditions: Conditions) -> Layout:
        """The best layout for a crew: the plan's stacks, or the fastest ones where the plan leaves them open."""
        if len(conditions.crew) == 1:
            return self.alone(conditions.crew[0])
        if self._given:
            return self.refit(conditions, self._given)
        choice = choose_stacks(self.captured, self.start, self.end, conditions.model(self.times))
        return self.of_choice(conditions, choice)

    def of_choice(self, conditions: Conditions, choice: StackChoice) -> Layout:
        """The layout of any choice of stacks, the rivals' too."""
        return self._layout(conditions, tuple((piece.start, piece.end, piece.stack) for piece in choice.pieces))

    def refit(self, conditions: Conditions, pieces: Sequence[Placed]) -> Layout:
        """The same stacks, with strips that fit other speeds; a 2-D grid stays as it is."""
        model = conditions.model(self.times)
        fitted: list[Placed] = []
        for group in _groups(pieces):
            heights = [self._costs.of(start, end).size[0] for start, end, stack in group if len(stack.rows) > 1]
            count = min([len(conditions.crew), *heights])
            fitted.extend(self._refitted(model, piece, count, len(group) > 1) for piece in group)
        return self._layout(conditions, tuple(fitted))

    def _refitted(self, model: Crew, piece: Placed, count: int, in_chain: bool) -> Placed:
        start, end, stack = piece
        if len(stack.rows) == 1 or len(stack.columns) > 1:
            return piece
        costs = self._costs.of(start, end)
        height = costs.size[0]
        if count == 1:
            strips: Sequence[Interval] = (Interval(0, height),)
        elif in_chain:
            strips = ResidentStrips(self.captured, self.start, self.end, model).at(end, height, count)
        else:
            strips = strips_for(costs, model, count)
        return start, end, msgspec.structs.replace(stack, rows=shares_of(strips, height))

    def seconds(self, conditions: Conditions, pieces: Sequence[Placed], early: Collection[str] | None = None) -> float:
        """What a frame takes by the model under other conditions than the pieces were chosen for.

        Args:
            conditions: the present ones.
            pieces: of the stage.
            early: where the stacks end whose strips' edges come first; None is where that is better now.
        """
        model = conditions.model(self.times)
        return sum(self._group_s(model, group, early) for group in _groups(pieces))

    def _group_s(self, model: Crew, group: Sequence[Placed], early: Collection[str] | None) -> float:
        start, end, stack = group[0]
        if len(stack.rows) * len(stack.columns) == 1:
            return model.untiled_s([block.name for block in self.captured.graph.between(start, end)])
        costs = [self._costs.of(*piece[:2]) for piece in group]
        rows = [self._rows_of(piece) for piece in group]
        if len(group) == 1:
            return stack_time(costs[0], model, rows[0], boundaries(stack.columns, costs[0].size[1])).total_s
        total = ChainTime(model, costs[0]).first_s(rows[0])
        for (_, end, _), exchange in zip(group, self._exchanges(model, group), strict=False):
            total += exchange.taken_s(exchange.is_early if early is None else end.name in early)
        return total + ChainTime(model, costs[-1]).last_s(rows[-1], map_bytes(self.captured, group[-1][1]))

    def _exchanges(self, model: Crew, group: Sequence[Placed]) -> list[Exchange]:
        """Of each link of a chain with the next one."""
        links = [(self._costs.of(*piece[:2]), self._rows_of(piece)) for piece in group]
        return [
            ChainTime(model, after).exchange(held, rows, ChainTime(model, before).split_s(held))
            for (before, held), (after, rows) in itertools.pairwise(links)
        ]

    def _rows_of(self, piece: Placed) -> tuple[Interval, ...]:
        return boundaries(piece[2].rows, self._costs.of(*piece[:2]).size[0])

    def gains(self, found: Layout, present: Layout) -> bool:
        """Whether a layout is worth leaving another one of the same crew for, under the conditions it is made for."""
        now = found.conditions
        # Tiles went to workers in the order that the crew had then.
        held_s = self.seconds(replace(now, crew=present.crew), present.pieces, present.early)
        return self.seconds(now, found.pieces) < (1 - KEEP) * held_s

    def crossing_s(self, layout: Layout, wire: Wire) -> float:
        """Modelled seconds of each meeting in which nobody computes, were it for messages, bytes and copies alone."""
        conditions = replace(layout.conditions, wire=replace(wire, meeting_s=0.0))
        waiting_s = self.seconds(conditions, layout.pieces, layout.early) - layout.ideal_s(conditions.speeds)
        return waiting_s / layout.meetings if layout.meetings else 0.0

    def _check(self, stacks: Sequence[TileStack]) -> tuple[Placed, ...]:
        """The plan's stacks with their cuts, each tileable; the rest of the stage behind them."""
        found, start = [], self.start
        for stack in stacks:
            end = self.captured.graph.cut(stack.until)
            if not start.before(end) or not end.before(self.end):
                raise PlanError(f"tile stack ..{end.name}", f"not between {start.name} and {self.end.name}")
            if len(stack.rows) * len(stack.columns) > 1:
                boundaries(stack.columns, self._stacks.of(start, end).size[1])
            found.append((start, end, stack))
            start = end
        if found and start.mask != self.end.mask:
            found.append((start, self.end, TileStack(self.end.name)))
        return tuple(found)

    def _layout(self, conditions: Conditions, pieces: tuple[Placed, ...]) -> Layout:
        tasks: dict[str, list[TileTask]] = {name: [] for name in conditions.crew[1:]}
        steps: list[Step] = []
        chains: dict[int, Chain] = {}
        for group in _groups(pieces):
            if len(group) > 1:
                chains[len(steps)] = self._chain(conditions, tasks, group)
                steps.extend(chains[len(steps)].links)
            else:
                steps.append(self._step(conditions, tasks, *group[0]))
        orders = {name: tuple(each) for name, each in tasks.items() if each}
        return Layout(secrets.randbits(60), conditions, tuple(steps), pieces, orders, chains)

    def _step(
        self, conditions: Conditions, tasks: dict[str, list[TileTask]], start: Cut, end: Cut, shares: TileStack
    ) -> Step:
        if len(shares.rows) * len(shares.columns) == 1:
            return WholeStep(self._segments.of(start, end), self._untiled_s(start, end))
        stack, parts = self._stacks.of(start, end), []
        work = self._work_s(start, end, shares)
        for region, worker, work_s in zip(*self._placed(conditions, start, end, shares), work, strict=True):
            own = tasks.get(worker, [])
            specs = tile_specs(stack, region)
            predicted_s = self._predicted_s(conditions, worker, work_s, specs)
            parts.append(Part(region, worker, len(own), work_s, predicted_s, *specs))
            own.append(task_of(start, end, region))
        return TiledStep(stack, tuple(parts))

    def _chain(self, conditions: Conditions, tasks: dict[str, list[TileTask]], group: Sequence[Placed]) -> Chain:
        start, end = group[0][0], group[-1][1]
        stacks = [self._stacks.of(first, last) for first, last, _ in group]
        strips = [list(zip(*self._placed(conditions, *piece), strict=True)) for piece in group]
        begun: set[str] = set()
        links = []
        early = [each.is_early for each in self._exchanges(conditions.model(self.times), group)]
        rows = seats_of(stacks, strips, end)
        for piece, stack, row, is_early in zip(group, stacks, rows, [*early, False], strict=True):
            parts = []
            for seat, work_s in zip(row, self._work_s(*piece), strict=True):
                own = tasks.get(seat.owner, [])
                specs = specs_of(stack, seat.gets), specs_of(stack, given(stack, seat.gives))
                predicted_s = self._predicted_s(conditions, seat.owner, work_s, specs)
                parts.append(Part(seat.region, seat.owner, len(own), work_s, predicted_s, *specs, seat, is_early))
                own.append(_task_in_chain(task_of(*piece[:2], seat.region), parts[-1], seat.owner in begun))
                begun.add(seat.owner)
            links.append(TiledStep(stack, tuple(parts)))
        kept = [frozenset(end.tensors)]
        for stack in reversed(stacks[1:]):
            kept.insert(0, kept[0].union(stack.reads))
        return Chain(tuple(links), self._segments.of(start, end), self._untiled_s(start, end), end, tuple(kept))

    def _placed(
        self, conditions: Conditions, start: Cut, end: Cut, shares: TileStack
    ) -> tuple[tuple[Region, ...], list[str]]:
        """The tiles of a stack, and who computes each."""
        regions = self._stacks.of(start, end).regions(shares.rows, shares.columns)
        return regions, [conditions.crew[seat] for seat in seats(len(regions), len(conditions.crew))]

    def _work_s(self, start: Cut, end: Cut, shares: TileStack) -> list[float]:
        costs = self._costs.of(start, end)
        grid = (boundaries(each, size) for each, size in zip((shares.rows, shares.columns), costs.size, strict=True))
        found: list[float] = (costs.seconds.of(*grid) + costs.fixed_s).ravel().tolist()
        return found

    def _predicted_s(
        self, conditions: Conditions, worker: str, work_s: float, specs: Sequence[Sequence[TensorSpec]]
    ) -> float:
        crossing = sum(spec.nbytes for each in specs for spec in each)
        computing_s = work_s / conditions.speeds[worker]
        return computing_s + crossing * 8 / conditions.wire.goodput_bps + conditions.wire.fixed_s

    def _untiled_s(self, start: Cut, end: Cut) -> float:
        return sum(self.times.block_s[block.name] for block in self.captured.graph.between(start, end))

    def _costed(self, start: Cut, end: Cut) -> StackCosts:
        reach = StackReach(analysis_of(self.captured), end, start)
        return reach.costs(start, self.times.block_s, self.times.fixed_s)


def _groups(pieces: Sequence[Placed]) -> list[list[Placed]]:
    """Pieces that are chained to each other together, all others by themselves."""
    return in_chains(pieces, lambda before, piece: piece[2].chained and _is_strips(piece[2]) and _is_strips(before[2]))


def _is_strips(stack: TileStack) -> bool:
    return len(stack.rows) > 1 and len(stack.columns) == 1


def task_of(start: Cut, end: Cut, region: Region) -> TileTask:
    """A tile as orders name it."""
    rows, columns = region.rows, region.columns
    return TileTask(start.name, end.name, (rows.start, rows.stop), (columns.start, columns.stop))


def _task_in_chain(task: TileTask, part: Part, goes_on: bool) -> TileTask:
    gives = tuple((rows.start, rows.stop) for rows in part.seat.gives) if part.seat else ()
    return msgspec.structs.replace(task, gives=gives, chained=goes_on, early=part.early)
