"""Figures of plans, the measures that goals and bounds read off them, and the privacy rules.

One set of formulas for one plan (0-d arrays) and for many at once (any shape): the exact search and the cost of a
single plan cannot disagree.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pipeline.errors import ConfigError
from pipeline.model.graph import INPUT, ModelGraph, bits
from scheduler.objective import Goal
from scheduler.problem import DEVIATIONS, Cost, Problem, filled_s, hedged_s
from scheduler.tables import Bools, Floats

SLACK = 1e-9
"""Relative: sums in another order must not decide whether a plan keeps a bound."""

DROP_SCALE = 0.01
"""A drop one percentage point over its bound counts as much as twice the latency bound."""


class Figures(Protocol):
    """What bounds and goals look at, of one plan or of many; arrays that broadcast to one shape."""

    @property
    def latency_s(self) -> Floats: ...
    @property
    def period_s(self) -> Floats: ...
    @property
    def busy_s(self) -> Floats:
        """The slowest step on a node: the period, were the links infinitely fast."""

    @property
    def bytes(self) -> Floats: ...
    @property
    def drop(self) -> Floats:
        """NaN or infinite where unknown."""

    @property
    def cloud_s(self) -> Floats: ...
    @property
    def energy_j(self) -> Floats: ...
    @property
    def memory_bytes(self) -> Floats: ...
    @property
    def device_s(self) -> Floats:
        """Compute of the device's stage."""


@dataclass(frozen=True)
class PlanFigures:
    """The figures of whole plans."""

    latency_s: Floats
    period_s: Floats
    busy_s: Floats
    bytes: Floats
    drop: Floats
    cloud_s: Floats
    energy_j: Floats
    memory_bytes: Floats
    device_s: Floats


@dataclass(frozen=True)
class Bound:
    """A figure that must stay at or below a limit."""

    name: str
    """As in `Objective`."""
    measure: Callable[[Figures], Floats]
    limit: float
    scale: float
    """By which an excess is divided, to compare excesses of different bounds."""

    def keeps(self, figures: Figures) -> Bools:
        """Where the bound is kept; unknown (NaN) figures break it."""
        return self.measure(figures) <= self.limit * (1 + SLACK) + 1e-15

    def excess(self, figures: Figures) -> Floats:
        """How far above the limit, in units of the scale; infinite where unknown."""
        over = np.maximum(self.measure(figures) - self.limit, 0.0) / self.scale
        return np.where(np.isnan(over), np.inf, over)


def figures_of(problem: Problem, cost: Cost) -> PlanFigures:
    """The figures of one plan."""
    nbytes = np.asarray(cost.bytes)
    return PlanFigures(
        latency_s=np.asarray(cost.latency_s),
        period_s=np.asarray(cost.pipeline_s),
        busy_s=np.asarray(cost.busy_s),
        bytes=nbytes,
        drop=np.asarray(np.nan if cost.accuracy_drop is None else cost.accuracy_drop),
        cloud_s=np.asarray(cost.cloud_busy_s),
        energy_j=np.asarray(cost.energy_j or 0.0),
        memory_bytes=np.asarray(cost.device_memory_bytes),
        device_s=np.asarray(cost.stages[0].compute_s),
    )


def faster(problem: Problem) -> float:
    """How many times faster the links may become: by `DEVIATIONS` of the least certain one."""
    return math.exp(DEVIATIONS * max((link.uncertainty for link in problem.links.values()), default=0.0))


def measure_of(problem: Problem, goal: Goal) -> Callable[[Figures], Floats]:
    """What a goal minimises. A plan that is faster than the source gains nothing by it.

    Raises:
        ConfigError: energy, without power figures of the device.
    """
    if goal is Goal.ENERGY and problem.power is None:
        raise ConfigError("goal energy", "no power figure of the device", "give its watts while it computes")
    floor, alone_s = 1.0 / problem.fps if problem.fps is not None else 0.0, problem.alone_s
    if goal is Goal.THROUGHPUT and (floor or problem.fills_up):
        return lambda figures: np.maximum(filled_s(figures.period_s, figures.device_s, alone_s), floor)
    if goal is Goal.LATENCY and problem.hedges:
        hedge_s, doubt = problem.hedge_s, math.log(faster(problem)) / DEVIATIONS
        return lambda figures: hedged_s(figures.latency_s, figures.device_s, hedge_s, doubt)
    if goal is Goal.HEADROOM:
        share = 1.0 / faster(problem)
        return lambda figures: np.maximum(
            filled_s(np.maximum(figures.busy_s, figures.period_s * share), figures.device_s, alone_s), floor
        )
    return _FIGURE_OF[goal]


_FIGURE_OF: dict[Goal, Callable[[Figures], Floats]] = {
    Goal.THROUGHPUT: lambda figures: figures.period_s,
    Goal.LATENCY: lambda figures: figures.latency_s,
    Goal.BYTES: lambda figures: figures.bytes,
    Goal.CLOUD: lambda figures: figures.cloud_s,
    Goal.ENERGY: lambda figures: figures.energy_j,
}


def bounds_of(problem: Problem) -> tuple[Bound, ...]:
    """The bounds of a problem's objective, privacy apart (see `leaves_device`, `leaves_edge`).

    Bytes per second are bytes per frame at the source's rate, or at the rate that is asked for: at a plan's own rate,
    a plan could keep the bound by being slow.

    Raises:
        ConfigError: a bound on bytes per second, and neither rate is known.
    """
    asked, alone_s = problem.objective, problem.alone_s
    period = None if asked.min_fps is None else 1.0 / asked.min_fps
    every: list[tuple[str, Callable[[Figures], Floats], float | None]] = [
        ("max_latency_s", lambda figures: figures.latency_s, asked.max_latency_s),
        ("max_drop", lambda figures: figures.drop, asked.max_drop),
        ("min_fps", lambda figures: filled_s(figures.period_s, figures.device_s, alone_s), period),
        ("max_bytes_per_s", lambda figures: figures.bytes, _bytes_per_frame(problem)),
        ("max_device_bytes", lambda figures: figures.memory_bytes, asked.max_device_bytes),
    ]
    return tuple(
        Bound(name, measure, limit, DROP_SCALE if name == "max_drop" else limit)
        for name, measure, limit in every
        if limit is not None
    )


def _bytes_per_frame(problem: Problem) -> float | None:
    asked, fps = problem.objective, problem.fps or problem.objective.min_fps
    if asked.max_bytes_per_s is None:
        return None
    if fps is None:
        raise ConfigError("bound max_bytes_per_s", "the frame rate is not known", "give the source's rate, or min_fps")
    return asked.max_bytes_per_s / fps


def leaves_device(graph: ModelGraph, private_until: str | None) -> Bools:
    """For each cut, whether what crosses it may leave the device.

    A tensor is private where it is the picture or the output of a block that `private_until` depends on: such a
    tensor may not leave, at this cut or around it. Branches beside the block are not before it.

    Raises:
        ConfigError: the model has no block of that name.
    """
    if private_until is None:
        return np.ones(len(graph.cuts), dtype=np.bool_)
    found = [block for block in graph.blocks if block.name == private_until]
    if not found:
        raise ConfigError(
            f"private_until {private_until!r}", f"model {graph.name} has no such block", "see `anabranch model show`"
        )
    before = ancestors(graph, found[0].index)
    private = {INPUT, *(name for index in bits(before) for name in graph.blocks[index].outputs)}
    return np.array([private.isdisjoint(cut.tensors) for cut in graph.cuts])


def leaves_edge(graph: ModelGraph, pictures_stay: bool) -> Bools:
    """For each cut, whether what crosses it may go to the cloud."""
    if not pictures_stay:
        return np.ones(len(graph.cuts), dtype=np.bool_)
    return np.array([INPUT not in cut.tensors for cut in graph.cuts])


def ancestors(graph: ModelGraph, block: int) -> int:
    """The mask of all blocks that `block` depends on, itself not among them."""
    found, waiting = 0, graph.predecessors[block]
    while waiting:
        index = waiting.bit_length() - 1
        waiting ^= 1 << index
        found |= 1 << index
        waiting |= graph.predecessors[index] & ~found
    return found
