"""The project's own planner: the best plan over all routes, cut pairs, codecs and tile grids, exactly.

Levels of the objective are searched one after the other: each finds its least value under all bounds, and adds "at most
that, plus the tolerance" to the bounds of the next (the usual lexicographic method; DynO [recalled] ranks by priority
too). Where no plan keeps all bounds, the *nearest* one is found instead: first the least of the largest relative excess
over the bounds, then the objective among the plans of that excess. Privacy is never given up.

What no link or load changes is kept between calls, so a re-plan repeats only the search itself.
"""

from __future__ import annotations

import numpy as np

from scheduler.bounds import Bound, Figures, bounds_of, measure_of
from scheduler.cost import evaluate, violations
from scheduler.planners.build import build
from scheduler.planners.prepared import Lattice, Prepared, constant_parts
from scheduler.planners.search import Found, Search
from scheduler.problem import Alternative, Decision, Problem
from scheduler.tables import Floats

KEPT = 8
"""Networks (or privacy settings) whose constant parts are kept; the oldest goes first."""


class Joint:
    """Exact search; see `Planner`."""

    name = "joint"

    def __init__(self) -> None:
        self._kept: dict[tuple[object, ...], tuple[Prepared, tuple[object, ...]]] = {}

    def plan(self, problem: Problem, alternatives: int = 0) -> Decision:
        """See `Planner.plan`; runners-up are the best plans with other cuts, each the best of its cuts."""
        search = Search(problem, self._prepare(problem))
        found, feasible = _best(problem, search)
        plan = build(problem, found.choice)
        cost = evaluate(problem, plan)
        broken = {} if feasible else violations(problem, plan, cost)
        return Decision(
            plan=plan,
            cost=cost,
            planner=self.name,
            considered=search.considered,
            violated=max(broken, key=lambda name: broken[name]) if broken else None,
            runners_up=_runners_up(problem, search, found, alternatives),
        )

    def _prepare(self, problem: Problem) -> Prepared:
        key = constant_parts(problem)
        if key not in self._kept:
            if len(self._kept) >= KEPT:
                del self._kept[next(iter(self._kept))]
            # The tables go along, so that no other table can take their identity while the key lives.
            self._kept[key] = Prepared.of(problem, self._lattice(problem)), (problem.packing, problem.tiles)
        return self._kept[key][0]

    def _lattice(self, problem: Problem) -> Lattice | None:
        fingerprint = problem.graph.fingerprint
        return next((kept.lattice for key, (kept, _) in self._kept.items() if key[0] == fingerprint), None)


def _best(problem: Problem, search: Search) -> tuple[Found, bool]:
    """The best plan, and whether it keeps all bounds."""
    bounds = bounds_of(problem)
    found = _levels(problem, search, bounds)
    if found is not None:
        return found, True

    def excess(figures: Figures) -> Floats:
        worst: Floats = np.zeros((1, 1)) if np.ndim(figures.latency_s) == 2 else np.zeros(1)
        for bound in bounds:
            worst = np.maximum(worst, bound.excess(figures))
        return worst

    nearest = search.minimise(excess, ())
    if nearest is None:
        raise AssertionError("everything on the device is always a plan")
    least = Bound("excess", excess, nearest.value, 1.0)
    return _levels(problem, search, (least,)) or nearest, False


def _levels(problem: Problem, search: Search, bounds: tuple[Bound, ...]) -> Found | None:
    found = None
    for level in problem.objective.levels:
        measure = measure_of(problem, level.goal)
        best = search.minimise(measure, bounds)
        if best is None:
            return found
        found = best
        bounds += (Bound(level.goal, measure, found.value * (1 + level.tolerance), 1.0),)
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
