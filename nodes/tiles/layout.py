"""Layouts: which worker computes which tile of which fused stack, under one set of speeds."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import msgspec
import torch

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
from pipeline.tiling.crew import ChainTime, Crew, seats, stack_time
from pipeline.tiling.execute import TiledStack
from pipeline.tiling.fuse import StackChoice, map_bytes
from pipeline.tiling.halo import StackCosts, StackReach
from pipeline.tiling.measure import BlockTimes, measure_blocks
from pipeline.tiling.regions import Interval, Region, boundaries, shares_of
from pipeline.tiling.resident import Seat, given, seats_of, specs_of
from pipeline.tiling.search import ResidentStrips, choose_stacks
from pipeline.tiling.shares import strips_for

KEEP = 0.03
"""A layout is left for another one only where the model says that this saves so much of a frame: speeds are measured,
and what is less than their noise would have layouts change forever."""


MAX_SPANS = 256
"""Stacks, segments and costs that a stage keeps for later layouts; twice as many as a plan may name."""


@dataclass(frozen=True)
class Part:
    """One tile of a stack, and who computes it."""

    region: Region
    worker: str
    task: int
    """Position in the order that its worker got."""
    work_s: float
    """Modelled seconds on a node of speed 1."""
    predicted_s: float
    """Turn-around: computing and crossing, there and back."""
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    seat: Seat | None = None
    """What crosses for it, where it is a strip of a chain."""


@dataclass(frozen=True)
class TiledStep:
    """A fused stack, computed side by side."""

    stack: TiledStack
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Chain:
    """Steps between which nothing is merged."""

    links: tuple[TiledStep, ...]
    segment: Segment
    """All of it untiled: what the edge node computes where a worker fails in the middle."""
    work_s: float
    """Of the segment."""
    end: Cut
    kept: tuple[frozenset[str], ...]
    """Tensors that are of use behind each link."""


@dataclass(frozen=True)
class WholeStep:
    """Blocks that the edge node computes untiled."""

    segment: Segment
    work_s: float


Step = TiledStep | WholeStep

Placed = tuple[Cut, Cut, TileStack]
"""A piece of a stage: where it begins and ends, and its tiles."""


@dataclass(frozen=True)
class Conditions:
    """What a layout is made for."""

    crew: tuple[str, ...]
    speeds: Mapping[str, float]
    wire: Wire = field(default_factory=Wire)

    def model(self, times: BlockTimes) -> Crew:
        """As the cost model takes it."""
        speeds, each_s = tuple(self.speeds[name] for name in self.crew), self.wire.fixed_s / 2
        return Crew(
            speeds,
            times.block_s,
            self.wire.goodput_bps,
            latency_s=2 * each_s / 3,
            message_s=each_s / 3,
            fixed_s=times.fixed_s,
            meeting_s=self.wire.meeting_s,
        )


@dataclass(frozen=True)
class Layout:
    """A way to compute an edge stage."""

    order: int
    conditions: Conditions
    """What it was made for."""
    steps: tuple[Step, ...]
    pieces: tuple[Placed, ...]
    tasks: Mapping[str, tuple[TileTask, ...]]
    """By worker, the edge node left out."""
    chains: Mapping[int, Chain] = field(default_factory=dict)
    """By the position of their first step."""
    crossing_s: float = 0.0
    """Modelled seconds of a frame in which nobody computes, were it for messages, bytes and copies alone."""

    @property
    def crew(self) -> tuple[str, ...]:
        """Who was there when it was made, the edge node first; some may have no tile in it."""
        return self.conditions.crew

    def work_s(self, worker: str) -> float:
        """Modelled seconds of all of a worker's tasks, on a node of speed 1."""
        tiled = (step for step in self.steps if isinstance(step, TiledStep))
        return sum(part.work_s for step in tiled for part in step.parts if part.worker == worker)

    def ideal_s(self, speeds: Mapping[str, float]) -> float:
        """The modelled time with these shares and those speeds, if nothing but computing took any."""
        total = 0.0
        for step in self.steps:
            if isinstance(step, WholeStep):
                total += step.work_s / speeds[self.crew[0]]
            else:
                busy: dict[str, float] = {}
                for part in step.parts:
                    busy[part.worker] = busy.get(part.worker, 0.0) + part.work_s / speeds[part.worker]
                total += max(busy.values())
        return total

    @property
    def meetings(self) -> int:
        """How often the workers wait for each other: where a stack's inputs or rows are passed on, and at merges."""
        chained = sum(len(chain.links) for chain in self.chains.values())
        return 2 * (self.merges - chained) + chained + len(self.chains)

    @property
    def merges(self) -> int:
        """Number of fused stacks."""
        return sum(isinstance(step, TiledStep) for step in self.steps)


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

    def seconds(self, conditions: Conditions, pieces: Sequence[Placed]) -> float:
        """What a frame takes by the model under other conditions than the pieces were chosen for."""
        model = conditions.model(self.times)
        return sum(self._group_s(model, group) for group in _groups(pieces))

    def _group_s(self, model: Crew, group: Sequence[Placed]) -> float:
        start, end, stack = group[0]
        if len(stack.rows) * len(stack.columns) == 1:
            return model.untiled_s([block.name for block in self.captured.graph.between(start, end)])
        costs = [self._costs.of(start, end) for start, end, _ in group]
        rows = [boundaries(stack.rows, each.size[0]) for (_, _, stack), each in zip(group, costs, strict=True)]
        if len(group) == 1:
            return stack_time(costs[0], model, rows[0], boundaries(stack.columns, costs[0].size[1])).total_s
        total = ChainTime(model, costs[0]).first_s(rows[0])
        for (before, held), (each, strips) in itertools.pairwise(zip(costs, rows, strict=True)):
            total += ChainTime(model, each).next_s(held, before.size[0], strips)
        return total + ChainTime(model, costs[-1]).last_s(rows[-1], map_bytes(self.captured, group[-1][1]))

    def gains(self, found: Layout, present: Layout) -> bool:
        """Whether a layout is worth leaving another one of the same crew for, under the conditions it is made for."""
        now = found.conditions
        # Tiles went to workers in the order that the crew had then.
        held_s = self.seconds(replace(now, crew=present.crew), present.pieces)
        return self.seconds(now, found.pieces) < (1 - KEEP) * held_s

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
        found = Layout(secrets.randbits(60), conditions, tuple(steps), pieces, orders, chains)
        promptly = replace(conditions, wire=replace(conditions.wire, meeting_s=0.0))
        crossing_s = self.seconds(promptly, pieces) - found.ideal_s(conditions.speeds) if found.merges else 0.0
        return replace(found, crossing_s=crossing_s)

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
        for piece, stack, row in zip(group, stacks, seats_of(stacks, strips, end), strict=True):
            parts = []
            for seat, work_s in zip(row, self._work_s(*piece), strict=True):
                own = tasks.get(seat.owner, [])
                specs = specs_of(stack, seat.gets), specs_of(stack, given(stack, seat.gives))
                predicted_s = self._predicted_s(conditions, seat.owner, work_s, specs)
                parts.append(Part(seat.region, seat.owner, len(own), work_s, predicted_s, *specs, seat))
                gives = tuple((rows.start, rows.stop) for rows in seat.gives)
                is_chained = seat.owner in begun
                own.append(msgspec.structs.replace(task_of(*piece[:2], seat.region), gives=gives, chained=is_chained))
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


def tile_specs(stack: TiledStack, region: Region) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """What goes into a tile's computation and what comes out; both ends of the wire hold messages against it.

    Raises:
        PlanError: the region is not inside of the stack's maps.
    """
    needed = stack.needed(region)
    inputs = tuple(_cropped(stack, name, part) for name, part in needed.items())
    return inputs, tuple(_cropped(stack, name, region) for name in stack.makes)


def _cropped(stack: TiledStack, name: str, region: Region) -> TensorSpec:
    spec = stack.captured.graph.tensors[name]
    shape = stack.crop(name, torch.empty(spec.shape, device="meta"), region).shape
    return TensorSpec(name, tuple(shape), spec.dtype, spec.unsigned)
