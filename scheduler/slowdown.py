"""How many times slower than its profile a node is now. No clock in here: time is an argument."""

from __future__ import annotations

import math

from scheduler.tracker import MEMORY_S, Estimate, RatioTracker

FOREIGN_UNCERTAINTY = 0.3
"""Log deviation of a slowdown that is only guessed from the machine's load."""

MEASURED_FOR_S = 20.0
"""A measured slowdown older than this gives way to the guess from the load."""


class SlowdownEstimator:
    """How many times slower than its profile a node computes, as SPINN scales its profile by the running split."""

    def __init__(self) -> None:
        self.tracker = RatioTracker(memory_s=2.0 * MEMORY_S)
        self._foreign = 0.0

    def add_stage(self, measured_s: float, predicted_s: float, now: float) -> None:
        """Take the measured and the predicted time of one stage for one frame."""
        if measured_s > 0.0 and predicted_s > 0.0:
            self.tracker.add(measured_s, predicted_s, now)

    def add_load(self, cpu_machine: float, cpu_node: float, cores: int) -> None:
        """Take the machine's load: what other processes use of it is missing here."""
        self._foreign = min(0.9, max(0.0, cpu_machine - cpu_node / max(1, cores)))

    def estimate(self, now: float) -> Estimate:
        """The factor on the profile's times."""
        seen = self.tracker.estimate(now)
        if seen is not None and seen.age_s <= MEASURED_FOR_S:
            return seen
        return Estimate(1.0 / (1.0 - self._foreign), FOREIGN_UNCERTAINTY if self._foreign > 0.1 else 0.1, math.inf)
