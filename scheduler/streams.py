"""One stream's way from plan to plan: prepare, commit, switch, drain. A state machine without clock or socket.

    steady --prepare--> preparing --all nodes ready--> committing --device stamps it--> steady
                           |                               |
                           +-- node dies, refuses, late ---+-- fallback (a device-only plan, committed at once)

The device is the truth about what runs: whatever epoch it reports is adopted. See docs/live-loop.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from pipeline.plan import Plan, Signature, device_only
from scheduler.bans import Bans
from scheduler.commands import Announcement, SwitchRecord
from scheduler.events import StreamSettings
from scheduler.policy import Gain, SwitchPolicy
from scheduler.registry import NodeRecord
from scheduler.reports import Endpoints, StreamReport
from scheduler.switches import Switches
from scheduler.world import Advice, World

PREPARE_TIMEOUT_S = 30.0
"""A plan that is not ready by then is given up; building and warming a segment takes seconds."""

EXPECTED_S = 3.0
"""After a switch, what the plan was predicted to use counts for others as long: by then nodes have measured it."""

MAX_DRAINING = 8
"""With more plans than this still in flight, no new one is prepared for a mere gain."""


class Nodes(Protocol):
    """Where the state machine looks nodes up."""

    def get(self, name: str) -> NodeRecord | None:
        """The node of that name, dead or alive."""

    def usable(self, name: str) -> bool:
        """Whether it is alive and not refused."""

    def workers(self, model: str) -> tuple[str, ...]:
        """Usable tile workers that hold the network with that fingerprint."""


@dataclass
class Prepared:
    """A plan on its way to be the current one."""

    plan: Plan
    reason: str
    since_s: float
    gain: Gain | None = None
    committed: bool = False
    announced: int | None = None
    """Sequence of the first announcement that held it: a node that has not heard that one is not ready."""


@dataclass
class Draining:
    """A plan that may still have frames in flight."""

    plan: Plan
    superseded: int | None = None
    """For a committed plan that the device never reported: sequence of the first announcement without it."""


@dataclass
class StreamState:
    """All that the scheduler knows of a stream."""

    stream: str
    device: str
    model: str
    settings: StreamSettings
    report: StreamReport
    first_seen_s: float
    current: Plan
    policy: SwitchPolicy
    highest_epoch: int = 0
    """No epoch up to this one is ever used again."""
    prepared: Prepared | None = None
    draining: dict[int, Draining] = field(default_factory=dict)
    lost: dict[str, int] = field(default_factory=dict)
    bans: Bans = field(default_factory=Bans)
    reason: str = "the device's own"
    problem: str = ""
    switches: Switches = field(default_factory=Switches)
    advice: Advice | None = None
    advised_for: World | None = None
    """What `advice` rested on."""
    kept: Signature | None = None
    """The choice that was last offered and not taken, so that it is logged once."""
    urgent: bool = True
    """Whether to plan at once."""
    planned_s: float = float("-inf")
    expected: Mapping[str, float] = field(default_factory=dict)
    """Share of each node's time that the plan which was prepared last is predicted to take, by node."""
    expected_until_s: float = float("-inf")
    """From then on only what nodes measure counts."""
    changed: bool = True
    """Whether an announcement is due."""
    missing_since_s: float | None = None
    alone_s: float = float("-inf")
    """When its device last began to compute alone: by its first plan, or since it left other nodes."""

    @property
    def phase(self) -> str:
        """`steady`, `preparing` or `committing`."""
        if self.prepared is None:
            return "steady"
        return "committing" if self.prepared.committed else "preparing"

    @property
    def is_idle(self) -> bool:
        """Whether the device waits for its first plan, and has admitted no frame."""
        return not (self.current.epoch or self.report.admitted or self.report.fallback)

    @property
    def is_unused(self) -> bool:
        """Whether no frame has been admitted yet: a switch costs nothing."""
        told = self.report
        return not (told.admitted or told.in_flight_epochs or told.fps.window or told.fallback)

    @property
    def plans(self) -> list[Plan]:
        """Every plan that must stay runnable, the oldest first."""
        plans = [each.plan for _, each in sorted(self.draining.items())]
        plans.append(self.current)
        if self.prepared is not None:
            plans.append(self.prepared.plan)
        return plans

    @property
    def heading(self) -> Plan:
        """The plan that the next frames are stamped with: the committed one, as soon as the device hears of it."""
        if self.prepared is not None and self.prepared.committed:
            return self.prepared.plan
        return self.current

    @property
    def may_detour(self) -> bool:
        """Whether the device may compute frames alone while nothing comes back: not where a plan was asked for."""
        return self.settings.is_adaptive

    @property
    def may_change(self) -> bool:
        """Whether it may leave the running plan: it is planned, or was driven from its fixed plan."""
        return self.settings.planner != "fixed" or (bool(self.bans) and self.current.is_device_only)

    def involves(self, node: str) -> bool:
        """Whether a plan that must stay runnable has a stage on the node (or tiles, if it is a worker)."""
        return any(node in plan.participants for plan in self.plans)

    def next_epoch(self) -> int:
        """An epoch that nobody has ever seen."""
        self.highest_epoch += 1
        return self.highest_epoch

    # --- what the device says ------------------------------------------------------------------------------

    def observe(self, report: StreamReport) -> str:
        """Take the device's report of its stream.

        Returns:
            `switched` where the prepared plan now runs, `adopted` where the device runs another plan than was
            known here, or an empty string.
        """
        self.report = report
        told = report.plan.epoch if report.plan is not None else 0
        self.highest_epoch = max(self.highest_epoch, report.highest_epoch, report.epoch, told)
        gave_up = self._given_up(report)
        if report.epoch == self.current.epoch:
            return "adopted" if gave_up else ""
        if self.prepared is not None and report.epoch == self.prepared.plan.epoch:
            self._leave_current()
            self.current, self.reason = self.prepared.plan, self.prepared.reason
            self.prepared, self.changed = None, True
            return "switched"
        adopted = self._plan_told(report)
        if adopted is None:
            return ""
        self._leave_current()
        self.draining.pop(adopted.epoch, None)
        self.current, self.changed, self.urgent = adopted, True, True
        self.reason = report.fallback or "found running"
        if self.prepared is not None and not self.prepared.committed:
            self.prepared = None
        return "adopted"

    def _given_up(self, report: StreamReport) -> bool:
        """Whether the device took the committed plan and left it again, all between two reports."""
        prepared = self.prepared
        if prepared is None or not prepared.committed or not report.used >= prepared.plan.epoch > report.epoch:
            return False
        self._supersede()
        self.prepared, self.reason = None, report.fallback or "given up by the device"
        self.changed = self.urgent = True
        return True

    def retire(self, heard: int) -> list[int]:
        """Forget plans of which no frame can come any more.

        Args:
            heard: sequence of the newest announcement of this scheduler that reached the device.

        Returns:
            Their epochs.
        """
        running = {self.report.epoch, *self.report.in_flight_epochs}
        done = [
            epoch
            for epoch, each in self.draining.items()
            if epoch not in running
            and (each.superseded is None or self.report.epoch > epoch or heard >= each.superseded >= 0)
        ]
        for epoch in done:
            del self.draining[epoch]
        for node, epoch in list(self.lost.items()):
            if not any(plan.epoch <= epoch and node in plan.nodes for plan in self.plans):
                del self.lost[node]
        self.changed = self.changed or bool(done)
        return done

    def restarted(self) -> None:
        """The device has started anew: none of its frames is in flight, and it knows epoch 0 only."""
        self.draining.clear()
        self.lost.clear()
        self.prepared = None
        self.switches.begin(None)
        self.current = device_only(self.stream, self.device, self.model, 0)
        self.changed = self.urgent = True
        self.reason = "the device started anew"

    def _plan_told(self, report: StreamReport) -> Plan | None:
        if report.epoch == 0:
            return device_only(self.stream, self.device, self.model, 0)
        if report.plan is not None and report.plan.epoch == report.epoch and report.plan.stream == self.stream:
            return report.plan
        found = self.draining.get(report.epoch)
        return None if found is None else found.plan

    def _leave_current(self) -> None:
        if self.current.epoch:
            self.draining[self.current.epoch] = Draining(self.current)

    def switched(self, now: float, gain: Gain | None) -> None:
        """Remember that the current plan has come to run."""
        self.expected_until_s = now + EXPECTED_S
        predicted = 1.0 if gain is None else gain.ratio
        self.switches.add(SwitchRecord(self.stream, self.current.epoch, now, self.reason, predicted), gain)

    # --- what the scheduler decides ------------------------------------------------------------------------

    def take_settings(self, settings: StreamSettings) -> None:
        """What the stream is to reach from now on."""
        if self.settings != settings:
            self.settings = settings
            self.urgent, self.advised_for = True, None

    def prepare(self, plan: Plan, reason: str, now: float, gain: Gain | None = None) -> Plan:
        """Begin to switch to `plan`, under an epoch of its own."""
        numbered = msgspec.structs.replace(plan, epoch=self.next_epoch(), stream=self.stream)
        self._supersede()
        self.expected = {}
        self.prepared = Prepared(numbered, reason, now, gain)
        self.changed = True
        return numbered

    def fall_back(self, reason: str, now: float) -> Plan:
        """Commit a device-only plan at once: the device can always run it, so nobody has to be ready."""
        plan = self.prepare(device_only(self.stream, self.device, self.model, 0), reason, now)
        self.prepared = Prepared(plan, reason, now, committed=True)
        return plan

    def commit(self) -> None:
        """All nodes are ready: the device may stamp frames with the prepared plan."""
        if self.prepared is not None:
            self.prepared.committed = self.changed = True
            self.switches.begin(self.report)

    def abandon(self, now: float, *, ban: bool) -> None:
        """Give the prepared plan up; committed ones are only ever superseded."""
        if self.prepared is None:
            return
        if ban:
            self.bans.add_plan(self.prepared.plan, now)
        self._supersede()
        self.prepared = None
        self.advised_for = None
        self.changed = self.urgent = True

    def lose(self, node: str) -> bool:
        """The node's frames are gone.

        Returns:
            Whether frames of the current or the committed plan pass through it: the stream has to fall back.
        """
        if not any(node in plan.nodes for plan in self.plans):
            return False
        self.lost[node] = self.highest_epoch
        self.changed = True
        return node in self.heading.nodes

    def _supersede(self) -> None:
        if self.prepared is not None and self.prepared.committed:
            self.draining[self.prepared.plan.epoch] = Draining(self.prepared.plan, superseded=-1)

    # --- what the nodes are told ---------------------------------------------------------------------------

    def waiting_for(self, nodes: Nodes, scheduler: str) -> list[str]:
        """Nodes that are not ready for the prepared plan yet; tile workers are the edge node's own concern."""
        if self.prepared is None:
            return []
        return [name for name in self.prepared.plan.nodes if not self._ready(nodes.get(name), scheduler)]

    def _ready(self, node: NodeRecord | None, scheduler: str) -> bool:
        if node is None or self.prepared is None or not node.usable:
            return False
        if self.prepared.announced is None or node.report.scheduler != scheduler:
            return False
        ready = node.readiness(self.stream)
        return (
            ready is not None
            and node.report.heard >= self.prepared.announced
            and self.prepared.plan.epoch in ready.ready
        )

    def refusal(self, nodes: Nodes, scheduler: str) -> tuple[str, str] | None:
        """A node that refuses the prepared plan, and why."""
        if self.prepared is None or self.prepared.announced is None:
            return None
        for name in self.prepared.plan.nodes:
            node = nodes.get(name)
            if node is None or node.report.scheduler != scheduler or node.report.heard < self.prepared.announced:
                continue
            ready = node.readiness(self.stream)
            reason = None if ready is None else ready.refusal(self.prepared.plan.epoch)
            if reason is not None:
                return name, reason
        return None

    def announcement(self, scheduler: str, sequence: int, nodes: Nodes) -> Announcement:
        """The state as the nodes get it."""
        self.changed = False
        if self.prepared is not None and self.prepared.announced is None:
            self.prepared.announced = sequence
        for each in self.draining.values():
            if each.superseded == -1:
                each.superseded = sequence
        prepared = self.prepared
        return Announcement(
            stream=self.stream,
            scheduler=scheduler,
            sequence=sequence,
            current=self.current,
            prepared=None if prepared is None else prepared.plan,
            commit=prepared.plan.epoch if prepared is not None and prepared.committed else self.current.epoch,
            draining=tuple(each.plan for _, each in sorted(self.draining.items())),
            peers=self._peers(nodes),
            oldest=self._oldest(),
            lost=dict(self.lost),
            detour=self.may_detour,
            fills_up=self.settings.fills_up,
            hedges=self.settings.hedges,
            reason=self.reason if prepared is None else prepared.reason,
        )

    def recipients(self, nodes: Nodes) -> tuple[str, ...]:
        """Everyone that has a part in a plan that must stay runnable, or may take one."""
        named = (name for plan in self.plans for name in plan.participants)
        is_open = any(plan.tiles is not None and plan.tiles.open for plan in self.plans)
        return tuple(dict.fromkeys([self.device, *named, *(nodes.workers(self.model) if is_open else ())]))

    def _peers(self, nodes: Nodes) -> dict[str, Endpoints]:
        found = ((name, nodes.get(name)) for name in self.recipients(nodes))
        return {name: node.report.endpoints for name, node in found if node is not None and node.alive}

    def _oldest(self) -> int:
        running = (*self.report.in_flight_epochs, *self.draining, self.current.epoch)
        prepared = () if self.prepared is None else (self.prepared.plan.epoch,)
        return min((epoch for epoch in (*running, *prepared) if epoch), default=self.highest_epoch + 1)
