"""What is made for the blocks between two cuts, and kept for the next who asks."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

from pipeline.model.graph import Cut

Made = TypeVar("Made")


class Kept(Generic[Made]):
    """At most `bound` things, by the cuts where they begin and end; what was asked for longest ago goes first.

    Not to be asked by two threads at once.
    """

    def __init__(self, bound: int, make: Callable[[Cut, Cut], Made]) -> None:
        self.bound = bound
        self._make = make
        self._kept: OrderedDict[tuple[str, str], Made] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def of(self, start: Cut, end: Cut) -> Made:
        """The thing between two cuts, made if it is not kept."""
        key = (start.name, end.name)
        made = self._kept.pop(key) if key in self._kept else self._make(start, end)
        self._kept[key] = made
        while len(self._kept) > self.bound:
            self._kept.popitem(last=False)
        return made
