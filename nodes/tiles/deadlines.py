"""How long one worker's tiles may take: each goes by what it took before. Pure; `Roster` has a lock around it.

Tiles of one worker are as different as their layers. A deadline by the worker's median ratio of measured to modelled
time would fail a tile that the model is wrong about in every frame, for a single one of 28 never moves that median.
"""

from __future__ import annotations

import statistics
from collections import OrderedDict, deque
from collections.abc import Sequence
from typing import Any

from nodes.tiles.wire import FEW

TileId = tuple[int, int]
"""A layout's order, and the position of a tile in it."""

SAMPLES = 16
"""Frames over which a deadline looks back: at 10 frames/s one and a half seconds."""

FLOOR_S = 0.03
"""Slack of every deadline: a busy machine's scheduler may let a ready process wait for that long."""

MOST_SLACK_S = 0.1
"""Jitter that any worker is granted, however small its tiles."""

MADS = 8.0
"""A deadline lies so many (normal-consistent) median absolute deviations behind the median: ordinary jitter stays
in time."""

NORMAL = 1.4826
"""From a median absolute deviation to the standard deviation of a normal distribution."""

FIRST_FACTOR, FIRST_SLACK_S = 4.0, 0.3
"""Of what is expected, while a tile came back fewer than `FEW` times."""

MOST_BEYOND = 10.0
"""So many times what is modelled, and the slack, a worker may say that a tile takes: its word alone holds up nobody."""

MAX_TILES = 512
"""Tiles whose times are known; of the one waited for longest ago they are forgotten first. An order has 128 at most."""


class Deadlines:
    """The turn-around times of one worker's tiles."""

    def __init__(self) -> None:
        self._took: OrderedDict[TileId, deque[float]] = OrderedDict()
        self._warmed: OrderedDict[TileId, float] = OrderedDict()

    def warmed(self, order: int, seconds: Sequence[float]) -> None:
        """The worker says what computing each tile of an order takes once it is warm."""
        for task, each_s in enumerate(seconds):
            self._warmed[order, task] = each_s
        _forget(self._warmed)

    def took(self, tile: TileId, turnaround_s: float) -> None:
        """A tile came back, in time or not."""
        self._took.setdefault(tile, deque(maxlen=SAMPLES)).append(turnaround_s)

    def of(self, tile: TileId, predicted_s: float, local_s: float) -> float:
        """Seconds that a tile may take.

        Beyond the usual turn-around nobody waits longer than computing the tile on the edge node would take: so a lost
        tile costs at most twice what it need have cost, however erratic the worker was.

        Args:
            tile: which.
            predicted_s: its turn-around by the model.
            local_s: what the edge node would take to compute it.
        """
        took = self._took.setdefault(tile, deque(maxlen=SAMPLES))
        self._took.move_to_end(tile)
        _forget(self._took)
        if len(took) < FEW:
            said_s = min(self._warmed.get(tile, 0.0), MOST_BEYOND * predicted_s + FIRST_SLACK_S)
            return FIRST_FACTOR * max(predicted_s, said_s) + FIRST_SLACK_S
        median = statistics.median(took)
        spread = NORMAL * statistics.median(abs(each_s - median) for each_s in took)
        return median + min(max(MADS * spread, 0.5 * median), max(local_s, MOST_SLACK_S)) + FLOOR_S


def _forget(known: OrderedDict[TileId, Any]) -> None:
    while len(known) > MAX_TILES:
        known.popitem(last=False)
