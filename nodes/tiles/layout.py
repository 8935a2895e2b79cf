"""Layouts: which worker computes which tile of which fused stack, under one set of speeds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from nodes.tiles.wire import Wire
from pipeline.frames.wire import TileTask
from pipeline.model.graph import Cut, TensorSpec
from pipeline.model.segment import Segment
from pipeline.plan import TileStack
from pipeline.tiling.crew import Crew
from pipeline.tiling.execute import TiledStack
from pipeline.tiling.measure import BlockTimes
from pipeline.tiling.regions import Region
from pipeline.tiling.resident import Seat, in_turns


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
    early: bool = False
    """Whether the rows of it that others lack are computed, and cross, before its other rows are computed."""

    @property
    def turns(self) -> tuple[tuple[Region, ...], tuple[Region, ...]]:
        """What is computed before the rows cross, and what behind that."""
        return in_turns(self.region, self.seat.gives) if self.early and self.seat else ((self.region,), ())


@dataclass(frozen=True)
class TiledStep:
    """A fused stack, computed side by side."""

    stack: TiledStack
    parts: tuple[Part, ...]

    @property
    def is_early(self) -> bool:
        """Whether its strips' edges come first."""
        return any(part.early for part in self.parts)


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
        """How often the workers wait for each other: where a stack's inputs or rows are passed on (but for those that
        cross while others are computed), and at merges."""
        links = sum(len(chain.links) for chain in self.chains.values())
        return 2 * (self.merges - links) + links + len(self.chains) - len(self.early)

    @property
    def early(self) -> frozenset[str]:
        """Where the stacks end of whose strips some rows cross while the others are computed."""
        links = (link for chain in self.chains.values() for link in chain.links)
        return frozenset(link.stack.end.name for link in links if link.is_early)

    @property
    def merges(self) -> int:
        """Number of fused stacks."""
        return sum(isinstance(step, TiledStep) for step in self.steps)


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
