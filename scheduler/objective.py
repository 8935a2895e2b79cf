"""What a plan shall be good at, in order of priority, and what it must not break."""

from __future__ import annotations

import math
import re
from enum import StrEnum

import msgspec

from pipeline.errors import ConfigError


class Goal(StrEnum):
    """A quantity that less is better of; `throughput` stands for the period."""

    THROUGHPUT = "throughput"
    HEADROOM = "headroom"
    """The throughput that there would be, were the links as fast as they may become."""
    LATENCY = "latency"
    BYTES = "bytes"
    CLOUD = "cloud"
    ENERGY = "energy"


class Priority(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One level of the order of priority."""

    goal: Goal
    tolerance: float = 0.0
    """Plans within this share of the best value of the level are equally good, and the next level decides."""


class Objective(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An order of priority under hard bounds (DynO's form of the problem); None is no bound.

    Raises:
        ConfigError: no priority, a goal twice, a negative tolerance, or a bound that is not a positive number.
    """

    priorities: tuple[Priority, ...] = (Priority(Goal.THROUGHPUT), Priority(Goal.LATENCY))
    max_latency_s: float | None = None
    max_drop: float | None = None
    """Largest loss of accuracy (0.01 is one percentage point); codecs of unknown loss are then refused."""
    min_fps: float | None = None
    max_bytes_per_s: float | None = None
    """Over all links together, at the source's frame rate, or else at `min_fps`."""
    max_device_bytes: float | None = None
    """Memory of the device's stage."""
    private_until: str | None = None
    """Name of a block: no picture and no output of a block before it leaves the device."""
    pictures_stay_at_edge: bool = False
    """The picture, packed or not, never goes to the cloud."""
    quantile: float = 0.5
    """Plans are compared at this quantile of every uncertain link and load: at 0.9, as bad as one time in ten."""

    def __post_init__(self) -> None:
        goals = [priority.goal for priority in self.priorities]
        if not goals or len(set(goals)) != len(goals):
            raise ConfigError("objective", f"priorities {goals} are empty or name a goal twice")
        if any(not 0 <= priority.tolerance < math.inf for priority in self.priorities):
            raise ConfigError("objective", "a tolerance is negative or infinite")
        if not 0 < self.quantile < 1:
            raise ConfigError("objective", f"quantile {self.quantile} is not between 0 and 1")
        positive = (self.max_latency_s, self.min_fps, self.max_bytes_per_s, self.max_device_bytes)
        if any(bound is not None and not 0 < bound < math.inf for bound in positive):
            raise ConfigError("objective", "a bound is not a positive number")
        if self.max_drop is not None and not 0 <= self.max_drop < math.inf:
            raise ConfigError("objective", f"max_drop {self.max_drop} is not a share of 0 or more")

    @property
    def fills_up(self) -> bool:
        """Whether more results are worth it that some of them, and those that wait for them, are later."""
        return self.priorities[0].goal is Goal.THROUGHPUT and self.max_latency_s is None

    @property
    def hedges(self) -> bool:
        """Whether sooner results are worth it that the device computes frames as well that are on their way."""
        return self.priorities[0].goal is Goal.LATENCY

    @property
    def levels(self) -> tuple[Priority, ...]:
        """The priorities, with headroom behind throughput, and latency behind all, to decide between equal plans.

        Where a link is the bottleneck, plans of the same bytes are alike in throughput, but what one of them has in
        hand is throughput as soon as the link is faster, before any switch could be made.
        """
        named = {priority.goal for priority in self.priorities}
        found: list[Priority] = []
        for priority in self.priorities:
            found.append(priority)
            if priority.goal is Goal.THROUGHPUT and Goal.HEADROOM not in named:
                found.append(Priority(Goal.HEADROOM, priority.tolerance))
        return tuple(found) if Goal.LATENCY in named else (*found, Priority(Goal.LATENCY))

    @classmethod
    def parse(cls, text: str, **bounds: float | str | bool | None) -> Objective:
        """Read priorities as people write them: `throughput,latency` or `latency~5%,bytes`.

        Args:
            text: goals in order, each with the tolerance of its level behind `~`.
            bounds: further fields.

        Raises:
            ConfigError: an unknown goal or a tolerance that is no number.
        """
        return msgspec.convert({"priorities": [_priority(part) for part in text.split(",")], **bounds}, cls)


def _priority(text: str) -> dict[str, str | float]:
    found = re.fullmatch(r"\s*([a-z]+)\s*(?:~\s*([0-9.]+)\s*(%?))?\s*", text)
    if found is None or found[1] not in list(Goal):
        raise ConfigError(
            f"objective {text!r}", "not a goal", f"known are {', '.join(Goal)}; `latency~5%` has a tolerance"
        )
    try:
        tolerance = float(found[2] or 0) / (100 if found[3] else 1)
    except ValueError as error:
        raise ConfigError(f"objective {text!r}", "the tolerance is no number") from error
    return {"goal": found[1], "tolerance": tolerance}
