"""What an edge node knows of its tile workers: who is out, how fast they are, how long it waits for them."""

from __future__ import annotations

import itertools
import random as random_module

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodes.tiles.deadlines import (
    FIRST_FACTOR,
    FIRST_SLACK_S,
    FLOOR_S,
    MAX_TILES,
    MOST_BEYOND,
    MOST_SLACK_S,
    Deadlines,
)
from nodes.tiles.roster import FIRST_BACK_OFF_S, MAX_BACK_OFF_S, Roster, Timing
from nodes.tiles.wire import FEW, FIRST_FIXED_S, Wire, fit_wire
from pipeline.tiling.crew import MEETING_S


def _roster() -> Roster:
    roster = Roster("edge")
    roster.see("s", ["edge", "a", "b"])
    for name in ("a", "b"):
        assert roster.answered(name)
    return roster


def test_new_workers_are_asked_before_they_are_given_anything() -> None:
    roster = Roster("edge")
    assert roster.see("s", ["edge", "a"]) and not roster.see("s", ["edge", "a"])
    assert roster.crew("s", None) == ("edge",)
    assert roster.due(0.0) == ("a",) and roster.due(FIRST_BACK_OFF_S / 2) == ()
    assert roster.answered("a") and not roster.answered("a")
    assert roster.crew("s", None) == ("edge", "a")
    assert roster.crew("s", ["edge"]) == ("edge",)
    assert roster.crew("other", None) == ("edge",)
    assert not roster.answered("stranger")


def test_a_silent_worker_is_asked_ever_less_often() -> None:
    roster = Roster("edge")
    roster.see("s", ["a"])
    asked = [tenth / 10 for tenth in range(2000) if roster.due(tenth / 10)]
    gaps = [round(b - a, 1) for a, b in itertools.pairwise(asked)]
    assert gaps == sorted(gaps) and gaps[-1] == MAX_BACK_OFF_S
    assert len(asked) < 15


TILE, OTHER = (1, 0), (1, 1)


def test_deadlines_follow_the_workers_own_history() -> None:
    roster = _roster()
    wide = roster.deadline_s("a", TILE, 0.1, 0.5)
    for number in range(10):
        roster.done("a", Timing(TILE, 0.1, 0.09, 0))
        roster.done("b", Timing(TILE, 0.1 + 0.05 * (number % 3), 0.09, 0))
    assert roster.deadline_s("a", TILE, 0.1, 0.5) == pytest.approx(0.15 + FLOOR_S)
    assert roster.deadline_s("a", TILE, 0.1, 0.5) < min(wide, roster.deadline_s("b", TILE, 0.1, 0.5))
    assert roster.deadline_s("a", OTHER, 0.1, 0.5) == wide, "one tile says nothing of another"


def test_what_a_worker_says_that_a_tile_takes_counts_until_it_came_back() -> None:
    roster = _roster()
    wide = roster.deadline_s("a", OTHER, 0.025, 0.01)
    roster.warmed("a", 1, (0.01, 0.093))
    assert roster.deadline_s("a", TILE, 0.025, 0.01) == wide
    assert wide < roster.deadline_s("a", OTHER, 0.025, 0.01) == pytest.approx(FIRST_FACTOR * 0.093 + FIRST_SLACK_S)
    roster.warmed("a", 1, (1e9,))
    assert roster.deadline_s("a", TILE, 0.025, 0.01) < 5.0, "nobody waits forever on a worker's word"
    roster.warmed("nobody", 1, (1.0,))


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.floats(1e-4, 1.0), st.floats(0.01, 100.0)), min_size=1, max_size=30),
    st.randoms(use_true_random=False),
)
def test_no_tile_is_late_for_taking_what_it_always_takes(
    tiles: list[tuple[float, float]], random: random_module.Random
) -> None:
    """Whatever the model said of it, once it has come back a few times, and were the worker four times slower than the
    edge node: each tile of a frame goes by itself."""
    deadlines = Deadlines()
    for frame in range(40):
        for task, (predicted_s, ratio) in enumerate(tiles):
            took_s = predicted_s * ratio * random.uniform(0.9, 1.1)
            deadline_s = deadlines.of((1, task), predicted_s, predicted_s * ratio / 4)
            assert frame < FEW or took_s < deadline_s
            deadlines.took((1, task), took_s)


@given(st.floats(1e-4, 1.0), st.floats(0.0, 1.0), st.floats(0.0, 1e9), st.lists(st.floats(1e-4, 10.0), max_size=40))
def test_a_frozen_worker_is_found_in_bounded_time(
    predicted_s: float, local_s: float, said_s: float, took: list[float]
) -> None:
    deadlines = Deadlines()
    deadlines.warmed(1, [said_s])
    for each_s in took:
        deadlines.took(TILE, each_s)
    found_s = deadlines.of(TILE, predicted_s, local_s)
    if len(took) < FEW:
        assert found_s <= FIRST_FACTOR * (MOST_BEYOND * predicted_s + FIRST_SLACK_S) + FIRST_SLACK_S
    else:
        assert found_s <= max(took) + max(local_s, MOST_SLACK_S) + FLOOR_S


def test_the_oldest_tiles_are_forgotten() -> None:
    deadlines = Deadlines()
    for order in range(MAX_TILES):
        deadlines.of((order, 0), 0.1, 0.1)
        deadlines.warmed(order, [0.1, 0.1])
    for _ in range(FEW):
        deadlines.took((0, 0), 0.1)
    known = deadlines.of((0, 0), 0.1, 0.1)
    deadlines.of((MAX_TILES, 0), 0.1, 0.1)
    assert deadlines.of((0, 0), 0.1, 0.1) == known, "the tile waited for last is not the one forgotten"
    assert len(deadlines._took) == len(deadlines._warmed) == MAX_TILES


def test_meetings_take_what_frames_show_of_them_and_never_less_than_nothing() -> None:
    roster = _roster()
    assert roster.wire().meeting_s == MEETING_S
    for meeting_s in (0.002, 0.5, 0.003, 0.003, 0.001):
        roster.met(meeting_s)
    assert roster.wire().meeting_s == 0.003
    assert roster.wire(lambda wire: 0.001).meeting_s == 0.002, "crossing is part of what frames show"
    for _ in range(16):
        roster.met(-0.001)
    assert roster.wire().meeting_s == 0.0


def test_nobody_waits_longer_for_an_erratic_worker_than_it_takes_to_do_its_work() -> None:
    roster = _roster()
    for number in range(16):
        roster.done("a", Timing(TILE, 0.1 * (1 + 10 * (number % 2)), 0.0, 0))
    assert roster.deadline_s("a", TILE, 0.1, 0.2) == pytest.approx(0.6 + 0.2 + FLOOR_S)


def test_a_late_answer_brings_the_worker_back_and_widens_its_deadline() -> None:
    roster = _roster()
    for _ in range(FEW):
        roster.done("a", Timing(TILE, 0.1, 0.09, 0))
    before = roster.deadline_s("a", TILE, 0.1, 0.5)
    roster.missed("a", 1.0)
    assert not roster.is_ready("a") and roster.crew("s", None) == ("edge", "b")
    assert roster.misses() == {"a": 1}
    assert roster.late("a", TILE, 0.4) and roster.is_ready("a")
    for _ in range(FEW):
        roster.late("a", TILE, 0.4)
    assert roster.deadline_s("a", TILE, 0.1, 0.5) > before


def test_the_fastest_worker_comes_first_and_old_speeds_are_doubted() -> None:
    roster = _roster()
    roster.computed("a", 0.1, 0.2, 0.0)
    roster.computed("b", 0.1, 0.1, 0.0)
    assert roster.crew("s", None) == ("edge", "b", "a")
    assert roster.speed("a") == 0.5
    assert not roster.doubt("a", 1.0) and roster.doubt("a", 100.0)
    assert roster.speed("a") == 1.0 and not roster.is_known("a")


def test_speeds_that_differ_by_noise_only_count_as_one() -> None:
    roster = _roster()
    for number in range(16):
        roster.computed("a", 1.0 + 0.2 * (number % 3 - 1), 1.0, 0.0)
        roster.computed("b", 1.08 + 0.2 * (number % 3 - 1), 1.0, 0.0)
        roster.computed("edge", 0.5, 1.0, 0.0)
    speeds = roster.speeds(("edge", "a", "b"))
    assert speeds["a"] == speeds["b"] == pytest.approx(1.04)
    assert speeds["edge"] == 0.5


def test_speeds_that_differ_steadily_are_kept_apart() -> None:
    roster = _roster()
    for _ in range(16):
        for name, speed in (("edge", 1.0), ("a", 0.9), ("b", 0.25)):
            roster.computed(name, speed, 1.0, 0.0)
    assert roster.speeds(("edge", "a", "b")) == {"edge": 1.0, "a": 0.9, "b": 0.25}


def test_the_wires_figures_are_read_off_tiles_of_all_workers() -> None:
    roster = _roster()
    assert roster.wire() == Wire()
    for _ in range(FEW):
        roster.done("a", Timing(TILE, 0.15, 0.05, 1_000_000))
        roster.done("b", Timing(OTHER, 0.06, 0.05, 100_000))
    assert roster.wire().goodput_bps == pytest.approx(80e6) and roster.wire().fixed_s == FIRST_FIXED_S


@given(st.floats(1e6, 1e11), st.floats(1e-3, 0.1), st.lists(st.integers(0, 10_000_000), min_size=12, max_size=40))
def test_a_line_through_crossings_is_found_whatever_a_few_of_them_took(
    goodput_bps: float, fixed_s: float, sizes: list[int]
) -> None:
    sizes = [*sizes, *range(0, 40_000 * len(sizes), 40_000)]
    seen = [(nbytes, fixed_s + nbytes * 8 / goodput_bps) for nbytes in sizes]
    late = [(nbytes, seconds + 5.0) for nbytes, seconds in seen[:: len(seen) // 2]]
    found = fit_wire([*seen, *late])
    assert found.goodput_bps == pytest.approx(goodput_bps, rel=1e-3)
    assert found.fixed_s == pytest.approx(fixed_s, rel=1e-3)


def test_crossings_that_wait_for_a_core_and_hold_nobody_up_do_not_count_as_slow_ones() -> None:
    quick = [(1000 * number, 1e-3) for number in range(8)]
    held_up = [(1000 * number, 5e-3) for number in range(8)]
    assert fit_wire([*quick, *held_up]).fixed_s == pytest.approx(1e-3, rel=0.1)


@given(st.integers(20_000, 10_000_000), st.floats(1e6, 1e9))
def test_tiles_of_one_size_are_taken_to_be_held_up_by_their_bytes(nbytes: int, goodput_bps: float) -> None:
    found = fit_wire([(nbytes, FIRST_FIXED_S + nbytes * 8 / goodput_bps)] * FEW)
    assert found.goodput_bps == pytest.approx(goodput_bps) and found.fixed_s == pytest.approx(FIRST_FIXED_S)
