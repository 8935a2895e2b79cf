"""The exact planner against brute force, over random networks, tables, links and bounds."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from scheduler.bounds import SLACK
from scheduler.objective import Goal, Objective, Priority
from scheduler.planners import prepared, search
from scheduler.planners.joint import Joint
from scheduler.problem import LinkEstimate, Problem
from tests.scheduler import worlds

GOALS = st.lists(st.sampled_from(list(Goal)), min_size=1, max_size=3, unique=True)


@st.composite
def objectives(draw: st.DrawFn) -> Objective:
    """Any order of priority, with some bounds, often tight or impossible."""

    def maybe(*values: float) -> float | None:
        return draw(st.sampled_from([None, None, *values]))

    goals = tuple(Priority(goal, draw(st.sampled_from([0.0, 0.0, 0.1, 0.5]))) for goal in draw(GOALS))
    return Objective(
        goals,
        max_latency_s=maybe(0.01, 0.05, 0.1),
        max_drop=maybe(0.0, 0.01, 0.03),
        min_fps=maybe(20.0, 100.0),
        max_bytes_per_s=maybe(1e3, 2e4),
        max_device_bytes=maybe(20.0, 60.0),
        private_until=draw(st.sampled_from([None, None, "b0", "b1"])),
        pictures_stay_at_edge=draw(st.booleans()),
        quantile=draw(st.sampled_from([0.5, 0.9])),
    )


def check_optimal(problem: Problem) -> None:
    """`joint` answers with one of the best plans of brute force, or with a nearest one."""
    decision, best = Joint().plan(problem), worlds.brute_force(problem)
    assert worlds.excess(problem, decision.plan, decision.cost) <= best.excess * (1 + SLACK) + 1e-12
    if best.violated != "several":
        assert decision.violated == best.violated
    for value, limit in zip(worlds.merits(problem, decision.cost), best.limits, strict=True):
        assert value <= limit * (1 + SLACK)


LOOSE_THROUGHPUT = Objective((Priority(Goal.THROUGHPUT, 0.1), Priority(Goal.HEADROOM)))


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), blocks=st.integers(2, 6), objective=objectives())
@example(seed=1, blocks=5, objective=LOOSE_THROUGHPUT).via("headroom with less to spare than the throughput before it")
def test_joint_is_brute_force(seed: int, blocks: int, objective: Objective) -> None:
    check_optimal(worlds.problem(np.random.default_rng(seed), worlds.Size(blocks), objective))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), objective=objectives())
def test_joint_is_brute_force_where_blocks_are_thinned_before_they_are_joined(seed: int, objective: Objective) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "SMALL", 1)
        patch.setattr(prepared, "GROUP_CUTS", 2)
        check_optimal(worlds.problem(np.random.default_rng(seed), worlds.Size(6), objective))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), objective=objectives())
def test_joint_is_brute_force_over_tile_grids(seed: int, objective: Objective) -> None:
    check_optimal(worlds.problem(np.random.default_rng(seed), worlds.Size(3, 2, tiled=True), objective))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), objective=objectives())
def test_replan_is_a_full_search(seed: int, objective: Objective) -> None:
    rng = np.random.default_rng(seed)
    problem, kept = worlds.problem(rng, worlds.Size(6), objective), Joint()
    for _ in range(3):
        links = {hop: LinkEstimate(float(10 ** rng.uniform(3, 7))) for hop in problem.links}
        problem = dataclasses.replace(problem, links=links)
        assert kept.plan(problem).cost == Joint().plan(problem).cost


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_runners_up_have_other_cuts_and_are_never_better(seed: int) -> None:
    objective = Objective((Priority(Goal.LATENCY),))
    problem = worlds.problem(np.random.default_rng(seed), worlds.Size(4, tiled=True), objective)
    decision = Joint().plan(problem, alternatives=4)
    plans = [decision.plan, *(other.plan for other in decision.runners_up)]
    answers = [decision.cost.answer_s, *(other.cost.answer_s for other in decision.runners_up)]
    assert answers == sorted(answers)
    divisions = {tuple((stage.tier, stage.until) for stage in plan.stages) for plan in plans}
    assert len(divisions) == len(plans)


def test_considered_counts_all_combinations() -> None:
    problem = worlds.problem(np.random.default_rng(3), worlds.Size(5), Objective())
    assert Joint().plan(problem).considered >= len(list(worlds.every_plan(problem))) / 2
