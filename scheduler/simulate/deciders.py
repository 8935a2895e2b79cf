"""Who decides in a simulation: the live scheduler core on simulated messages, or the oracle."""

from __future__ import annotations

import msgspec

from pipeline.model.graph import ModelGraph
from pipeline.plan import Plan, Tier
from scheduler.advising import PlannerAdvisor
from scheduler.commands import ClusterState
from scheduler.core import CoreConfig, SchedulerCore
from scheduler.events import (
    DecisionRecord,
    Event,
    LogDecision,
    Publish,
    ReportReceived,
    StreamConfigured,
    StreamSettings,
    Tick,
)
from scheduler.foresight import STEP_S, Foresight
from scheduler.insisting import Insisting
from scheduler.planners import NAMES, make
from scheduler.problem import Hop, LinkEstimate, Planner, Problem
from scheduler.reports import Report
from scheduler.simulate.agenda import Agenda
from scheduler.simulate.agent import CONTROL_S
from scheduler.simulate.cluster import Cluster
from scheduler.simulate.scenario import Scenario, node_name
from scheduler.tables import PackingTable, SegmentTimes
from scheduler.tiles import TileTable
from scheduler.tiling import Workers

TICK_S = 0.2507
"""As in the live service, whose loop takes a little longer than its interval. A round figure would keep step with the
frames of a camera, and every probe, ordered on a tick, would meet a frame (or none would)."""


class SimulatedCatalogue:
    """A scenario's figures, by node; see `scheduler.advising.Catalogue`."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._tiers = {name: tier for tier in Tier for name in scenario.names(tier)}

    def graph(self, model: str) -> ModelGraph:
        """The scenario's network."""
        return self._scenario.graph

    def packing(self, model: str) -> PackingTable:
        """The scenario's packing table."""
        return self._scenario.packing

    def times(self, model: str, node: str, profile: str) -> SegmentTimes | None:
        """Segment times of the node's tier."""
        tier = self._tiers.get(node)
        return None if tier is None else self._scenario.times.get(tier)

    def tiles(self, model: str, workers: Workers) -> TileTable | None:
        """None: tile workers are simulated as a faster edge."""
        return None


class SimulatedScheduler:
    """The live decision core; messages take `CONTROL_S` each way."""

    def __init__(self, scenario: Scenario, agenda: Agenda) -> None:
        self.decisions: list[DecisionRecord] = []
        self.states: list[ClusterState] = []
        """What viewers are shown, at every heartbeat; kept for the first stream's links."""
        self._agenda = agenda
        self._cluster: Cluster | None = None
        planners: dict[str, Planner] = {name: make(name) for name in NAMES if name != "fixed"}
        settings = StreamSettings(scenario.objective, scenario.policy)
        config = CoreConfig("simulated", model=scenario.graph.fingerprint, settings=settings, links=scenario.joined)
        advisor = Insisting(PlannerAdvisor(SimulatedCatalogue(scenario), planners))
        self._core = SchedulerCore(advisor, config)

    def start(self, cluster: Cluster) -> None:
        """Begin to decide."""
        self._cluster = cluster
        fixed = cluster.scenario.fixed
        if cluster.scenario.policy == "fixed" and fixed is not None:
            for device in cluster.devices:
                stream = device.source.stream
                own = StreamSettings(cluster.scenario.objective, "fixed", own_plan(cluster.scenario, fixed, stream))
                self._handle(StreamConfigured(stream, own))
        self._tick()

    def receive(self, report: Report) -> None:
        """A node's report came in."""
        self._handle(ReportReceived(report))

    def _tick(self) -> None:
        self._handle(Tick())
        self._agenda.after(TICK_S, self._tick)

    def _handle(self, event: Event) -> None:
        for instruction in self._core.handle(event, self._agenda.now):
            if isinstance(instruction, LogDecision):
                self.decisions.append(instruction.record)
            elif isinstance(instruction, Publish):
                self._publish(instruction)

    def _publish(self, instruction: Publish) -> None:
        if isinstance(instruction.message, ClusterState):
            self.states.append(msgspec.structs.replace(instruction.message, streams=(), nodes=(), log=()))
            return
        for name in instruction.to:
            agent = None if self._cluster is None else self._cluster.agents.get(name)
            if agent is not None:
                self._agenda.after(CONTROL_S, agent.hear, instruction.message)


class Oracle:
    """Plans with the true rates of the time ahead, and switches at once, for nothing."""

    def __init__(self, scenario: Scenario, agenda: Agenda) -> None:
        self.decisions: list[DecisionRecord] = []
        self._scenario = scenario
        self._agenda = agenda
        self._epoch = 0

    def start(self, cluster: Cluster) -> None:
        """Begin to decide."""
        cluster.check_epochs = False
        nodes = {tier: node_name(tier) for tier in self._scenario.times}
        problem = Problem(
            graph=self._scenario.graph,
            stream=cluster.devices[0].source.stream,
            nodes=nodes,
            times={name: self._scenario.times[tier] for tier, name in nodes.items()},
            packing=self._scenario.packing,
            links={},
            objective=self._scenario.objective,
            fps=self._scenario.fps or None,
            fills_up=self._scenario.objective.fills_up,
            hedges=self._scenario.objective.hedges,
        )
        cluster.devices[0].use_spare(problem.fills_up, problem.hedges)
        foresight = Foresight(problem, lambda now, horizon_s: self._links(cluster, now, horizon_s))
        self._agenda.at(self._scenario.lead_s - 1e-3, self._look, cluster, foresight)

    def _look(self, cluster: Cluster, foresight: Foresight) -> None:
        device = cluster.devices[0]
        plan = foresight.plan(self._agenda.now)
        if msgspec.structs.replace(plan, epoch=device.plan.epoch) != device.plan:
            self._epoch += 1
            device.use(msgspec.structs.replace(plan, epoch=self._epoch))
        if not device.is_finished:
            self._agenda.after(STEP_S, self._look, cluster, foresight)

    def _links(self, cluster: Cluster, now: float, horizon_s: float) -> dict[Hop, LinkEstimate]:
        links = {}
        for hop in self._scenario.channels:
            link = cluster.link(node_name(hop[0]), node_name(hop[1]))
            if link is not None:
                mean_bps = max(1.0, link.pipe.mean_bps(now, now + horizon_s))
                links[hop] = LinkEstimate(mean_bps, 2.0 * link.delay_s)
        return links


def own_plan(scenario: Scenario, plan: Plan, stream: str) -> Plan:
    """A plan for the first stream, on another stream's own nodes."""
    number = int(stream.rpartition("-")[2]) - 1
    counts = {tier: scenario.count(tier) for tier in scenario.times}
    stages = tuple(
        msgspec.structs.replace(stage, node=node_name(stage.tier, number * counts[stage.tier] // scenario.streams))
        for stage in plan.stages
    )
    return msgspec.structs.replace(plan, stream=stream, stages=stages)
