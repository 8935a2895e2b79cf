"""What failed rests: for how long, and what ends the rest before its time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.plan import Link, Plan, Stage, Tier
from scheduler.bans import BACK_S, FORGIVE_S, MAX_BANS, MAX_DOUBLINGS, REFUSED_S, RETREAT_S, Bans

MARGIN_S = 1e-3


def plan(cut: str = "middle", epoch: int = 1) -> Plan:
    stages = Stage(Tier.DEVICE, "phone", cut), Stage(Tier.EDGE, "edge", "output")
    return Plan(epoch, "cam", "f00d", stages, (Link(),))


def silent(_: Plan) -> bool:
    return True


def carries(_: Plan) -> bool:
    return False


@given(failures=st.integers(1, 12), by_link=st.booleans())
def test_each_failure_doubles_the_rest_up_to_a_bound(failures: int, by_link: bool) -> None:
    bans, now = Bans(), 0.0
    for failure in range(failures):
        bans.add_retreat(plan(epoch=failure), by_link, now)
        rest_s = RETREAT_S * 2.0 ** min(failure, MAX_DOUBLINGS)
        assert bans.bars(plan(epoch=99), silent, now + rest_s - MARGIN_S)
        assert not bans.bars(plan(epoch=99), silent, now + rest_s)
        now += rest_s
    bans.add_retreat(plan(), by_link, now + FORGIVE_S + MARGIN_S)
    now += FORGIVE_S + MARGIN_S + RETREAT_S
    assert not bans.bars(plan(), silent, now), "it is forgiven after a while without failures"


@pytest.mark.parametrize("tries", [1, 6])
def test_a_link_that_is_back_ends_the_rest_that_it_brought(tries: int) -> None:
    bans = Bans()
    for _ in range(tries):
        bans.add_retreat(plan(), True, 0.0)
    assert bans.bars(plan(), silent, 0.1)
    assert bans.bars(plan(), carries, 0.2)
    assert bans.bars(plan(), silent, 0.3), "it is gone again: the time begins anew"
    assert bans.bars(plan(), carries, 0.4)
    assert bans.bars(plan(), carries, 0.4 + BACK_S - MARGIN_S)
    assert not bans.bars(plan(), carries, 0.4 + BACK_S)
    bans.add_retreat(plan(), False, 10.0)
    assert not bans.bars(plan(), carries, 10.0 + RETREAT_S), "failures of the outage are forgotten"


def test_a_node_that_takes_no_frames_rests_whatever_its_link_does() -> None:
    bans = Bans()
    bans.add_retreat(plan(), False, 0.0)
    assert bans.bars(plan(), carries, RETREAT_S - MARGIN_S)
    assert not bans.bars(plan("other"), carries, 0.0), "another plan does not"


def test_a_node_that_starts_anew_is_pardoned_with_its_plans() -> None:
    bans = Bans()
    bans.add_plan(plan(), 0.0)
    bans.add_node("edge", 0.0)
    bans.add_node("cloud", 0.0)
    assert bans.bars(plan(), carries, REFUSED_S - MARGIN_S) and bans.bars_node("edge", REFUSED_S - MARGIN_S)
    bans.pardon("edge")
    assert not bans.bars(plan(), carries, 1.0) and not bans.bars_node("edge", 1.0)
    assert bans.bars_node("cloud", 1.0)


def test_no_more_than_so_many_are_kept() -> None:
    bans = Bans()
    for number in range(MAX_BANS + 1):
        bans.add_node(f"node-{number}", 0.0)
    assert not bans.bars_node("node-0", 1.0) and bans.bars_node("node-1", 1.0)
