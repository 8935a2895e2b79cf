"""Every planner's plan for seven networks, four links and three devices, under the one cost model.

Times are analytic (`scheduler.simulate.figures`), packed sizes arithmetic, drops assumed: planners are compared, not
machines. The rivals' edge parts are tiled as well as ours. Each planner is asked once with latency first and once with
throughput first, under a bound of one percentage point on the accuracy drop. HPA's distance from the optimum is told
twice: from `joint`, and from the best plan of its own kind (raw tensors, no tiles).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from nodes.bench import _networks as networks
from nodes.bench.report import Bar, BenchReport, Cell, tell
from scheduler.objective import Goal, Objective, Priority
from scheduler.packing import RAW
from scheduler.planners import NAMES, make
from scheduler.problem import Decision, Planner, Problem
from scheduler.tables import PackingTable

MAX_DROP = 0.01

GOALS = {
    "latency": Objective((Priority(Goal.LATENCY), Priority(Goal.THROUGHPUT)), max_drop=MAX_DROP),
    "throughput": Objective((Priority(Goal.THROUGHPUT), Priority(Goal.LATENCY)), max_drop=MAX_DROP),
}

RIVALS = tuple(name for name in NAMES if name not in {"joint", "fixed"})

ROUNDING = 1e-9
"""Sums in another order differ by less; a rival that is better by more is better."""


@dataclass(frozen=True)
class Outcome:
    """One planner in one cell."""

    network: str
    link: str
    device: str
    goal: str
    planner: str
    latency_s: float
    period_s: float
    kept: bool
    """Whether the plan keeps the bounds."""

    @property
    def value(self) -> float:
        """What the goal makes least."""
        return self.latency_s if self.goal == "latency" else self.period_s


def run() -> BenchReport:
    """Plan all cells."""
    found: list[Outcome] = []
    for name in networks.NETWORKS:
        # One network after the other: a planner that keeps what it prepared is asked for all cells of each.
        found.extend(_network(name))
        tell(f"{name}: {len(found)} plans so far")
    return report(found)


def report(found: list[Outcome]) -> BenchReport:
    """Rows by cell, and by how much `joint` beats each rival."""
    best = {_cell(each): each for each in found if each.planner == "joint"}
    rows = [_row(cell, [each for each in found if _cell(each) == cell]) for cell in best]
    worst, notes = math.inf, []
    for rival in (*RIVALS, OWN_KIND):
        ratios = {
            goal: [
                each.value / best[_cell(each)].value
                for each in found
                if each.planner == rival and each.goal == goal and each.kept
            ]
            for goal in GOALS
        }
        worst = min(worst, *(min(each, default=math.inf) for each in ratios.values()))
        notes.append(f"joint over {rival}: " + "; ".join(_factors(goal, ratios[goal]) for goal in GOALS))
    notes.append("hpa over the best plan of its own kind: " + _factors("latency", list(_own_kind(found))))
    bars = [Bar("rival / joint, the least of all cells", worst, 1 - ROUNDING, "min")]
    return BenchReport("planners", rows, bars, [*notes, LEGEND])


LEGEND = (
    "a cell is the latency of a planner's plan where latency comes first, and its frames/s where throughput does; in "
    "parentheses where the plan breaks the bound on the accuracy drop; links and devices: see nodes/bench/_networks.py"
)

OWN_KIND = "best raw plan without tiles"


def _network(name: str) -> Iterator[Outcome]:
    planners: dict[str, Planner] = {planner: make(planner) for planner in ("joint", *RIVALS)}
    raw = make("joint")
    problems = [
        (link, device, goal, networks.network(name).problem(link, device, objective))
        for link in networks.LINKS
        for device in networks.DEVICES
        for goal, objective in GOALS.items()
    ]
    only_raw = _only_raw(problems[0][3])
    for link, device, goal, problem in problems:
        cell = name, link, device, goal
        for planner in planners:
            # HPA adjusts its last assignment; here every cell is a new deployment.
            chooser = make(planner) if planner == "hpa" else planners[planner]
            yield _outcome(cell, planner, chooser.plan(problem))
        plain = dataclasses.replace(problem, packing=only_raw, tiles=None)
        yield _outcome(cell, OWN_KIND, raw.plan(plain))
        yield _outcome(cell, "hpa without tiles", make("hpa").plan(dataclasses.replace(problem, tiles=None)))


def _only_raw(problem: Problem) -> PackingTable:
    packing = problem.packing
    nbytes = packing.bytes.copy()
    nbytes[:, [n for n, codec in enumerate(packing.codecs) if codec != RAW]] = np.inf
    return dataclasses.replace(packing, bytes=nbytes)


def _outcome(cell: tuple[str, str, str, str], planner: str, decision: Decision) -> Outcome:
    cost = decision.cost
    return Outcome(*cell, planner, cost.latency_s, cost.period_s, decision.violated is None)


def _cell(each: Outcome) -> tuple[str, str, str, str]:
    return each.network, each.link, each.device, each.goal


def _row(cell: tuple[str, str, str, str], outcomes: list[Outcome]) -> dict[str, Cell]:
    network, link, device, goal = cell
    row: dict[str, Cell] = {"network": network, "link": link, "device": device, "first": goal}
    for each in outcomes:
        figure = f"{each.latency_s * 1e3:.4g} ms" if goal == "latency" else f"{1 / each.period_s:.4g} /s"
        row[each.planner] = figure if each.kept else f"({figure})"
    return row


def _factors(goal: str, ratios: list[float]) -> str:
    if not ratios:
        return f"{goal} never kept the bound"
    mean = math.exp(sum(math.log(ratio) for ratio in ratios) / len(ratios))
    return f"{goal} {mean:.2f}x in the geometric mean of {len(ratios)}, {max(ratios):.1f}x at most"


def _own_kind(found: list[Outcome]) -> Iterator[float]:
    least = {_cell(each): each.value for each in found if each.planner == OWN_KIND}
    for each in found:
        if each.planner == "hpa without tiles" and each.goal == "latency":
            yield each.value / least[_cell(each)]
