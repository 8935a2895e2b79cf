"""Explanations: flips are where the choice changes, and active bounds are those that cost something."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.plan import Tier, signature
from scheduler.explain import PRECISION, describe, explain, geometric, loss, sweep
from scheduler.objective import Goal, Objective, Priority
from scheduler.planners.joint import Joint
from scheduler.problem import DEVICE_EDGE, HOPS, LinkEstimate, LoadEstimate, Problem
from tests.scheduler import worlds
from tests.scheduler.test_cost import plan, world

OBJECTIVE = Objective((Priority(Goal.LATENCY),), max_drop=0.02)


def full(seed: int) -> Problem:
    """A problem with all tiers and links."""
    rng = np.random.default_rng(seed)
    problem = worlds.problem(rng, worlds.Size(5), OBJECTIVE)
    units = {Tier.DEVICE: 4e-3, Tier.EDGE: 1e-3, Tier.CLOUD: 3e-4}
    return dataclasses.replace(
        problem,
        nodes=worlds.NODES,
        links={hop: LinkEstimate(float(10 ** rng.uniform(4.5, 6))) for hop in HOPS},
        times={name: worlds.times(rng, problem.graph, units[tier]) for tier, name in worlds.NODES.items()},
    )


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_choice_changes_at_a_flip_and_not_before(seed: int) -> None:
    problem, planner = full(seed), Joint()
    found = explain(problem, planner, alternatives=2)
    for flip in found.flips:
        name = flip.what.split()[0]
        inside = flip.at / PRECISION if flip.at > flip.now else flip.at * PRECISION
        if flip.unit == "bit/s":
            hop = next(hop for hop in HOPS if f"{hop[0]}-{hop[1]}" == name)
            at = [
                dataclasses.replace(problem, links={**problem.links, hop: LinkEstimate(bps)})
                for bps in (inside, flip.at)
            ]
        else:
            node = worlds.NODES[Tier(name)]
            own = problem.loads.get(node, LoadEstimate())
            loads = [{**problem.loads, node: dataclasses.replace(own, slowdown=x)} for x in (inside, flip.at)]
            at = [dataclasses.replace(problem, loads=each) for each in loads]
        before, beyond = (signature(planner.plan(each).plan) for each in at)
        assert before == signature(found.decision.plan)
        assert beyond == signature(flip.plan) != before


def test_active_bounds_are_those_that_cost_something() -> None:
    problem = world(objective=Objective((Priority(Goal.LATENCY),), max_drop=0.0, max_latency_s=1000.0))
    found = explain(problem, Joint())
    assert [bound.name for bound in found.active] == ["max_drop"]
    assert found.active[0].cost.latency_s < found.decision.cost.latency_s
    assert len(found.decision.runners_up) == 4


def test_sweep_goes_from_the_device_to_its_servers() -> None:
    problem = world(objective=Objective((Priority(Goal.LATENCY),)), links={DEVICE_EDGE: LinkEstimate(1.0)})
    points = sweep(problem, Joint(), DEVICE_EDGE, geometric(1.0, 1e4, 9))
    assert [point.bps for point in points] == pytest.approx([10 ** (n / 2) for n in range(9)])
    assert len(points[0].plan.stages) == 1
    assert points[-1].plan.stages[0].until == "input"
    latencies = [point.cost.latency_s for point in points]
    assert latencies == sorted(latencies, reverse=True)


def test_plans_and_losses_in_words() -> None:
    assert describe(plan("d:A", "fp32", "e:B", "q4", "c")) == "device ..A | fp32 | edge ..B | q4 | cloud"
    problem = world(objective=Objective((Priority(Goal.LATENCY),)))
    decision = Joint().plan(problem, alternatives=1)
    assert "latency +" in loss(decision, decision.runners_up[0].cost)
    assert loss(decision, decision.cost) == "nothing that counts"
