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
    with _without_collector():
        agenda.run(scenario.lead_s + scenario.seconds + DRAIN_S)
    return recorder.record(decider.decisions, scheduler.states)


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
