"""When a switch pays: margins, noise, dwell, confirmation, and what does not wait."""

from __future__ import annotations

import functools
import math
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.plan import Tier
from scheduler.objective import Goal, Objective, Priority
from scheduler.policy import Doubt, Gain, Offer, PolicyConfig, SwitchPolicy, gain, gain_noise, mean_cost
from scheduler.problem import Cost, LinkCost, StageCost
from scheduler.swings import STEADY, Swing
from tests.scheduler.toys import cost


def offer(ratio: float, *, broken: str = "", new_broken: str = "", noise: float = 0.0, whole: float = 0.0) -> Offer:
    """An offer of a gain in throughput."""
    return Offer(Gain(ratio, Goal.THROUGHPUT), broken, new_broken, Doubt(noise, whole))


def test_a_small_gain_is_not_worth_it_and_a_lasting_one_is() -> None:
    policy = SwitchPolicy()
    assert not policy.judge(offer(1.05), 0.0).switch
    assert not policy.judge(offer(1.2), 1.0).switch
    assert not policy.judge(offer(1.2), 2.9).switch
    assert policy.judge(offer(1.2), 3.0).switch


def test_a_gain_that_comes_and_goes_is_not_confirmed() -> None:
    policy = SwitchPolicy()
    for second in range(0, 40, 2):
        assert not policy.judge(offer(1.2), float(second)).switch
        assert not policy.judge(offer(1.0), second + 0.9).switch


def test_a_large_gain_waits_for_nothing() -> None:
    policy = SwitchPolicy()
    policy.switched(0.0, 1.2)
    assert policy.judge(offer(4.0), 0.1).switch


def test_a_gain_well_clear_of_the_noise_waits_for_nothing() -> None:
    assert SwitchPolicy().judge(offer(1.3, noise=0.05), 0.0).switch
    assert not SwitchPolicy().judge(offer(1.3, noise=0.08), 0.0).switch


def test_the_dwell_time_holds_and_each_small_switch_raises_the_margin() -> None:
    policy = SwitchPolicy()
    policy.switched(0.0, 1.2)
    assert not policy.judge(offer(1.22), 0.0).switch
    assert not policy.judge(offer(1.22), 2.0).switch
    assert policy.judge(offer(1.22), 3.0).switch
    policy.switched(3.0, 1.22)
    assert policy.judge(offer(1.22), 10.0).threshold == pytest.approx(1.3)
    assert policy.judge(offer(1.22), 400.0).threshold == pytest.approx(1.1)


def test_a_broken_bound_does_not_wait_and_the_way_back_does() -> None:
    policy = SwitchPolicy()
    policy.switched(0.0)
    assert policy.judge(offer(0.5, broken="max_latency_s"), 0.1).switch
    policy.switched(0.1, forced=True)
    assert not policy.judge(offer(5.0), 1.0).switch
    assert policy.judge(offer(5.0), 0.1 + 2 * PolicyConfig().dwell_s).switch


def test_no_gain_is_bought_by_breaking_a_bound() -> None:
    assert not SwitchPolicy().judge(offer(9.0, new_broken="max_drop"), 0.0).switch


def test_a_gain_that_the_next_two_seconds_may_undo_has_to_last() -> None:
    policy = SwitchPolicy()
    assert not policy.judge(offer(1.3, whole=0.95), 0.0).switch
    assert policy.judge(offer(2.6, whole=0.95), 0.1).switch, "exp(0.95) is 2.59"
    policy = SwitchPolicy()
    assert not policy.judge(offer(1.3, whole=0.95), 10.0).switch
    assert policy.judge(offer(1.3, whole=0.95), 12.0).switch, "it lasted"


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


def test_headroom_decides_between_plans_alike_in_throughput() -> None:
    objective = Objective((Priority(Goal.THROUGHPUT), Priority(Goal.LATENCY)))
    ready, tight = replace(cost(0.1, 0.4), faster=2.0), cost(0.1, 0.2)
    assert gain(objective, tight, ready) == Gain(2.0, Goal.HEADROOM)
    assert gain(objective, ready, tight, fps=10.0) == Gain(2.0, Goal.LATENCY), "a camera has no use for it"
    assert gain(objective, ready, replace(tight, pipeline_s=0.05)) == Gain(2.0, Goal.THROUGHPUT)


def test_a_tolerance_passes_the_decision_on() -> None:
    objective = Objective((Priority(Goal.LATENCY, 0.2), Priority(Goal.BYTES)))
    assert gain(objective, cost(0.1, 0.40, 100.0), cost(0.1, 0.45, 50.0)) == Gain(2.0, Goal.BYTES)


@pytest.mark.parametrize(("ratio", "after_s"), [(1.08, 7.0), (1.05, 11.0), (1.03, 17.0), (1.01, None)])
def test_a_gain_below_the_margin_pays_for_its_switch_in_time(ratio: float, after_s: float | None) -> None:
    policy, seconds = SwitchPolicy(PolicyConfig(pays_s=5.0)), 300
    found = next((at for at in range(seconds) if policy.judge(offer(ratio), float(at)).switch), None)
    assert (found is None) == (after_s is None)
    if found is not None and after_s is not None:
        assert found == pytest.approx(after_s, abs=2.0)


@pytest.mark.parametrize("ratio", [1.03, 1.05, 1.08])
def test_a_smaller_gain_below_the_margin_has_to_last_for_longer(ratio: float) -> None:
    """The mean of gains over the time they have lasted has to be what pays for the switch in that time."""
    policy, config = SwitchPolicy(), PolicyConfig()
    found = next(at for at in range(300) if policy.judge(offer(ratio), float(at)).switch)
    due_s = config.margin * config.pays_s / (ratio - 1.0)
    assert due_s <= found <= due_s + 2.0


def test_headroom_below_the_margin_pays_for_no_switch() -> None:
    policy, ahead = SwitchPolicy(), Offer(Gain(1.05, Goal.HEADROOM))
    assert not any(policy.judge(ahead, float(at)).switch for at in range(300))
    assert policy.judge(Offer(Gain(1.2, Goal.HEADROOM)), 303.0).switch is False
    assert policy.judge(Offer(Gain(1.2, Goal.HEADROOM)), 305.0).switch


def test_a_gain_below_the_margin_begins_anew_behind_a_break() -> None:
    policy = SwitchPolicy(PolicyConfig(pays_s=5.0))
    for at in range(300):
        each = offer(1.0 if at % 10 == 9 else 1.05)
        assert not policy.judge(each, float(at)).switch


def sending(transfer_s: float, compute_s: float) -> Cost:
    """Device, a link and an edge node."""
    made = cost(max(transfer_s, compute_s), transfer_s + compute_s)
    link = LinkCost(Tier.DEVICE, Tier.EDGE, "q8", transfer_s, transfer_s, 0.0)
    stage = StageCost(Tier.EDGE, "edge", "output", 0.0, compute_s, 0.0)
    return replace(made, links=(link,), stages=(stage,))


@given(st.floats(0.01, 0.5), st.floats(0.01, 1.0))
def test_a_gain_is_as_noisy_as_the_links_only_where_one_plan_waits_for_them(noise: float, transfer_s: float) -> None:
    slow, slower = sending(transfer_s, 1e-4), sending(2.0 * transfer_s, 1e-4)
    alone, busy = cost(transfer_s / 3.0), sending(transfer_s, 10.0 * transfer_s)
    throughput = functools.partial(gain_noise, Goal.THROUGHPUT, fps=0.0, noise=noise)
    assert throughput(slow, alone) == pytest.approx(noise)
    assert throughput(slower, slow) == pytest.approx(0.0, abs=1e-9), "whatever the link does, half the bytes are half"
    assert throughput(busy, alone) == 0.0, "its link is not the bottleneck"
    latency = gain_noise(Goal.LATENCY, busy, alone, 0.0, noise)
    assert 0.0 < latency < 0.2 * noise


def test_a_cost_in_the_mean_is_that_of_the_mean_rate() -> None:
    down = sending(0.5, 0.01)
    half = mean_cost(down, [Swing(0.5, 0.2)])
    assert 1.0 / half.period_s == pytest.approx(0.5 * 2.0 + 0.5 * 10.0)
    assert half.latency_s == pytest.approx(math.sqrt(0.51 * 0.11))
    assert half.headroom_s <= half.period_s
    assert mean_cost(down, [STEADY]) is down
    assert mean_cost(cost(0.2), []).period_s == 0.2, "the device alone waits for no link"
    computing = sending(0.01, 0.5)
    assert mean_cost(computing, [Swing(0.5, 0.2)]).period_s == pytest.approx(0.5), "its link is not the bottleneck"


def test_a_cost_in_the_mean_is_by_the_least_steady_link() -> None:
    one = sending(0.5, 0.01)
    two = replace(one, links=(one.links[0], replace(one.links[0], transfer_s=0.1)))
    assert mean_cost(two, [STEADY, Swing(0.5, 10.0)]).period_s == pytest.approx(1.0 / (0.5 / 0.5 + 0.5 / 1.0))
    assert mean_cost(two, [Swing(0.5, 0.5), Swing(0.9, 0.9)]).period_s == pytest.approx(1.0 / (0.5 / 0.5 + 0.5 / 0.25))
