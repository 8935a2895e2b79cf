"""Discrete-event simulation of a whole deployment, with the live scheduler core, estimators and switch protocol."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

from scheduler.foresight import ORACLE
from scheduler.simulate.agenda import Agenda
from scheduler.simulate.cluster import Cluster
from scheduler.simulate.deciders import Oracle, SimulatedScheduler
from scheduler.simulate.record import RunRecord
from scheduler.simulate.recorder import Recorder
from scheduler.simulate.scenario import Channel, Scenario

DRAIN_S = 600.0
"""Frames in flight when the source ends may take so long to come home."""

FIRST_PLAN_S = 300.0
"""A device that is started by `anabranch replay` waits so long for its first plan."""

__all__ = ["Channel", "RunRecord", "Scenario", "first_plan_s", "simulate"]


def simulate(scenario: Scenario) -> RunRecord:
    """Run a scenario to its end: the source's, and then until every frame has its result.

    The same scenario gives the same record.

    Raises:
        AnabranchError: a plan that cannot be carried out.
    """
    cluster, decider, scheduler = _begun(scenario)
    recorder = Recorder(scenario, cluster)
    with _without_collector():
        cluster.agenda.run(scenario.lead_s + scenario.seconds + DRAIN_S)
    return recorder.record(decider.decisions, scheduler.states)


def first_plan_s(scenario: Scenario) -> float:
    """The simulated time at which the first device takes up its first plan, where no frame comes before."""
    cluster, _, _ = _begun(scenario.alike(lead_s=FIRST_PLAN_S))
    cluster.devices[0].hooks.planned = cluster.agenda.stop
    cluster.agenda.run(FIRST_PLAN_S)
    return cluster.agenda.now


def _begun(scenario: Scenario) -> tuple[Cluster, SimulatedScheduler | Oracle, SimulatedScheduler]:
    """A scenario's cluster, who decides on it, and the scheduler whether it decides or not."""
    agenda = Agenda()
    scheduler = SimulatedScheduler(scenario, agenda)
    decider = Oracle(scenario, agenda) if scenario.policy == ORACLE else scheduler
    receive = scheduler.receive if decider is scheduler else lambda report: None
    cluster = Cluster(scenario, agenda, receive)
    decider.start(cluster)
    return cluster, decider, scheduler


@contextlib.contextmanager
def _without_collector() -> Iterator[None]:
    """Frames leave no cycles behind; looking for some takes nearly half of the time of a thousand streams."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
