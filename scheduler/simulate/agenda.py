"""Simulated time: what happens next. Events of one instant happen in the order in which they were put in."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from typing import Any


class Agenda:
    """A heap of things to do, and the time."""

    __slots__ = ("_count", "_heap", "_is_over", "done", "now")

    def __init__(self, now: float = 0.0) -> None:
        self.now = now
        """Simulated seconds."""
        self.done = 0
        """Events that have happened."""
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._count = 0
        self._is_over = False

    def at(self, time_s: float, action: Callable[..., None], *arguments: Any) -> None:
        """Call `action(*arguments)` at a time; at infinity is never."""
        if time_s == math.inf:
            return
        self._count += 1
        heapq.heappush(self._heap, (time_s if time_s > self.now else self.now, self._count, action, arguments))

    def after(self, delay_s: float, action: Callable[..., None], *arguments: Any) -> None:
        """Call `action(*arguments)` after a while, which is not negative and not infinite."""
        self._count += 1
        heapq.heappush(self._heap, (self.now + delay_s, self._count, action, arguments))

    def stop(self) -> None:
        """Nothing more happens after the present event."""
        self._is_over = True

    def run(self, until_s: float) -> None:
        """Let everything happen that is due up to a time, or until `stop`."""
        heap, pop = self._heap, heapq.heappop
        while heap and not self._is_over and heap[0][0] <= until_s:
            self.now, _, action, arguments = pop(heap)
            self.done += 1
            action(*arguments)
