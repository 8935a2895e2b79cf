"""Planners, by name: `joint` is the project's own, the others are published ones and simple ones to compare with."""

from __future__ import annotations

from collections.abc import Callable

from pipeline.errors import ConfigError
from pipeline.plan import Plan
from scheduler.planners.dads import Dads
from scheduler.planners.hpa import Hpa
from scheduler.planners.joint import Joint
from scheduler.planners.simple import CloudOnly, DeviceOnly, Fixed
from scheduler.planners.two_tier import Dyno, Neurosurgeon
from scheduler.problem import Planner

_MAKERS: dict[str, Callable[[], Planner]] = {
    "joint": Joint,
    "hpa": Hpa,
    "dyno": Dyno,
    "neurosurgeon": Neurosurgeon,
    "dads": Dads,
    "device-only": DeviceOnly,
    "cloud-only": lambda: CloudOnly("cloud-only", raw=False),
    "cloud-only-raw": lambda: CloudOnly("cloud-only-raw", raw=True),
}

NAMES = (*_MAKERS, "fixed")
"""Names of all planners."""


def make(name: str, fixed: Plan | None = None) -> Planner:
    """A new planner of that name.

    Args:
        name: one of `NAMES`.
        fixed: the plan of `fixed`.

    Raises:
        ConfigError: there is no planner of that name.
    """
    if name == "fixed":
        return Fixed(fixed)
    if name not in _MAKERS:
        raise ConfigError(f"planner {name!r}", "unknown", f"known are {', '.join(NAMES)}")
    return _MAKERS[name]()


__all__ = ["NAMES", "make"]
