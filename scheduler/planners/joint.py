"""The project's own planner: the best plan over all routes, cut pairs, codecs and tile grids, exactly.

Levels of the objective are searched one after the other: each finds its least value under all bounds, and adds "at most
that, plus the tolerance" to the bounds of the next (the usual lexicographic method; DynO [recalled] ranks by priority
too). Where no plan keeps all bounds, the *nearest* one is found instead: that one bound is given up that is missed by
the least share while all others are kept (or, if no single one suffices, the largest share over all is made least), and
the objective decides among the plans of that excess. Privacy is never given up.

What no link or load changes is kept between calls, so a re-plan repeats only the search itself. It begins with the plan
that was best before: where that still is the best, one look at the groups' bounds shows it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from pipeline.errors import PlanError
from pipeline.plan import Plan
from scheduler.bounds import SLACK, Bound, Figures, bounds_of, faster, measure_of
from scheduler.cost import evaluate, stage_costs, violations, with_links
from scheduler.objective import Goal
from scheduler.planners.build import build
from scheduler.planners.halves import Halves, load_parts
from scheduler.planners.prepared import Choice, Prepared, constant_parts
from scheduler.planners.search import Found, Query, Search
from scheduler.problem import Alternative, Cost, Decision, Problem, StageCost
from scheduler.tables import Floats

T = TypeVar("T")

KEPT = 16
"""Networks, settings and loads whose parts are kept; the oldest go first."""


class Joint:
    """Exact search; see `Planner`."""

    name = "joint"

    def __init__(self) -> None:
        self._prepared: _Kept[Prepared] = _Kept()
        self._halves: _Kept[_Parts] = _Kept()

    def plan(self, problem: Problem, alternatives: int = 0) -> Decision:
        """See `Planner.plan`; runners-up are the best plans with other cuts, each the best of its cuts."""
        parts = self._parts(problem, strict=True)
        search = Search(problem, parts.halves)
        known = None if parts.latest is None else search.recall(parts.latest.choice)
        found, feasible = _levels(problem, search, bounds_of(problem), known), True
        if found is None:
            parts = self._parts(problem, strict=False)
            search = Search(problem, parts.halves)
            found, feasible = _nearest(problem, search), False
        plan, cost = parts.answer(problem, found.choice)
        broken = {} if feasible else violations(problem, plan, cost)
        return Decision(
            plan=plan,
            cost=cost,
            planner=self.name,
            considered=search.considered,
            violated=max(broken, key=lambda name: broken[name]) if broken else None,
            runners_up=_runners_up(problem, search, found, alternatives),
        )

    def _parts(self, problem: Problem, strict: bool) -> _Parts:
        # The tables go into the entries, so that no other table can take their identity while a key lives.
        constant = *constant_parts(problem), strict
        tables = problem.packing, problem.tiles, *problem.times.values()
        return self._halves.get(
            constant + load_parts(problem),
            tables,
            lambda: _Parts(Halves.of(problem, self._constant(problem, strict, constant))),
        )

    def _constant(self, problem: Problem, strict: bool, key: tuple[object, ...]) -> Prepared:
        tables = problem.packing, problem.tiles
        lattice = next((kept.lattice for kept in self._prepared.where(key[0])), None)
        return self._prepared.get(key, tables, lambda: Prepared.of(problem, strict, lattice))


@dataclass
class _Parts:
    """Parts of plans, and what was chosen of them last."""

    halves: Halves
    latest: _Latest | None = None

    def answer(self, problem: Problem, choice: Choice) -> tuple[Plan, Cost]:
        """The plan of a choice, which is kept, with its cost."""
        latest = self.latest
        if latest is None or latest.choice != choice or latest.made_for != (problem.stream, problem.epoch):
            plan = build(problem, choice)
            made_for = problem.stream, problem.epoch
            self.latest = latest = _Latest(choice, made_for, plan, stage_costs(problem, plan))
        return latest.plan, with_links(problem, latest.plan, latest.stages)


@dataclass(frozen=True)
class _Latest:
    choice: Choice
    made_for: tuple[str, int]
    """Stream and epoch."""
    plan: Plan
    stages: tuple[StageCost, ...]


class _Kept(Generic[T]):
    """The latest few results by key."""

    def __init__(self) -> None:
        self._entries: dict[tuple[object, ...], tuple[T, object]] = {}

    def get(self, key: tuple[object, ...], alive: object, make: Callable[[], T]) -> T:
        """The result of that key, made where there is none; `alive` is held as long."""
        found = self._entries.get(key)
        if found is None:
            if len(self._entries) >= KEPT:
                del self._entries[next(iter(self._entries))]
            found = self._entries[key] = make(), alive
        return found[0]

    def where(self, first: object) -> Iterator[T]:
        """Results whose key begins with `first`."""
        return (value for key, (value, _) in self._entries.items() if key[0] == first)


def _nearest(problem: Problem, search: Search) -> Found:
    """The best of the plans that miss their bounds by the least."""
    bounds = bounds_of(problem)
    nearest: tuple[float, tuple[Bound, ...]] | None = None
    for number, bound in enumerate(bounds):
        others = bounds[:number] + bounds[number + 1 :]
        found = search.minimise(Query(bound.excess, others))
        if found is not None and (nearest is None or found.value < nearest[0]):
            nearest = found.value, (*others, Bound("excess", bound.excess, found.value, 1.0))
    if nearest is None:
        nearest = _least_of_all(problem, search, bounds)
    best = _levels(problem, search, nearest[1])
    if best is None:
        raise PlanError(f"stream {problem.stream}", "not even everything on the device has finite figures")
    return best


def _least_of_all(problem: Problem, search: Search, bounds: tuple[Bound, ...]) -> tuple[float, tuple[Bound, ...]]:
    def excess(figures: Figures) -> Floats:
        return functools.reduce(np.maximum, (bound.excess(figures) for bound in bounds))

    found = search.minimise(Query(excess, ()))
    least = 0.0 if found is None else found.value
    return least, (Bound("excess", excess, least, 1.0),)


def _levels(problem: Problem, search: Search, bounds: tuple[Bound, ...], known: Found | None = None) -> Found | None:
    found, least, share, spared = known, -math.inf, faster(problem), math.inf
    for level in problem.objective.levels:
        if level.goal is Goal.HEADROOM and share == 1.0 and level.tolerance >= spared:
            continue  # it is the throughput itself, which was given no more than that
        measure = measure_of(problem, level.goal)
        value = math.inf if found is None else found.at(measure)
        if level.goal is not Goal.HEADROOM or value > least:
            found = search.minimise(Query(measure, bounds), found)
            if found is None:
                return None
            value = found.value
        bounds += (Bound(level.goal, measure, value * (1 + level.tolerance), 1.0),)
        if level.goal is Goal.THROUGHPUT:
            # No plan that is left has more headroom than this period allows: where that much is there, none is sought.
            least, spared = value / share * (1 + SLACK), level.tolerance
    return found


def _runners_up(problem: Problem, search: Search, found: Found, count: int) -> tuple[Alternative, ...]:
    others: list[Alternative] = []
    while len(others) < count:
        search.banned.add((found.choice[0], found.choice[2]))
        following = _levels(problem, search, bounds_of(problem))
        if following is None:
            break
        found = following
        plan = build(problem, found.choice)
        others.append(Alternative(plan, evaluate(problem, plan)))
    return tuple(others)
