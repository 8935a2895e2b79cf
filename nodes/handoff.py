"""A bounded hand-over between two threads of a node, which can be closed from either side."""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")


EXTRA = 256
"""Notices that may wait beside the frames."""


class Closed(Exception):
    """The hand-over is closed and empty."""


class Handoff(Generic[Item]):
    """A queue of at most `bound` items. The putter waits while it is full; nothing is ever dropped."""

    def __init__(self, bound: int = 1) -> None:
        self.bound = bound
        self._items: deque[Item] = deque()
        self._changed = threading.Condition()
        self._closed = False

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: Item) -> None:
        """Add an item; waits while the queue is full.

        Raises:
            Closed: the hand-over is closed.
        """
        with self._changed:
            self._changed.wait_for(lambda: len(self._items) < self.bound or self._closed)
            if self._closed:
                raise Closed
            self._items.append(item)
            self._changed.notify_all()

    def offer(self, item: Item) -> bool:
        """Add a small item (a notice, not a frame) beyond the bound, and without waiting.

        Returns:
            False where the hand-over is closed, or `EXTRA` items over its bound: the item is dropped.
        """
        with self._changed:
            if self._closed or len(self._items) >= self.bound + EXTRA:
                return False
            self._items.append(item)
            self._changed.notify_all()
            return True

    def get(self, timeout_s: float | None = None) -> Item | None:
        """The oldest item; waits for one. None where `timeout_s` passes first.

        Raises:
            Closed: the hand-over is closed and empty.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._items or self._closed, timeout_s):
                return None
            if not self._items:
                raise Closed
            item = self._items.popleft()
            self._changed.notify_all()
            return item

    def more(self, fits: Callable[[Item], bool], choose: Callable[[int], int]) -> list[Item]:
        """Take further items that are there already, without waiting.

        Args:
            fits: whether an item may be taken; the first one that may not ends the search.
            choose: is told how many there are, and says how many to take.
        """
        with self._changed:
            there = sum(1 for _ in itertools.takewhile(fits, self._items))
            taken = [self._items.popleft() for _ in range(min(there, choose(there)))]
            self._changed.notify_all()
            return taken

    def close(self) -> None:
        """Let waiting putters fail and getters empty the queue."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
