"""Plans and decisions out of cuts and codecs: what all planners share."""

from __future__ import annotations

from pipeline.plan import Link, Plan, Stage, Tier
from scheduler.bounds import figures_of, measure_of
from scheduler.cost import evaluate, violations
from scheduler.planners.prepared import Choice
from scheduler.problem import Cost, Decision, Problem

ALONE = -1
"""In a `Choice`: no such link, or no such stage."""


def build(problem: Problem, choice: Choice) -> Plan:
    """The plan of a choice, with the tiles that save the most on its edge stage.

    Args:
        problem: for names, epoch and tile table.
        choice: (first cut, codec, second cut, codec). A second cut of -1 goes from the first straight to the cloud, a
            first codec of -1 stays on the device, and the last cut as second one ends at the edge.
    """
    first, first_codec, second, second_codec = choice
    if first_codec == ALONE:
        return _plan(problem, [(Tier.DEVICE, len(problem.graph.cuts) - 1)], [])
    last = len(problem.graph.cuts) - 1
    if second == ALONE:
        return _plan(problem, [(Tier.DEVICE, first), (Tier.CLOUD, last)], [first_codec])
    if second == last:
        return _plan(problem, [(Tier.DEVICE, first), (Tier.EDGE, last)], [first_codec])
    ends = [(Tier.DEVICE, first), (Tier.EDGE, second), (Tier.CLOUD, last)]
    return _plan(problem, ends, [first_codec, second_codec])


def _plan(problem: Problem, ends: list[tuple[Tier, int]], codecs: list[int]) -> Plan:
    graph = problem.graph
    tiles = None
    if problem.tiles is not None and len(ends) > 1 and ends[1][0] is Tier.EDGE:
        tiles = problem.tiles.choose(graph, ends[0][1], ends[1][1])
    return Plan(
        epoch=problem.epoch,
        stream=problem.stream,
        model=graph.fingerprint,
        stages=tuple(Stage(tier, problem.nodes[tier], graph.cuts[cut].name) for tier, cut in ends),
        links=tuple(Link(problem.packing.codecs[codec]) for codec in codecs),
        tiles=tiles,
    )


def merit(problem: Problem, cost: Cost) -> tuple[float, ...]:
    """A plan's figures in the order of the objective's levels, tolerances apart: less is better."""
    figures = figures_of(problem, cost)
    return tuple(float(measure_of(problem, level.goal)(figures)) for level in problem.objective.levels)


def decide(problem: Problem, planner: str, plans: list[Plan]) -> Decision:
    """The best of a few plans: those that keep all bounds first, then by the objective, tolerances included.

    Args:
        problem: with the objective.
        planner: name for the decision.
        plans: at least one.
    """
    costs = [evaluate(problem, plan) for plan in plans]
    broken = [violations(problem, plan, cost) for plan, cost in zip(plans, costs, strict=True)]
    excess = [max(found.values(), default=0.0) for found in broken]
    left = [n for n in range(len(plans)) if excess[n] == min(excess)]
    merits = {n: merit(problem, costs[n]) for n in left}
    for rank, level in enumerate(problem.objective.levels):
        best = min(merits[n][rank] for n in left)
        left = [n for n in left if merits[n][rank] <= best * (1 + level.tolerance)]
    chosen = left[0]
    violated = max(broken[chosen], key=broken[chosen].__getitem__, default=None)
    return Decision(plans[chosen], costs[chosen], planner, len(plans), violated)
