"""How long the levels of a link last, and what it is in the mean of them. No clock in here: time is an argument.

An estimate tells what a link is now. Some links are something else a second later, and back after another one:
a plan that is kept for longer than a level lasts has the mean of the levels.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from scheduler.tracker import HORIZON_S

SWINGS_MEMORY_S = 20.0
"""Time constant of forgetting: ten levels of a link that changes every two seconds."""

CHANGE_LOG = 0.7
"""A link that is half or twice as fast has changed. That is more than most estimates err by."""


class Swing(NamedTuple):
    """What is to be expected of a link over the next `HORIZON_S`: the level of now, or what it was in the mean."""

    stays: float
    """Share of that time for which the level of now holds."""
    slower: float
    """Level of now over the mean: all takes so many times as long where the link is what it was in the mean."""

    @property
    def change(self) -> float:
        """How much it is likely to be another: a logarithm; 0 for a link that stays."""
        return (1.0 - self.stays) * abs(math.log(self.slower))


STEADY = Swing(1.0, 1.0)


class Swings:
    """Follows the levels that a link is estimated at."""

    __slots__ = ("_anchor_bps", "_begun_s", "_bits", "_changes", "_level_bps", "_seconds", "_seen_s")

    def __init__(self, level_bps: float, now: float) -> None:
        self._level_bps = self._anchor_bps = max(1.0, level_bps)
        self._begun_s = self._seen_s = now
        self._bits = self._seconds = self._changes = 0.0

    def see(self, level_bps: float, now: float) -> None:
        """Take an estimate, which holds until the next one."""
        self._bits, self._seconds, self._changes = self._until(now)
        self._seen_s, self._level_bps = max(self._seen_s, now), max(1.0, level_bps)
        if abs(math.log(self._level_bps / self._anchor_bps)) > CHANGE_LOG:
            self._changes += 1.0
            self._anchor_bps, self._begun_s = self._level_bps, self._seen_s

    def swing(self, level_bps: float, now: float) -> Swing:
        """What is to be expected of the link, whose estimate is `level_bps` now.

        A level that ends by chance, after `tau` in the mean, holds for `tau (1 - exp(-H / tau))` of the next `H`
        seconds. `tau` is what the levels lately lasted, or what that of now has, if more: what has lasted is likely to
        last as long again.
        """
        bits, seconds, changes = self._until(now)
        lasted_s = max(0.0, now - self._begun_s)
        if changes <= 1.0 or not seconds:
            return STEADY  # one change is no swing: nothing has come back yet
        ends = HORIZON_S / max(seconds / (changes - 1.0), lasted_s)
        stays = -math.expm1(-ends) / ends if ends > 1e-6 else 1.0
        return Swing(stays, max(1.0, level_bps) * seconds / bits)

    def _until(self, now: float) -> tuple[float, float, float]:
        """Bits that could have passed, seconds, and changes, all fading."""
        keep = math.exp(-max(0.0, now - self._seen_s) / SWINGS_MEMORY_S)
        more_s = SWINGS_MEMORY_S * (1.0 - keep)
        return self._bits * keep + self._level_bps * more_s, self._seconds * keep + more_s, self._changes * keep
