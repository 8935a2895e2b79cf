"""How much is to be seen in each frame: pictures of one scene are alike, and scenes differ, in packed bytes as well.

A frame's busyness is 1 where one in twenty packs into more bytes, and -1 where one in twenty packs into less.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from statistics import NormalDist

SCENE_FRAMES = 20
"""As of the rendered source that a replay has by default (`pipeline.frames.scene`)."""

ROUND = 10
"""Scenes in which every tenth of the distribution comes once, as the rendered source shows every class once: what a run
of half a minute sends is then about the same whatever its seed."""

SCENES = 1000
"""Then they come again."""

Spread = Mapping[tuple[str, str], float]
"""By cut and codec: by what share of the median a frame of busyness 1 is larger."""


class Scenes:
    """What one source shows."""

    def __init__(self, seed: int) -> None:
        draw, tenths = random.Random(seed), [_busyness((number + 0.5) / ROUND) for number in range(ROUND)]
        self._scenes = [each for _ in range(SCENES // ROUND) for each in draw.sample(tenths, ROUND)]

    def busyness(self, frame: int) -> float:
        """Of a frame, by its number."""
        return self._scenes[frame // SCENE_FRAMES % SCENES]


def _busyness(quantile: float) -> float:
    normal = NormalDist()
    return normal.inv_cdf(quantile) / normal.inv_cdf(0.95)
