"""The device's book of admitted frames: credit, one result each, and results in frame order.

Pure: the caller brings the time and does the sending. An admitted frame is kept, with its picture, until its
result is in; a frame whose attempt is lost is admitted again, and a second result for the same frame is dropped.

Credit is a plan's: frames that are stuck under the plan before take none of it, so that a device that goes on alone
in an outage does go on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

MAX_OPEN = 128
"""Frames that are in flight, or have a result that waits for an older frame's: each keeps its picture."""

NO_WINDOW = -1

Picture = TypeVar("Picture")
Outcome = TypeVar("Outcome")


@dataclass
class Entry(Generic[Picture]):
    """An admitted frame without a result."""

    frame: int
    epoch: int
    first_attempt: int
    attempt: int
    """Number of the latest attempt; grows by one with each."""
    picture: Picture
    first_admitted_s: float
    admitted_s: float
    """When the latest attempt began, monotonic."""
    window: int = 0
    """The window that its credit is of, or `NO_WINDOW`."""
    hedged: bool = False
    """Whether the attempt before the latest is on its way still, and keeps the credit."""


@dataclass
class Ledger(Generic[Picture, Outcome]):
    """Who is in flight, and what may leave next.

    Frames in flight that were admitted since the last `renew` are bounded by `window`; all of them, with the outcomes
    that wait for an earlier frame, by `MAX_OPEN` (or the window, where that is more).
    """

    window: int
    number: Callable[[], int] = lambda: 0
    """Gives the number of a frame's first attempt."""
    admitted: int = 0
    completed: int = 0
    drops: Counter[str] = field(default_factory=Counter)
    """What was ignored, by reason: `duplicate`, `stale-attempt`, `unasked`."""
    readmissions: Counter[str] = field(default_factory=Counter)
    """Attempts after the first, by the reason for which the one before was given up."""
    _in_flight: dict[int, Entry[Picture]] = field(default_factory=dict)
    _order: list[int] = field(default_factory=list)
    _waiting: dict[int, Outcome] = field(default_factory=dict)
    _owed: dict[int, float] = field(default_factory=dict)
    """By frame, attempts that are on their way although it has a result, and hold credit: when they were admitted."""
    _windows: int = 0
    """Windows so far."""
    _taken: int = 0
    """Credit that is taken of the present one."""

    @property
    def in_flight(self) -> int:
        """Frames admitted and without a result."""
        return len(self._in_flight)

    @property
    def has_credit(self) -> bool:
        """Whether one more frame may be admitted."""
        return self._taken < self.window and self.has_room

    @property
    def has_room(self) -> bool:
        """Whether one more frame may be admitted without credit."""
        return len(self._order) < (self.window if self.window > MAX_OPEN else MAX_OPEN)

    @property
    def open(self) -> int:
        """Frames that are in flight, or whose outcome waits for an earlier frame."""
        return len(self._order)

    @property
    def has_older(self) -> bool:
        """Whether a frame is in flight that was admitted before the latest `renew`, or without credit."""
        return len(self._in_flight) > self._taken - len(self._owed)

    def renew(self, window: int) -> None:
        """Begin a window of its own: frames that are in flight now take no credit of it."""
        self.window, self._taken = window, 0
        self._owed.clear()
        self._windows += 1

    @property
    def epochs(self) -> set[int]:
        """Epochs under which a frame is in flight."""
        return {entry.epoch for entry in self._in_flight.values()}

    def entries(self) -> list[Entry[Picture]]:
        """The frames in flight, oldest first."""
        return [self._in_flight[frame] for frame in self._order if frame in self._in_flight]

    def admit(self, frame: int, epoch: int, picture: Picture, now: float, credit: bool = True) -> Entry[Picture]:
        """Enter a frame. Numbers must grow.

        Without `credit` the frame takes none: it goes another way than the plan's.

        Raises:
            ValueError: no credit, or a number not above the last one.
        """
        if not (self.has_credit if credit else self.has_room):
            raise ValueError(f"frame {frame}: the window of {self.window} is full, or {len(self._order)} are open")
        if self._order and frame <= self._order[-1]:
            raise ValueError(f"frame {frame}: not above {self._order[-1]}")
        first = self.number()
        entry = Entry(frame, epoch, first, first, picture, now, now, self._windows if credit else NO_WINDOW)
        self._in_flight[frame] = entry
        self._order.append(frame)
        self._taken += credit
        self.admitted += 1
        return entry

    def expects(self, frame: int, attempt: int) -> bool:
        """Whether a frame has no result yet, and that attempt at it was made."""
        entry = self._in_flight.get(frame)
        return entry is not None and entry.first_attempt <= attempt <= entry.attempt

    def readmit(
        self, frame: int, attempt: int, epoch: int, reason: str, now: float, hedged: bool = False
    ) -> Entry[Picture] | None:
        """Begin a new attempt at a frame whose attempt number `attempt` is lost; None where that is old news.

        Args:
            frame: its number.
            attempt: the one that is lost.
            epoch: by which plan it is tried again.
            reason: why.
            now: the time.
            hedged: the attempt is not lost: both are made, and the first result counts. Until there is one of the
                attempt before, too, that keeps its credit: it fills its link.
        """
        entry = self._in_flight.get(frame)
        if entry is None or entry.attempt != attempt:
            self.drops["stale-attempt"] += 1
            self.release(frame)
            if entry is not None and attempt == entry.attempt - 1:
                entry.hedged = False
            return None
        entry.attempt += 1
        entry.hedged = hedged
        entry.epoch = epoch
        entry.admitted_s = now
        self.readmissions[reason] += 1
        return entry

    def complete(self, frame: int, outcome: Outcome, attempt: int | None = None) -> Entry[Picture] | None:
        """Take the result of a frame; None, and counted, where it has one already or was never admitted.

        Args:
            frame: its number.
            outcome: what came.
            attempt: of which attempt; None for whichever.
        """
        entry = self._in_flight.pop(frame, None)
        if entry is None:
            self.drops["duplicate"] += 1
            return None
        if entry.hedged and attempt == entry.attempt and entry.window == self._windows:
            self._owed[frame] = entry.first_admitted_s
        else:
            self._taken -= entry.window == self._windows
        self._waiting[frame] = outcome
        self.completed += 1
        return entry

    def release(self, frame: int) -> float | None:
        """Nothing is on its way any more of a frame that has its result.

        Returns:
            When the attempt that was, was admitted; None where there was none.
        """
        admitted_s = self._owed.pop(frame, None)
        self._taken -= admitted_s is not None
        return admitted_s

    def forgive(self, before_s: float) -> None:
        """Wait no more for attempts that were admitted earlier and whose frames have their results."""
        for frame in [frame for frame, admitted_s in self._owed.items() if admitted_s < before_s]:
            self.release(frame)

    def ready(self) -> Iterator[Outcome]:
        """Outcomes whose turn it is, in frame order; each is given once."""
        while self._order and self._order[0] in self._waiting:
            yield self._waiting.pop(self._order.pop(0))
