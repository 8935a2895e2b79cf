"""The device's book of admitted frames: credit, one result each, and results in frame order.

Pure: the caller brings the time and does the sending. An admitted frame is kept, with its picture, until its
result is in; a frame whose attempt is lost is admitted again, and a second result for the same frame is dropped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

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


@dataclass
class Ledger(Generic[Picture, Outcome]):
    """Who is in flight, and what may leave next.

    The number of entries is bounded by `window`; so is the number of outcomes that wait for an earlier frame.
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

    @property
    def in_flight(self) -> int:
        """Frames admitted and without a result."""
        return len(self._in_flight)

    @property
    def has_credit(self) -> bool:
        """Whether one more frame may be admitted; results that wait for an older frame hold their credit too."""
        return len(self._order) < self.window

    @property
    def epochs(self) -> set[int]:
        """Epochs under which a frame is in flight."""
        return {entry.epoch for entry in self._in_flight.values()}

    def entries(self) -> list[Entry[Picture]]:
        """The frames in flight, oldest first."""
        return [self._in_flight[frame] for frame in self._order if frame in self._in_flight]

    def admit(self, frame: int, epoch: int, picture: Picture, now: float) -> Entry[Picture]:
        """Enter a frame. Numbers must grow.

        Raises:
            ValueError: no credit, or a number not above the last one.
        """
        if not self.has_credit:
            raise ValueError(f"frame {frame}: the window of {self.window} is full")
        if self._order and frame <= self._order[-1]:
            raise ValueError(f"frame {frame}: not above {self._order[-1]}")
        first = self.number()
        entry = Entry(frame, epoch, first, first, picture, now, now)
        self._in_flight[frame] = entry
        self._order.append(frame)
        self.admitted += 1
        return entry

    def expects(self, frame: int, attempt: int) -> bool:
        """Whether a frame has no result yet, and that attempt at it was made."""
        entry = self._in_flight.get(frame)
        return entry is not None and entry.first_attempt <= attempt <= entry.attempt

    def readmit(self, frame: int, attempt: int, epoch: int, reason: str, now: float) -> Entry[Picture] | None:
        """Begin a new attempt at a frame whose attempt number `attempt` is lost; None where that is old news."""
        entry = self._in_flight.get(frame)
        if entry is None or entry.attempt != attempt:
            self.drops["stale-attempt"] += 1
            return None
        entry.attempt += 1
        entry.epoch = epoch
        entry.admitted_s = now
        self.readmissions[reason] += 1
        return entry

    def complete(self, frame: int, outcome: Outcome) -> Entry[Picture] | None:
        """Take the result of a frame; None, and counted, where it has one already or was never admitted."""
        entry = self._in_flight.pop(frame, None)
        if entry is None:
            self.drops["duplicate"] += 1
            return None
        self._waiting[frame] = outcome
        self.completed += 1
        return entry

    def ready(self) -> Iterator[Outcome]:
        """Outcomes whose turn it is, in frame order; each is given once."""
        while self._order and self._order[0] in self._waiting:
            yield self._waiting.pop(self._order.pop(0))
