"""Why this plan: runners-up, active bounds, and the bandwidths and loads at which the choice would flip. Pure."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from pipeline.plan import Plan, Signature, Tier, signature
from scheduler.problem import HOPS, Cost, Decision, Hop, LoadEstimate, Planner, Problem

REACH = 64.0
"""Flips are looked for within this factor of a link's bandwidth or a node's load, both ways."""

STEPS = 8
"""Steps in which the reach is first walked, on a logarithmic scale; a choice held for less than one may be missed."""

PRECISION = 1.01
"""A flip is narrowed down to this factor."""

RELAXABLE = ("max_latency_s", "max_drop", "min_fps", "max_bytes_per_s", "max_device_bytes", "private_until")


Knob = tuple[str, str, float, Callable[[float], Problem]]
"""Name, unit, present value, and the problem at another value."""


@dataclass(frozen=True)
class Flip:
    """Where the choice changes, going away from the present value."""

    what: str
    """`device-edge bandwidth`, `edge load`, ..."""
    unit: str
    now: float
    at: float
    plan: Plan
    """The choice beyond that point."""


@dataclass(frozen=True)
class ActiveBound:
    """A bound that costs something."""

    name: str
    plan: Plan
    """The choice without it."""
    cost: Cost


@dataclass(frozen=True)
class Explanation:
    """A decision, and what surrounds it."""

    decision: Decision
    active: tuple[ActiveBound, ...]
    flips: tuple[Flip, ...]


@dataclass(frozen=True)
class Point:
    """One value of a sweep."""

    bps: float
    plan: Plan
    cost: Cost


def explain(problem: Problem, planner: Planner, alternatives: int = 4) -> Explanation:
    """Plan, and find out why.

    Args:
        problem: what is known.
        planner: who decides; planned with some hundred times.
        alternatives: runners-up wanted.
    """
    decision = planner.plan(problem, alternatives)
    return Explanation(decision, active_bounds(problem, planner, decision), flips(problem, planner, decision.plan))


def active_bounds(problem: Problem, planner: Planner, decision: Decision) -> tuple[ActiveBound, ...]:
    """The bounds without which the choice would be another."""
    found = []
    for name in RELAXABLE:
        if getattr(problem.objective, name) is None:
            continue
        objective = msgspec.structs.replace(problem.objective, **{name: None})
        if name == "min_fps" and problem.fps is None:
            # The rate that is asked for is also what bytes per second are reckoned with.
            objective = msgspec.structs.replace(objective, max_bytes_per_s=None)
        found.append((name, objective))
    if problem.objective.pictures_stay_at_edge:
        freed = msgspec.structs.replace(problem.objective, pictures_stay_at_edge=False)
        found.append(("pictures_stay_at_edge", freed))
    active = []
    for name, objective in found:
        free = planner.plan(dataclasses.replace(problem, objective=objective))
        if signature(free.plan) != signature(decision.plan):
            active.append(ActiveBound(name, free.plan, free.cost))
    return tuple(active)


def flips(problem: Problem, planner: Planner, plan: Plan) -> tuple[Flip, ...]:
    """The nearest change of choice for each link and each node, up and down."""
    found = []
    for what, unit, now, at in _knobs(problem):
        for direction in (1 / REACH, REACH):
            flip = _flip(planner, plan, at, now, direction)
            if flip is not None:
                found.append(Flip(what, unit, now, flip[0], flip[1]))
    return tuple(found)


def _knobs(problem: Problem) -> list[Knob]:
    knobs: list[Knob] = [
        (f"{hop[0]}-{hop[1]} bandwidth", "bit/s", problem.links[hop].goodput_bps, _at_bandwidth(problem, hop))
        for hop in HOPS
        if problem.has(hop)
    ]
    for tier, node in problem.nodes.items():
        load = problem.loads.get(node, LoadEstimate())
        knobs.append((f"{tier} load", "times slower", load.slowdown, _at_load(problem, node)))
    return knobs


def _at_bandwidth(problem: Problem, hop: Hop) -> Callable[[float], Problem]:
    def at(bps: float) -> Problem:
        link = dataclasses.replace(problem.links[hop], goodput_bps=bps)
        return dataclasses.replace(problem, links={**problem.links, hop: link})

    return at


def _at_load(problem: Problem, node: str) -> Callable[[float], Problem]:
    def at(slowdown: float) -> Problem:
        load = dataclasses.replace(problem.loads.get(node, LoadEstimate()), slowdown=slowdown)
        return dataclasses.replace(problem, loads={**problem.loads, node: load})

    return at


def _flip(
    planner: Planner, plan: Plan, at: Callable[[float], Problem], now: float, reach: float
) -> tuple[float, Plan] | None:
    """The first value on the way to `now * reach` whose choice is another, and that choice."""
    same, own = now, signature(plan)
    for step in range(1, STEPS + 1):
        value = now * reach ** (step / STEPS)
        other = planner.plan(at(value)).plan
        if signature(other) != own:
            return _narrow(planner, own, at, (same, value, other))
        same = value
    return None


def _narrow(
    planner: Planner, own: Signature, at: Callable[[float], Problem], between: tuple[float, float, Plan]
) -> tuple[float, Plan]:
    same, value, other = between
    while max(same, value) / min(same, value) > PRECISION:
        middle = math.sqrt(same * value)
        found = planner.plan(at(middle)).plan
        if signature(found) == own:
            same = middle
        else:
            value, other = middle, found
    return value, other


def sweep(problem: Problem, planner: Planner, hop: Hop, values_bps: Sequence[float]) -> tuple[Point, ...]:
    """The choice at each bandwidth of a link."""
    at = _at_bandwidth(problem, hop)
    decisions = [(bps, planner.plan(at(bps))) for bps in values_bps]
    return tuple(Point(bps, decision.plan, decision.cost) for bps, decision in decisions)


def geometric(low: float, high: float, count: int) -> tuple[float, ...]:
    """Values from `low` to `high` in equal ratios."""
    ratio = (high / low) ** (1 / max(count - 1, 1))
    return tuple(itertools.accumulate(itertools.repeat(ratio, count - 1), lambda a, b: a * b, initial=low))


def describe(plan: Plan) -> str:
    """A plan in one line: `device ..conv3 | q4 | edge ..conv9 (4 tiles) | q8 | cloud`."""
    words = []
    for number, stage in enumerate(plan.stages):
        tiles = ""
        if stage.tier is Tier.EDGE and plan.tiles is not None:
            most = max((len(stack.rows) * len(stack.columns) for stack in plan.tiles.stacks), default=1)
            tiles = f" ({most} tiles)"
        until = f" ..{stage.until}" if number < len(plan.stages) - 1 else ""
        words.append(f"{stage.tier}{until}{tiles}")
        if number < len(plan.links):
            words.append(plan.links[number].codec)
    return " | ".join(words)


def loss(decision: Decision, other: Cost) -> str:
    """What a runner-up loses, in words: its figures that are worse by a per mille or more."""
    best, lost = decision.cost, []
    for name, own, theirs in (
        ("period", best.period_s, other.period_s),
        ("latency", best.latency_s, other.latency_s),
        ("bytes", best.bytes, other.bytes),
    ):
        if own > 0 and theirs > own * 1.001:
            lost.append(f"{name} +{theirs / own - 1:.1%}" if theirs < 10 * own else f"{name} x{theirs / own:.0f}")
        elif own == 0 and theirs > 0:
            lost.append(f"{name} {theirs:.3g}")
    if (other.accuracy_drop or 0.0) > (best.accuracy_drop or 0.0):
        lost.append(f"accuracy -{100 * ((other.accuracy_drop or 0.0) - (best.accuracy_drop or 0.0)):.2g} points")
    return ", ".join(lost) or "nothing that counts"
