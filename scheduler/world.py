"""What the core asks when it plans a stream, and the answer. The seam between the live loop and the planners."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from pipeline.plan import Plan, Tier
from scheduler.events import StreamSettings
from scheduler.problem import Cost, LinkEstimate, LoadEstimate


@dataclass(frozen=True)
class Candidate:
    """A node that may have a part in the stream's plan."""

    name: str
    tier: Tier | None
    """None for a tile worker."""
    profile: str
    """Name or digest of its profile; empty where it has none."""
    memory_free_bytes: int = 0


@dataclass(frozen=True)
class World:
    """The estimates under which one stream is planned."""

    stream: str
    model: str
    """Fingerprint of the network."""
    device: str
    settings: StreamSettings
    fps: float
    """Of the source; 0 where it gives as many frames as are asked for."""
    candidates: tuple[Candidate, ...]
    """The device first, then edges, clouds and tile workers, the least busy first."""
    links: Mapping[tuple[str, str], LinkEstimate]
    """Measured links by (source, target), less what other streams take of them."""
    loads: Mapping[str, LoadEstimate]
    """By node, the shares of other streams included."""
    current: Plan
    """The plan that runs: it is costed beside the new one."""


@dataclass(frozen=True)
class Advice:
    """A planner's plan beside the running one, under the same estimates."""

    plan: Plan
    """Its epoch means nothing."""
    cost: Cost
    current_cost: Cost | None
    """None where the running plan cannot be costed (a node of it is gone)."""
    broken: str = ""
    """The bound that `plan` breaks since none keeps it, or empty."""
    current_broken: str = ""
    """The bound that the running plan breaks, or empty."""


class Advisor(Protocol):
    """Plans one stream. Pure; may keep what it prepared."""

    def advise(self, world: World) -> Advice:
        """The best plan in this world.

        Raises:
            AnabranchError: nothing can be planned (no profile, a plan for another model).
        """

    def stage_s(self, plan: Plan, node: str) -> float | None:
        """The profile's compute time of the node's stage, in seconds, unscaled; None where there is no profile."""
