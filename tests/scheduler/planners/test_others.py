"""The published and the simple planners: valid plans, never better than the exact one, and what each is known for."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import ConfigError, PlanError
from pipeline.plan import Tier
from scheduler import planners
from scheduler.bounds import SLACK
from scheduler.cost import evaluate
from scheduler.objective import Goal, Objective, Priority
from scheduler.planners.dads import min_cut, network
from scheduler.planners.hpa import Hpa, Partition, Prices
from scheduler.problem import DEVICE_CLOUD, HOPS, LinkEstimate, Problem
from scheduler.tables import SegmentTimes
from tests.scheduler import worlds

SEEDS = st.integers(0, 2**32 - 1)
RIVALS = [name for name in planners.NAMES if name not in {"joint", "fixed"}]


@pytest.mark.parametrize("name", RIVALS)
@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, goals=st.permutations([Goal.THROUGHPUT, Goal.LATENCY, Goal.BYTES, Goal.CLOUD]))
def test_valid_and_never_better_than_joint(name: str, seed: int, goals: list[Goal]) -> None:
    objective = Objective(tuple(Priority(goal) for goal in goals), max_drop=0.02, private_until=None)
    problem = worlds.problem(np.random.default_rng(seed), worlds.Size(6, 4, tiled=True), objective)
    decision = planners.make(name).plan(problem)
    decision.plan.check(problem.graph)
    assert decision.cost == evaluate(problem, decision.plan)
    best = planners.make("joint").plan(problem)
    if decision.violated is None:
        assert best.violated is None
        for own, other in zip(worlds.merits(problem, best.cost), worlds.merits(problem, decision.cost), strict=True):
            assert own <= other * (1 + SLACK) + 1e-15
            if own < other * (1 - SLACK):
                break


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS)
def test_dads_cuts_at_the_least_sum(seed: int) -> None:
    """The min-cut against every predecessor-closed set of blocks."""
    rng = np.random.default_rng(seed)
    links = {DEVICE_CLOUD: LinkEstimate(float(10 ** rng.uniform(4, 6)))}
    problem = worlds.problem(rng, worlds.Size(7), Objective())
    problem = dataclasses.replace(problem, nodes=worlds.NODES, links=links, times=_times(problem, rng), loads={})
    mask = min_cut(network(problem, DEVICE_CLOUD))
    sums = {cut.mask: _sum_s(problem, cut.mask) for cut in problem.graph.cuts}
    assert sums[mask] <= min(sums.values()) + 1e-5


def _sum_s(problem: Problem, mask: int) -> float:
    graph, blocks = problem.graph, range(len(problem.graph.blocks))
    device = sum(float(problem.times_of(Tier.DEVICE).block_s[i]) for i in blocks if mask >> i & 1)
    cloud = sum(float(problem.times_of(Tier.CLOUD).block_s[i]) for i in blocks if not mask >> i & 1)
    behind = graph.full_mask & ~mask
    crossing = [n for n in graph.crossing(mask) if graph.consumers[n] & behind]
    nbytes = sum(graph.tensors[name].nbytes for name in crossing)
    return device + cloud + nbytes * 8 / problem.links[DEVICE_CLOUD].goodput_bps


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS)
def test_hpa_tiers_never_go_back_upstream(seed: int) -> None:
    problem = worlds.problem(np.random.default_rng(seed), worlds.Size(8), Objective())
    partition = Partition(problem.graph, Prices.of(problem))
    tiers = partition.full()
    for adjusted in (tiers, partition.adjust(tiers, set()), partition.adjust(tiers, {0, 3})):
        for block in problem.graph.blocks:
            assert all(
                adjusted[above] <= adjusted[block.index]
                for above in range(block.index)
                if problem.graph.predecessors[block.index] >> above & 1
            )


def test_hpa_keeps_its_assignment_inside_the_band_and_moves_outside() -> None:
    objective = Objective((Priority(Goal.LATENCY),))
    rng = np.random.default_rng(5)
    problem = worlds.problem(rng, worlds.Size(6), objective)
    links = {hop: LinkEstimate(1e6) for hop in HOPS}
    problem = dataclasses.replace(problem, nodes=worlds.NODES, links=links, times=_times(problem, rng))
    hpa = Hpa()
    first = hpa.plan(problem)
    near = dataclasses.replace(problem, links={hop: LinkEstimate(1.1e6) for hop in links})
    assert hpa.plan(near).plan == first.plan
    slow = dataclasses.replace(problem, links={hop: LinkEstimate(1.0) for hop in links})
    assert [stage.tier for stage in hpa.plan(slow).plan.stages] == [Tier.DEVICE]


def _times(problem: Problem, rng: np.random.Generator) -> dict[str, SegmentTimes]:
    units = {Tier.DEVICE: 40e-3, Tier.EDGE: 1e-3, Tier.CLOUD: 3e-4}
    return {name: worlds.times(rng, problem.graph, units[tier]) for tier, name in worlds.NODES.items()}


def test_fixed_follows_its_plan_and_refuses_what_is_not_there() -> None:
    problem = worlds.problem(np.random.default_rng(1), worlds.Size(4), Objective())
    chosen = planners.make("joint").plan(problem).plan
    decision = planners.make("fixed", chosen).plan(dataclasses.replace(problem, epoch=7))
    assert (decision.plan.epoch, decision.plan.stages) == (7, chosen.stages)
    with pytest.raises(PlanError, match="given no plan"):
        planners.make("fixed").plan(problem)


def test_unknown_planner_is_named() -> None:
    with pytest.raises(ConfigError, match="known are joint, hpa"):
        planners.make("best")
