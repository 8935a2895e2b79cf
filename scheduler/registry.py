"""The nodes that the scheduler has heard of, their links, and who is dead. Part of the pure core."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

from pipeline.plan import Tier
from scheduler.estimate import LinkEstimator
from scheduler.reports import MAX_LINKS, Readiness, Report
from scheduler.slowdown import SlowdownEstimator

MISSED_HEARTBEATS = 3
"""So many missed in a row are a death: one is a lost message, two are a busy machine."""

FORGET_S = 60.0
"""A dead node is forgotten after this."""

MAX_NODES = 5000
MAX_STREAMS_PER_NODE = 64
CLASH_AFTER = 3
"""So many reports of a former incarnation are no late messages: two processes share one name."""


class Heard(Enum):
    """What a report meant."""

    JOINED = "joined"
    RESTARTED = "restarted"
    CAME_BACK = "came back"
    """It was taken for dead, and is the same process still."""
    REFRESHED = "refreshed"
    STALE = "stale"
    CLASH = "clash"
    """A second process uses the name of one that lives."""
    TOO_MANY = "too many"
    LEFT = "left"


@dataclass
class NodeRecord:
    """One node."""

    report: Report
    """The newest one."""
    heard_s: float
    alive: bool = True
    refused: str = ""
    """Why it takes no part; empty where it does."""
    links: dict[str, LinkEstimator] = field(default_factory=dict)
    """Incoming links, by the peer that sends."""
    slowdown: SlowdownEstimator = field(default_factory=SlowdownEstimator)
    usage: dict[str, float] = field(default_factory=dict)
    """Share of the node's time that each stream's stages took, by stream."""
    frames: dict[tuple[str, int], int] = field(default_factory=dict)
    """Frames computed by stream and epoch, as last reported."""
    former: deque[str] = field(default_factory=lambda: deque(maxlen=4))
    clashes: int = 0

    @property
    def name(self) -> str:
        """Its name in plans."""
        return self.report.node

    @property
    def usable(self) -> bool:
        """Whether it can have a part in plans."""
        return self.alive and not self.refused

    def readiness(self, stream: str) -> Readiness | None:
        """What the node says of the stream's epochs."""
        for each in self.report.epochs:
            if each.stream == stream:
                return each
        return None

    def deadline_s(self) -> float:
        """When it is dead, if nothing is heard of it until then."""
        return self.heard_s + MISSED_HEARTBEATS * self.report.interval_s


class Registry:
    """All nodes by name. Bounded by `MAX_NODES`."""

    def __init__(self) -> None:
        self._nodes: dict[str, NodeRecord] = {}

    def __iter__(self) -> Iterator[NodeRecord]:
        return iter(self._nodes.values())

    def __len__(self) -> int:
        return len(self._nodes)

    def get(self, name: str) -> NodeRecord | None:
        """The node of that name, dead or alive."""
        return self._nodes.get(name)

    def usable(self, name: str) -> bool:
        """Whether the node is alive and not refused."""
        record = self._nodes.get(name)
        return record is not None and record.usable

    def workers(self, model: str) -> tuple[str, ...]:
        """Names of usable tile workers that hold the network with that fingerprint."""
        return tuple(
            each.name for each in self if each.report.tier is None and each.usable and each.report.model == model
        )

    def heard(self, report: Report, now: float) -> Heard:
        """Take a report's identity and keep it, unless it is stale or not welcome."""
        record = self._nodes.get(report.node)
        if record is None:
            if len(self._nodes) >= MAX_NODES:
                return Heard.TOO_MANY
            record = self._nodes[report.node] = NodeRecord(report, now)
            return self._leave(record) if report.leaving else Heard.JOINED
        if report.incarnation in record.former:
            record.clashes += 1
            return Heard.CLASH if record.alive and record.clashes >= CLASH_AFTER else Heard.STALE
        if report.incarnation != record.report.incarnation:
            self._renew(record, report, now)
            return self._leave(record) if report.leaving else Heard.RESTARTED
        if report.sequence <= record.report.sequence:
            return Heard.STALE
        was_alive, record.alive = record.alive, True
        record.report, record.heard_s = report, now
        if report.leaving:
            return self._leave(record)
        return Heard.REFRESHED if was_alive else Heard.CAME_BACK

    def expire(self, now: float) -> list[NodeRecord]:
        """Nodes that have died by now; forgets those that are dead for long."""
        died = [record for record in self._nodes.values() if record.alive and record.deadline_s() < now]
        for record in died:
            record.alive = False
            record.usage.clear()
        gone = [name for name, each in self._nodes.items() if not each.alive and each.heard_s + FORGET_S < now]
        for name in gone:
            del self._nodes[name]
            for record in self._nodes.values():
                record.links.pop(name, None)
        return died

    def grant(self, pause_s: float) -> None:
        """The scheduler itself stood still for this long: nobody is late by it."""
        for record in self._nodes.values():
            record.heard_s += pause_s

    def link(self, source: str, target: str) -> LinkEstimator | None:
        """The estimator of a directed link, or None where nothing was reported of it."""
        record = self._nodes.get(target)
        return None if record is None else record.links.get(source)

    def link_of(self, record: NodeRecord, peer: str) -> LinkEstimator | None:
        """As `link`, but made where it is new; None for a peer that has not registered (strangers make names up), and
        for more than `MAX_LINKS`."""
        found = record.links.get(peer)
        if found is None and peer in self._nodes and len(record.links) < MAX_LINKS:
            found = record.links[peer] = LinkEstimator()
        return found

    def candidates(self, tier: Tier | None, limit: int) -> list[NodeRecord]:
        """The least busy usable nodes of a tier, in a fixed order."""
        found = [each for each in self._nodes.values() if each.report.tier is tier and each.usable]
        return heapq.nsmallest(limit, found, key=lambda each: (sum(each.usage.values()), each.name))

    def _renew(self, record: NodeRecord, report: Report, now: float) -> None:
        record.former.append(record.report.incarnation)
        record.report, record.heard_s = report, now
        record.alive, record.refused, record.clashes = True, "", 0
        record.usage.clear()

    def _leave(self, record: NodeRecord) -> Heard:
        record.alive = False
        record.usage.clear()
        return Heard.LEFT
