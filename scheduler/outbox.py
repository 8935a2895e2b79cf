"""What the core says on one event: to the nodes, to the viewers, and to the log. Part of the pure core."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection

from pipeline.plan import Plan
from scheduler.commands import Announcement, ClusterState, ProbeOrder, Refusal
from scheduler.events import VIEWERS, DecisionRecord, Instruction, LogDecision, Publish
from scheduler.registry import Registry
from scheduler.streams import StreamState
from scheduler.views import link_views, node_views, stream_view

MAX_LOG = 20
"""Decisions that viewers are shown."""


class Outbox:
    """Collects instructions, and numbers the messages among them.

    Args:
        scheduler: incarnation of the scheduler that speaks.
    """

    def __init__(self, scheduler: str) -> None:
        self._scheduler = scheduler
        self._sequence = 0
        self._latest: deque[str] = deque(maxlen=MAX_LOG)
        self._instructions: list[Instruction] = []

    def emptied(self) -> list[Instruction]:
        """Everything since the last call, in order."""
        instructions, self._instructions = self._instructions, []
        return instructions

    def note(self, record: DecisionRecord) -> None:
        """Log a decision, and show it to the viewers."""
        self._instructions.append(LogDecision(record))
        name = f"{record.stream}#{record.epoch}" if record.epoch is not None else record.stream or record.node
        self._latest.append(f"{record.kind} {name}: {record.reason}")

    def note_plan(self, state: StreamState, kind: str, reason: str, now: float, plan: Plan) -> None:
        """Log a decision on one of the stream's plans."""
        self.note(DecisionRecord(now, kind, reason, state.stream, state.device, plan.epoch, plan))

    def announce(self, state: StreamState, registry: Registry) -> None:
        """Tell a stream's nodes its plans."""
        message = state.announcement(self._scheduler, self._next(), registry)
        self._publish(state.recipients(registry), message)

    def probe(self, source: str, target: str, endpoint: str, size: int, *, tiles: bool) -> None:
        """Have a node send so many bytes over an idle link."""
        self._publish((source,), ProbeOrder(self._scheduler, self._next(), source, target, endpoint, size, tiles))

    def refuse(self, node: str, incarnation: str, reason: str) -> None:
        """Tell a node why it takes no part."""
        self._publish((node,), Refusal(self._scheduler, self._next(), node, incarnation, reason))

    def show(self, registry: Registry, streams: Collection[StreamState], now: float) -> None:
        """Tell the viewers how the cluster is."""
        views = tuple(stream_view(each, each.waiting_for(registry, self._scheduler)) for each in streams)
        nodes, links = node_views(registry, now), link_views(registry, now)
        log = tuple(self._latest)
        self._publish((VIEWERS,), ClusterState(self._scheduler, self._next(), now, nodes, links, views, log))

    def _publish(self, to: tuple[str, ...], message: Announcement | ProbeOrder | Refusal | ClusterState) -> None:
        self._instructions.append(Publish(to, message))

    def _next(self) -> int:
        self._sequence += 1
        return self._sequence
