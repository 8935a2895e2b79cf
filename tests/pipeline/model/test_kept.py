"""What is kept for pairs of cuts has a bound, and what is asked for often stays."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from pipeline.model.graph import Cut
from pipeline.model.kept import Kept

CUTS = [Cut(number, f"cut {number}", (1 << number) - 1, (f"cut {number}",)) for number in range(5)]


@given(bound=st.integers(1, 6), asked=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=40))
def test_it_keeps_what_was_asked_for_last(bound: int, asked: Sequence[tuple[int, int]]) -> None:
    made: list[tuple[int, int]] = []

    def make(start: Cut, end: Cut) -> object:
        made.append((start.index, end.index))
        return object()

    kept = Kept(bound, make)
    recent: list[tuple[int, int]] = []
    for pair in asked:
        before = len(made)
        found = kept.of(CUTS[pair[0]], CUTS[pair[1]])
        assert made[before:] == ([] if pair in recent[-bound:] else [pair])
        assert kept.of(CUTS[pair[0]], CUTS[pair[1]]) is found
        recent = [each for each in recent if each != pair] + [pair]
        assert len(kept) == min(bound, len(recent))
