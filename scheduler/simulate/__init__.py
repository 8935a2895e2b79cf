"""Discrete-event simulation of a whole deployment, with the live scheduler core, estimators and switch protocol."""

from __future__ import annotations

from scheduler.foresight import ORACLE
from scheduler.simulate.agenda import Agenda
from scheduler.simulate.cluster import Cluster
from scheduler.simulate.deciders import Oracle, SimulatedScheduler
from scheduler.simulate.record import RunRecord
from scheduler.simulate.recorder import Recorder
from scheduler.simulate.scenario import Channel, Scenario

DRAIN_S = 600.0
"""Frames in flight when the source ends may take so long to come home."""

__all__ = ["Channel", "RunRecord", "Scenario", "simulate"]


def simulate(scenario: Scenario) -> RunRecord:
    """Run a scenario to its end: the source's, and then until every frame has its result.

    The same scenario gives the same record.

    Raises:
        AnabranchError: a plan that cannot be carried out.
    """
    agenda = Agenda()
    scheduler = SimulatedScheduler(scenario, agenda)
    decider = Oracle(scenario, agenda) if scenario.policy == ORACLE else scheduler
    receive = scheduler.receive if decider is scheduler else lambda report: None
    cluster = Cluster(scenario, agenda, receive)
    recorder = Recorder(scenario, cluster)
    decider.start(cluster)
    limit_s = scenario.lead_s + scenario.seconds + DRAIN_S
    unfinished = list(cluster.devices)

    def over() -> bool:
        while unfinished and unfinished[-1].is_finished:
            unfinished.pop()
        return not unfinished

    agenda.run(limit_s, over)
    return recorder.record(decider.decisions, scheduler.states)
