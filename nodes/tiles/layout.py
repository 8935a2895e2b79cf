"""Layouts: which worker computes which tile of which fused stack, under one set of speeds."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from nodes.tiles.wire import Wire
from pipeline.errors import PlanError
from pipeline.frames.wire import TileTask
from pipeline.model.capture import CapturedModel
from pipeline.model.graph import Cut, TensorSpec
from pipeline.model.layouts import Layout as MemoryLayout
from pipeline.model.segment import Segment
from pipeline.plan import TilePlan, TileStack
from pipeline.tiling.analysis import analysis_of
from pipeline.tiling.crew import Crew, stack_time
from pipeline.tiling.execute import TiledStack
from pipeline.tiling.fuse import StackChoice, choose_stacks
from pipeline.tiling.halo import StackCosts, StackReach
from pipeline.tiling.measure import BlockTimes, measure_blocks
from pipeline.tiling.regions import Interval, Region, boundaries, grid, shares_of
from pipeline.tiling.shares import strips_for

KEEP = 0.03
"""A layout is left for another one only where the model says that this saves so much of a frame: speeds are measured,
and what is less than their noise would have layouts change forever."""


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


@dataclass(frozen=True)
class TiledStep:
    """A fused stack, computed side by side."""

    stack: TiledStack
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class WholeStep:
    """Blocks that the edge node computes untiled."""

    segment: Segment
    work_s: float


Step = TiledStep | WholeStep


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
        )


@dataclass(frozen=True)
class Layout:
    """A way to compute an edge stage."""

    order: int
    conditions: Conditions
    """What it was made for."""
    steps: tuple[Step, ...]
    pieces: tuple[tuple[Cut, Cut, TileStack], ...]
    tasks: Mapping[str, tuple[TileTask, ...]]
    """By worker, the edge node left out."""

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
        self._how = how
        self._segments: dict[tuple[str, str], Segment] = {}
        self._stacks: dict[tuple[str, str], TiledStack] = {}
        self._costs: dict[tuple[str, str], StackCosts] = {}
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

    def refit(self, conditions: Conditions, pieces: Sequence[tuple[Cut, Cut, TileStack]]) -> Layout:
        """The same stacks, with strips that fit other speeds; a 2-D grid stays as it is."""
        model = conditions.model(self.times)
        fitted = []
        for start, end, stack in pieces:
            if len(stack.rows) > 1 and len(stack.columns) == 1:
                costs = self._costs_of(start, end)
                count = min(len(conditions.crew), costs.size[0])
                strips = strips_for(costs, model, count) if count > 1 else (Interval(0, costs.size[0]),)
                stack = TileStack(stack.until, shares_of(strips, costs.size[0]))
            fitted.append((start, end, stack))
        return self._layout(conditions, tuple(fitted))

    def seconds(self, conditions: Conditions, pieces: Sequence[tuple[Cut, Cut, TileStack]]) -> float:
        """What a frame takes by the model under other conditions than the pieces were chosen for."""
        model, total = conditions.model(self.times), 0.0
        for start, end, stack in pieces:
            if len(stack.rows) * len(stack.columns) == 1:
                total += model.untiled_s([block.name for block in self.captured.graph.between(start, end)])
            else:
                costs = self._costs_of(start, end)
                rows, columns = boundaries(stack.rows, costs.size[0]), boundaries(stack.columns, costs.size[1])
                total += stack_time(costs, model, rows, columns).total_s
        return total

    def gains(self, found: Layout, present: Layout) -> bool:
        """Whether a layout is worth leaving another one of the same crew for, under the conditions it is made for."""
        now = found.conditions
        # Tiles went to workers in the order that the crew had then.
        held_s = self.seconds(replace(now, crew=present.crew), present.pieces)
        return self.seconds(now, found.pieces) < (1 - KEEP) * held_s

    def _check(self, stacks: Sequence[TileStack]) -> tuple[tuple[Cut, Cut, TileStack], ...]:
        """The plan's stacks with their cuts, each tileable; the rest of the stage behind them."""
        found, start = [], self.start
        for stack in stacks:
            end = self.captured.graph.cut(stack.until)
            if not start.before(end) or not end.before(self.end):
                raise PlanError(f"tile stack ..{end.name}", f"not between {start.name} and {self.end.name}")
            if len(stack.rows) * len(stack.columns) > 1:
                boundaries(stack.columns, self._stack(start, end).size[1])
            found.append((start, end, stack))
            start = end
        if found and start.mask != self.end.mask:
            found.append((start, self.end, TileStack(self.end.name)))
        return tuple(found)

    def _layout(self, conditions: Conditions, pieces: tuple[tuple[Cut, Cut, TileStack], ...]) -> Layout:
        tasks: dict[str, list[TileTask]] = {name: [] for name in conditions.crew[1:]}
        steps = tuple(self._step(conditions, tasks, *piece) for piece in pieces)
        given = {name: tuple(each) for name, each in tasks.items() if each}
        return Layout(secrets.randbits(60), conditions, steps, pieces, given)

    def _step(
        self, conditions: Conditions, tasks: dict[str, list[TileTask]], start: Cut, end: Cut, shares: TileStack
    ) -> Step:
        if len(shares.rows) * len(shares.columns) == 1:
            names = [block.name for block in self.captured.graph.between(start, end)]
            return WholeStep(self._segment(start, end), sum(self.times.block_s[name] for name in names))
        stack, costs = self._stack(start, end), self._costs_of(start, end)
        rows, columns = (
            boundaries(each, size) for each, size in zip((shares.rows, shares.columns), costs.size, strict=True)
        )
        work = (costs.seconds.of(rows, columns) + costs.fixed_s).ravel().tolist()
        crossing = (costs.bytes_in.of(rows, columns) + costs.bytes_out.of(rows, columns)).ravel().tolist()
        parts = []
        for number, region in enumerate(grid(rows, columns)):
            worker = conditions.crew[number % len(conditions.crew)]
            own = tasks.get(worker, [])
            predicted_s = work[number] / conditions.speeds[worker] + crossing[number] * 8 / conditions.wire.goodput_bps
            parts.append(
                Part(
                    region,
                    worker,
                    len(own),
                    work[number],
                    predicted_s + conditions.wire.fixed_s,
                    *tile_specs(stack, region),
                )
            )
            own.append(task_of(start, end, region))
        return TiledStep(stack, tuple(parts))

    def _segment(self, start: Cut, end: Cut) -> Segment:
        key = (start.name, end.name)
        if key not in self._segments:
            how = self._how
            self._segments[key] = Segment(self.captured, start, end, torch_device=how.torch_device, layout=how.layout)
        return self._segments[key]

    def _stack(self, start: Cut, end: Cut) -> TiledStack:
        key = (start.name, end.name)
        if key not in self._stacks:
            self._stacks[key] = TiledStack(self.captured, start, end, layout=self._how.layout)
        return self._stacks[key]

    def _costs_of(self, start: Cut, end: Cut) -> StackCosts:
        key = (start.name, end.name)
        if key not in self._costs:
            reach = StackReach(analysis_of(self.captured), end, start)
            self._costs[key] = reach.costs(start, self.times.block_s, self.times.fixed_s)
        return self._costs[key]


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
