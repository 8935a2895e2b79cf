"""The decision core: `SchedulerCore.handle(event, now) -> instructions`. No socket, no clock, no randomness.

The same events at the same times give the same instructions, so a log of events replays every decision. What each
part decides is in its own module: who is alive (`registry`), how fast links and nodes are (`estimate`), what a
stream can count on (`outlook`), which plan is best (an `Advisor`), whether a switch pays (`policy`), and how a
stream gets from plan to plan (`streams`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from pipeline.plan import Plan, device_only
from scheduler.events import (
    VIEWERS,
    DecisionRecord,
    Event,
    Instruction,
    ReportReceived,
    StreamConfigured,
    StreamRemoved,
    StreamSettings,
    Tick,
    UnreadableReport,
)
from scheduler.outbox import Outbox
from scheduler.outlook import Outlook, Uses
from scheduler.planning import PlanDesk, PlanningConfig
from scheduler.policy import PolicyConfig, SwitchPolicy
from scheduler.probe_desk import ProbeDesk
from scheduler.probing import ProbeConfig
from scheduler.registry import MAX_STREAMS_PER_NODE, MISSED_HEARTBEATS, Heard, NodeRecord, Registry
from scheduler.reports import PROTOCOL_VERSION, Report, StreamReport
from scheduler.sharing import usage_of
from scheduler.streams import PREPARE_TIMEOUT_S, StreamState
from scheduler.world import Advisor

MAX_STREAMS = 1000
MAX_PREDICTIONS = 4096


@dataclass(frozen=True)
class CoreConfig:
    """The constants of the core; docs/live-loop.md has their reasons."""

    scheduler: str
    """Incarnation: random at each start of the scheduler's process."""
    model: str = ""
    """Fingerprint that every node must have; empty for that of the first device."""
    settings: StreamSettings = field(default_factory=StreamSettings)
    """Of streams that have none of their own."""
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    probes: ProbeConfig = field(default_factory=ProbeConfig)
    planning: PlanningConfig = field(default_factory=PlanningConfig)
    links: frozenset[tuple[str, str]] | None = None
    """Pairs of nodes that are joined, tile workers aside; None where any may be. No others are probed."""
    heartbeat_s: float = 1.0
    """Announcements and the cluster's state are published again at this interval."""
    measure_s: float = 5.0
    """After a switch, this long until its gain is read off the device's figures."""


class SchedulerCore:
    """All decisions of a scheduler. One event at a time; not to be shared between threads."""

    def __init__(self, advisor: Advisor, config: CoreConfig) -> None:
        self.config = config
        self.registry = Registry()
        self.streams: dict[str, StreamState] = {}
        self._advisor = advisor
        self._settings: dict[str, StreamSettings] = {VIEWERS: config.settings}
        self._uses = Uses()
        self._outbox = Outbox(config.scheduler)
        self._plans = PlanDesk(advisor, config.planning, self._outbox)
        self._probes = ProbeDesk(config.probes, self.registry, config.links, self._outbox)
        self._predicted: dict[tuple[str, int, str], float | None] = {}
        self._upheaval = False
        """Whether the event being handled is of a node that came or went."""
        self._latest_s: float | None = None
        self._beat_s = float("-inf")

    def handle(self, event: Event, now: float) -> list[Instruction]:
        """Take one event.

        Args:
            event: what happened.
            now: when, on the scheduler's monotonic clock; never earlier than the event before.

        Returns:
            What is to be done, in order.
        """
        self._upheaval = False
        self._mind_pause(now)
        if isinstance(event, ReportReceived):
            self._on_report(event.report, now)
        elif isinstance(event, UnreadableReport):
            self._refuse_version(event, now)
        elif isinstance(event, StreamConfigured):
            self._settings[event.stream] = event.settings
            self._apply_settings()
        elif isinstance(event, StreamRemoved):
            if event.stream != VIEWERS:
                self._settings.pop(event.stream, None)
            self._apply_settings()
        # Not on a report: those behind it in the queue may be of nodes that would be taken for dead.
        if isinstance(event, Tick | StreamConfigured | StreamRemoved):
            self._sweep(now)
        for state in self._concerned(event):
            if state.changed and self.registry.usable(state.device):
                self._outbox.announce(state, self.registry)
        return self._outbox.emptied()

    def _concerned(self, event: Event) -> Iterable[StreamState]:
        """Streams that the event may have changed: of hundreds, a report that is no news concerns one or two."""
        if self._upheaval or not isinstance(event, ReportReceived):
            return self.streams.values()
        report = event.report
        names = [*(told.stream for told in report.streams), *(ready.stream for ready in report.epochs)]
        return [self.streams[name] for name in dict.fromkeys(names) if name in self.streams]

    def _mind_pause(self, now: float) -> None:
        """A scheduler that was frozen has heard nobody: that is no death of theirs."""
        if self._latest_s is not None and now - self._latest_s > 2.0 * self.config.heartbeat_s:
            self.registry.grant(now - self._latest_s)
        self._latest_s = now

    def _outlook(self, now: float) -> Outlook:
        return Outlook(self.registry, self.streams, now, self._uses)

    # --- reports -------------------------------------------------------------------------------------------

    def _on_report(self, report: Report, now: float) -> None:
        heard = self.registry.heard(report, now)
        record = self.registry.get(report.node)
        if heard is Heard.STALE:
            return
        if heard in (Heard.CLASH, Heard.TOO_MANY) or record is None:
            reason = "another node has this name; give it its own" if heard is Heard.CLASH else "too many nodes"
            self._outbox.refuse(report.node, report.incarnation, reason)
            return
        if heard is Heard.LEFT:
            self._node_gone(record, "left in good order", now)
            return
        if heard is not Heard.REFRESHED:
            self._node_came(record, heard, now)
        self._take_figures(record, now)
        self._take_streams(record, heard is Heard.RESTARTED, now)
        self._check_model(record, now)
        for ready in record.report.epochs:  # not all streams: with hundreds of them, that took most of the time
            state = self.streams.get(ready.stream)
            if state is not None and state.prepared is not None:
                self._advance(state, now)

    def _node_came(self, record: NodeRecord, heard: Heard, now: float) -> None:
        self._upheave()
        kind = {Heard.RESTARTED: "restart", Heard.CAME_BACK: "return"}.get(heard, "join")
        tier = record.report.tier or "tile worker"
        self._outbox.note(DecisionRecord(now, kind, f"{tier} {record.name} {heard.value}", node=record.name))
        if heard is Heard.RESTARTED:
            record.frames.clear()
            self._lose(record.name, "started anew", now)
        for state in self.streams.values():
            if heard is not Heard.CAME_BACK and record.name != state.device:
                state.bans.pardon(record.name)
            state.urgent = True

    def _take_figures(self, record: NodeRecord, now: float) -> None:
        """Links, load and stage times."""
        report = record.report
        for link in report.links:
            estimator = record.links.get(link.peer) or self.registry.link_of(record, link.peer)
            if estimator is None:
                continue
            stepped = estimator.add(link, now)
            self._probes.mind(link.peer, estimator)
            if stepped:
                self._hurry({link.peer, record.name})
        record.slowdown.add_load(report.load.cpu_machine, report.load.cpu_node, report.load.cores)
        counted = {(stage.stream, stage.epoch): stage.frames for stage in report.stages}
        moving = {key for key, frames in counted.items() if frames > record.frames.get(key, 0)}
        for stage in report.stages:
            if (stage.stream, stage.epoch) in moving:
                predicted = self._predicted_s(stage.stream, stage.epoch, record.name)
                record.slowdown.add_stage(stage.compute_s.window, predicted or 0.0, now)
        record.frames, record.usage = counted, usage_of(report, moving)
        for ready in report.epochs:
            state = self.streams.get(ready.stream)
            if state is not None:
                state.highest_epoch = max(state.highest_epoch, *ready.ready, *ready.building, 0)

    def _predicted_s(self, stream: str, epoch: int, node: str) -> float | None:
        state = self.streams.get(stream)
        if state is None or state.current.epoch != epoch or node not in state.current.nodes:
            return None
        key = (stream, epoch, node)
        if key not in self._predicted:
            if len(self._predicted) >= MAX_PREDICTIONS:
                self._predicted.clear()
            self._predicted[key] = self._advisor.stage_s(state.current, node)
        return self._predicted[key]

    def _check_model(self, record: NodeRecord, now: float) -> None:
        """Refuse a node with another network, and tell it so until it changes."""
        wanted = self.config.model or next((state.model for state in self.streams.values()), "")
        has = record.report.model
        reason = ""
        if wanted and has != wanted:
            found = f"has model {has[:12]}" if has else "has no model"
            reason = f"node {found}, not {wanted[:12]}; start all nodes with the same model and weights"
        if reason and reason != record.refused:
            self._outbox.note(DecisionRecord(now, "refuse", reason, node=record.name))
            self._lose(record.name, "is refused", now)
        record.refused = reason
        if reason:
            self._outbox.refuse(record.name, record.report.incarnation, reason)

    def _refuse_version(self, event: UnreadableReport, now: float) -> None:
        reason = f"speaks protocol version {event.version}, not {PROTOCOL_VERSION}; start all nodes from one release"
        self._outbox.note(DecisionRecord(now, "refuse", reason, node=event.node))
        self._outbox.refuse(event.node, event.incarnation, reason)

    # --- streams -------------------------------------------------------------------------------------------

    def _take_streams(self, record: NodeRecord, restarted: bool, now: float) -> None:
        for told in record.report.streams[:MAX_STREAMS_PER_NODE]:
            state = self.streams.get(told.stream)
            if state is not None and state.device != record.name and self.registry.usable(state.device):
                reason = f"stream {told.stream} is already {state.device}'s; name it otherwise"
                self._outbox.refuse(record.name, record.report.incarnation, reason)
                continue
            if told.ended:
                if state is not None:
                    self._forget(state, "has ended", now)
                continue
            if state is None:
                state = self._new_stream(record, told, now)
            elif restarted or state.device != record.name:
                state.device, state.model = record.name, record.report.model
                state.restarted()
            if state is not None:
                self._follow(state, told, record, now)

    def _new_stream(self, record: NodeRecord, told: StreamReport, now: float) -> StreamState | None:
        if len(self.streams) >= MAX_STREAMS or (self.config.model and record.report.model != self.config.model):
            return None
        name = told.stream
        state = StreamState(
            stream=name,
            device=record.name,
            model=record.report.model,
            settings=self._settings.get(name, self._settings[VIEWERS]),
            report=told,
            first_seen_s=now,
            current=device_only(name, record.name, record.report.model, 0),
            policy=SwitchPolicy(self.config.policy),
        )
        for node in self.registry:
            ready = node.readiness(name)
            if ready is not None:
                state.highest_epoch = max(state.highest_epoch, *ready.ready, *ready.building, 0)
        self.streams[name] = state
        self._outbox.note(DecisionRecord(now, "stream", f"stream {name} starts at {record.name}", name, record.name))
        self._hurry_others(state)
        return state

    def _follow(self, state: StreamState, told: StreamReport, record: NodeRecord, now: float) -> None:
        """Take the device's word for what runs."""
        gained, heading = state.prepared.gain if state.prepared is not None else None, state.heading
        was_alone = state.current.is_device_only and state.current.epoch > 0
        outcome = state.observe(told)
        if outcome:
            if state.current.is_device_only and not was_alone:
                state.alone_s = now
            kind = "switched" if outcome == "switched" else "adopt"
            self._outbox.note_plan(state, kind, state.reason, now, state.current)
            state.switched(now, gained if outcome == "switched" else None)
            state.urgent = state.urgent or outcome == "adopted"
            if outcome == "adopted" and told.fallback:
                self._retreated(state, heading, now)
        self._measure(state, now)
        for epoch in state.retire(record.report.heard if record.report.scheduler == self.config.scheduler else -1):
            self._outbox.note(DecisionRecord(now, "retire", "no frame of it is in flight", state.stream, epoch=epoch))

    def _retreated(self, state: StreamState, plan: Plan, now: float) -> None:
        """The device gave a plan up: where no outage of a link explains it, the plan rests for a while."""
        outlook = self._outlook(now)
        explained = plan.is_device_only or outlook.held_up(plan)
        if not explained:
            state.bans.add_retreat(plan, outlook.silent(plan), now)
        state.policy.switched(now, forced=not explained)

    def _measure(self, state: StreamState, now: float) -> None:
        done = state.switches.measure(state.report, now - self.config.measure_s)
        if done is not None and done.measured is not None:
            figures = {"predicted": done.predicted, "measured": done.measured}
            reason = f"gain {done.measured:.2f}, predicted {done.predicted:.2f}"
            epoch = state.current.epoch
            self._outbox.note(DecisionRecord(now, "measured", reason, state.stream, epoch=epoch, figures=figures))

    def _forget(self, state: StreamState, reason: str, now: float) -> None:
        self._outbox.note(DecisionRecord(now, "stream", f"stream {state.stream} {reason}", state.stream, state.device))
        del self.streams[state.stream]
        for node in self.registry:
            node.usage.pop(state.stream, None)
        self._hurry_others(state)

    def _apply_settings(self) -> None:
        for name, state in self.streams.items():
            state.take_settings(self._settings.get(name, self._settings[VIEWERS]))

    # --- deaths --------------------------------------------------------------------------------------------

    def _node_gone(self, record: NodeRecord, reason: str, now: float) -> None:
        self._outbox.note(DecisionRecord(now, "death", f"{record.name} {reason}", node=record.name))
        self._lose(record.name, reason, now)
        for state in self.streams.values():
            if state.device == record.name:
                self._hurry_others(state)

    def _upheave(self) -> None:
        self._upheaval = True
        self._uses.forget()

    def _lose(self, node: str, reason: str, now: float) -> None:
        """What was in the node is gone: streams that pass through it fall back, those that were about to, stay."""
        self._upheave()
        for state in self.streams.values():
            if node != state.device and state.involves(node):
                self._lose_in(state, node, reason, now)

    def _lose_in(self, state: StreamState, node: str, reason: str, now: float) -> None:
        state.urgent, state.advised_for = True, None
        if state.lose(node):
            plan = state.fall_back(f"node {node} {reason}", now)
            state.policy.switched(now, forced=True)
            self._outbox.note_plan(state, "fallback", f"node {node} {reason}", now, plan)
        elif state.prepared is not None and node in state.prepared.plan.nodes and not state.prepared.committed:
            self._outbox.note_plan(state, "abandon", f"node {node} {reason}", now, state.prepared.plan)
            state.abandon(now, ban=False)

    def _lose_absent(self, state: StreamState, now: float) -> None:
        """A scheduler that has just started may find plans with nodes that died before it could hear of them."""
        if now - state.first_seen_s < MISSED_HEARTBEATS * self.config.heartbeat_s:
            return
        for node in state.heading.nodes:
            if not self.registry.usable(node):
                self._lose_in(state, node, "has not been heard of", now)

    def _hurry(self, nodes: set[str]) -> None:
        """Plan the streams at once that the link between these nodes matters to, and not all that share a server."""
        for state in self.streams.values():
            if not state.urgent:
                state.urgent = state.device in nodes or nodes.issubset(state.current.nodes)

    def _hurry_others(self, one: StreamState) -> None:
        for state in self.streams.values():
            state.urgent = state.urgent or state is not one

    # --- the regular round ---------------------------------------------------------------------------------

    def _sweep(self, now: float) -> None:
        for record in self.registry.expire(now):
            self._node_gone(record, "missed its heartbeats", now)
        for state in list(self.streams.values()):
            if self.registry.get(state.device) is None:
                self._forget(state, "has lost its device", now)
            elif self.registry.usable(state.device):
                self._lose_absent(state, now)
                self._advance(state, now)
        beat = now - self._beat_s >= self.config.heartbeat_s - 1e-6
        outlook = self._outlook(now)
        self._plans.plan_due(self.streams.values(), outlook)
        if beat or self._probes.urgent:
            self._probes.probe_due(self.streams.values(), outlook)
        else:
            self._probes.probe_left(self.streams.values(), outlook)
        if beat:
            self._beat_s = now
            for state in self.streams.values():
                state.changed = True
            self._outbox.show(self.registry, self.streams.values(), now)

    def _advance(self, state: StreamState, now: float) -> None:
        """Commit the prepared plan, or give it up."""
        if state.prepared is None or state.prepared.committed:
            return
        plan = state.prepared.plan
        refused = state.refusal(self.registry, self.config.scheduler)
        waiting = state.waiting_for(self.registry, self.config.scheduler)
        if refused is not None:
            self._give_up(state, [refused[0]], f"node {refused[0]} refuses: {refused[1]}", now)
        elif state.prepared.announced is not None and not waiting:
            regret = self._plans.regret(state, self._outlook(now))
            if regret:
                self._outbox.note_plan(state, "abandon", regret, now, plan)
                state.abandon(now, ban=False)
                return
            state.commit()
            self._outbox.note_plan(state, "commit", f"all nodes are ready; {state.prepared.reason}", now, plan)
        elif now - state.prepared.since_s > PREPARE_TIMEOUT_S:
            self._give_up(state, waiting, f"not ready in {PREPARE_TIMEOUT_S:.0f} s: {', '.join(waiting)}", now)

    def _give_up(self, state: StreamState, nodes: list[str], reason: str, now: float) -> None:
        if state.prepared is None:
            return
        self._outbox.note_plan(state, "abandon", reason, now, state.prepared.plan)
        for node in nodes:
            if node != state.device:
                state.bans.add_node(node, now)
        state.abandon(now, ban=True)
        state.problem = reason
