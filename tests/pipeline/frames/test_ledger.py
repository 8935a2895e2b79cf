"""The ledger's law: every admitted frame has exactly one outcome, in order, whatever happens on the way."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pipeline.frames.ledger import MAX_OPEN, Ledger


class LedgerMachine(RuleBasedStateMachine):
    """Admits, completes (also twice, also stale attempts), loses and readmits at random."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger: Ledger[str, int] = Ledger(window=4)
        self.next = 0
        self.now = 0.0
        self.given: list[int] = []
        self.attempts: dict[int, int] = {}
        self.own: set[int] = set()
        """Frames admitted under the present window."""

    @precondition(lambda self: self.ledger.has_credit)
    @rule(skip=st.integers(0, 3))
    def admit(self, skip: int) -> None:
        self.next += skip
        entry = self.ledger.admit(self.next, 0, f"picture {self.next}", self.now)
        self.attempts[entry.frame] = 0
        self.own.add(entry.frame)
        self.next += 1

    @precondition(lambda self: self.ledger.has_room)
    @rule()
    def admit_without_credit(self) -> None:
        entry = self.ledger.admit(self.next, 0, f"picture {self.next}", self.now, credit=False)
        self.attempts[entry.frame] = 0
        self.next += 1

    @rule(window=st.integers(1, 5))
    def renew(self, window: int) -> None:
        self.ledger.renew(window)
        self.own.clear()

    @rule(data=st.data())
    def complete(self, data: st.DataObject) -> None:
        if not self.attempts:
            return
        frame = data.draw(st.sampled_from(sorted(self.attempts)))
        known = frame in {entry.frame for entry in self.ledger.entries()}
        entry = self.ledger.complete(frame, frame)
        assert (entry is not None) == known
        self.given.extend(self.ledger.ready())

    @rule(data=st.data(), stale=st.booleans())
    def lose(self, data: st.DataObject, stale: bool) -> None:
        entries = self.ledger.entries()
        if not entries:
            return
        entry = data.draw(st.sampled_from(entries))
        again = self.ledger.readmit(entry.frame, entry.attempt - stale, 1, "lost", self.now)
        assert (again is None) == stale

    @invariant()
    def in_order_and_once(self) -> None:
        assert self.given == sorted(set(self.given))

    @invariant()
    def nothing_is_forgotten(self) -> None:
        done = set(self.given) | {entry.frame for entry in self.ledger.entries()}
        waiting = set(self.attempts) - done
        assert len(waiting) + self.ledger.in_flight <= MAX_OPEN

    @invariant()
    def credit_is_the_windows_own(self) -> None:
        taken = len(self.own & {entry.frame for entry in self.ledger.entries()})
        assert taken <= self.ledger.window
        assert self.ledger.has_credit == (taken < self.ledger.window and self.ledger.has_room)

    @invariant()
    def every_admitted_frame_is_counted(self) -> None:
        assert self.ledger.admitted == len(self.attempts)

    def teardown(self) -> None:
        for entry in self.ledger.entries():
            self.ledger.complete(entry.frame, entry.frame)
        self.given.extend(self.ledger.ready())
        assert self.given == sorted(self.attempts)


TestLedger = LedgerMachine.TestCase
TestLedger.settings = settings(max_examples=60, stateful_step_count=40)


def test_frame_numbers_must_grow_and_credit_must_be_there() -> None:
    ledger: Ledger[str, int] = Ledger(window=1)
    ledger.admit(3, 0, "a", 0.0)
    with pytest.raises(ValueError, match="window"):
        ledger.admit(4, 0, "b", 0.0)
    ledger.window = 2
    with pytest.raises(ValueError, match="not above"):
        ledger.admit(3, 0, "b", 0.0)


def test_results_that_wait_for_an_older_frame_take_room_and_no_credit() -> None:
    ledger: Ledger[str, int] = Ledger(window=2)
    for frame in range(MAX_OPEN):
        assert ledger.has_credit
        ledger.admit(frame, 0, "picture", 0.0)
        if frame:
            ledger.complete(frame, frame)
    assert not list(ledger.ready())
    assert not ledger.has_room
    assert not ledger.has_credit
    ledger.complete(0, 0)
    assert list(ledger.ready()) == list(range(MAX_OPEN))
    assert ledger.has_credit


def test_a_frame_that_two_attempts_are_made_at_keeps_credit_for_the_one_that_fills_a_link() -> None:
    ledger = Ledger[None, None](2)
    for frame in range(2):
        ledger.admit(frame, 1, None, float(frame))
        ledger.readmit(frame, 0, 0, "hedged", float(frame), hedged=True)
    assert not ledger.has_credit
    ledger.complete(0, None, 0)
    assert ledger.has_credit, "the other attempt fills no link"
    ledger.admit(2, 1, None, 2.0)
    ledger.complete(1, None, 1)
    assert not ledger.has_credit, "its first attempt is on its way still"
    assert ledger.release(1) == 1.0
    assert ledger.has_credit
    assert ledger.release(1) is None, "it counts once"
    assert ledger.release(0) is None


def test_credit_of_an_attempt_that_never_comes_home_is_given_back() -> None:
    ledger = Ledger[None, None](1)
    ledger.admit(0, 1, None, 0.0)
    ledger.readmit(0, 0, 0, "hedged", 0.0, hedged=True)
    ledger.complete(0, None, 1)
    ledger.forgive(0.0)
    assert not ledger.has_credit
    ledger.forgive(0.1)
    assert ledger.has_credit
    ledger.admit(1, 1, None, 1.0)
    ledger.readmit(1, 0, 0, "hedged", 1.0, hedged=True)
    assert ledger.readmit(1, 0, 1, "compute", 1.5) is None, "the other attempt goes on"
    ledger.complete(1, None, 1)
    assert ledger.has_credit, "it was lost"
