"""When a switch pays: margins, noise, dwell, confirmation, and what does not wait."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.objective import Goal, Objective, Priority
from scheduler.policy import Gain, Offer, PolicyConfig, SwitchPolicy, gain
from tests.scheduler.toys import cost


def offer(ratio: float, *, broken: str = "", new_broken: str = "", noise: float = 0.0) -> Offer:
    """An offer of a gain in throughput."""
    return Offer(Gain(ratio, Goal.THROUGHPUT), broken, new_broken, noise)


def test_a_small_gain_is_not_worth_it_and_a_lasting_one_is() -> None:
    policy = SwitchPolicy()
    assert not policy.judge(offer(1.05), 0.0).switch
    assert not policy.judge(offer(1.2), 1.0).switch
    assert not policy.judge(offer(1.2), 2.9).switch
    assert policy.judge(offer(1.2), 3.0).switch


def test_a_gain_that_comes_and_goes_is_not_confirmed() -> None:
    policy = SwitchPolicy()
    for second in range(0, 40, 2):
        assert not policy.judge(offer(1.3), float(second)).switch
        assert not policy.judge(offer(1.0), second + 0.9).switch


def test_a_large_gain_waits_for_nothing() -> None:
    policy = SwitchPolicy()
    policy.switched(0.0, 1.2)
    assert policy.judge(offer(4.0), 0.1).switch


def test_the_dwell_time_holds_and_each_small_switch_raises_the_margin() -> None:
    policy = SwitchPolicy()
    policy.switched(0.0, 1.2)
    assert not policy.judge(offer(1.25), 0.0).switch
    assert not policy.judge(offer(1.25), 2.0).switch
    assert policy.judge(offer(1.25), 3.0).switch
    policy.switched(3.0, 1.25)
    assert policy.judge(offer(1.25), 10.0).threshold == pytest.approx(1.3)
    assert policy.judge(offer(1.25), 400.0).threshold == pytest.approx(1.1)


def test_a_broken_bound_does_not_wait_and_the_way_back_does() -> None:
    policy = SwitchPolicy()
    policy.switched(0.0)
    assert policy.judge(offer(0.5, broken="max_latency_s"), 0.1).switch
    policy.switched(0.1, forced=True)
    assert not policy.judge(offer(5.0), 1.0).switch
    assert policy.judge(offer(5.0), 0.1 + 2 * PolicyConfig().dwell_s).switch


def test_no_gain_is_bought_by_breaking_a_bound() -> None:
    assert not SwitchPolicy().judge(offer(9.0, new_broken="max_drop"), 0.0).switch


def test_sampling_noise_raises_the_margin() -> None:
    assert SwitchPolicy().judge(offer(1.2, noise=0.2), 0.0).threshold == pytest.approx(1.5)


@given(st.integers(0, 1000), st.floats(0.05, 0.2))
def test_offers_that_are_noise_alone_come_to_rest(seed: int, noise: float) -> None:
    """Ten minutes of offers about a gain of 1, either way, once a second: a handful of switches at most."""
    rng, policy, switches = random.Random(seed), SwitchPolicy(), 0
    for second in range(600):
        each = offer(rng.lognormvariate(0.0, noise), noise=noise)
        if policy.judge(each, float(second)).switch:
            policy.switched(float(second), each.gain.ratio)
            switches += 1
    assert switches <= 3


def test_gain_is_read_in_the_first_goal_that_differs() -> None:
    objective = Objective((Priority(Goal.THROUGHPUT), Priority(Goal.LATENCY)))
    assert gain(objective, cost(0.1, 0.4), cost(0.05, 0.5)) == Gain(2.0, Goal.THROUGHPUT)
    assert gain(objective, cost(0.1, 0.4), cost(0.1, 0.2)) == Gain(2.0, Goal.LATENCY)
    assert gain(objective, cost(0.1, 0.4), cost(0.05, 0.2), fps=10.0) == Gain(2.0, Goal.LATENCY)
    assert gain(objective, cost(0.1, 0.4), cost(0.1, 0.4)).ratio == 1.0


def test_a_tolerance_passes_the_decision_on() -> None:
    objective = Objective((Priority(Goal.LATENCY, 0.2), Priority(Goal.BYTES)))
    assert gain(objective, cost(0.1, 0.40, 100.0), cost(0.1, 0.45, 50.0)) == Gain(2.0, Goal.BYTES)
