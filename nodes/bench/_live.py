"""What live benchmarks share: plans drawn at random, and a scheduler whose fixed plan can be changed."""

from __future__ import annotations

import itertools
import random
import secrets
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import zmq

from nodes.agent import SchedulerAddress
from nodes.sockets import SocketFactory
from pipeline.model.graph import OUTPUT, ModelGraph
from pipeline.plan import Link, Plan, Stage, Tier
from scheduler.advisor import NoAdvisor
from scheduler.core import CoreConfig, SchedulerCore
from scheduler.events import StreamSettings
from scheduler.service import SchedulerService

STREAM = "camera"
NAMES = {tier: f"{tier}-1" for tier in Tier}


@dataclass(frozen=True)
class Draws:
    """What random plans are made of."""

    codecs: tuple[str, ...]
    picture_codecs: tuple[str, ...]
    """Of a link that carries the picture."""
    pictures_share: float
    """Of the plans that leave the device: these send the picture itself for certain."""

    def plan(self, graph: ModelGraph, route: Sequence[Tier], rng: random.Random) -> Plan:
        """A plan over these tiers, with nested cuts."""
        while True:
            cuts = sorted(rng.sample(graph.cuts[:-1], len(route) - 1), key=lambda cut: cut.mask.bit_count())
            if cuts and rng.random() < self.pictures_share:
                cuts[0] = graph.cuts[0]
            if all(a.before(b) for a, b in itertools.pairwise(cuts)):
                break
        names = [*(cut.name for cut in cuts), OUTPUT]
        stages = tuple(Stage(tier, NAMES[tier], until) for tier, until in zip(route, names, strict=True))
        links = tuple(Link(rng.choice(self.codecs if cut.index else self.picture_codecs)) for cut in cuts)
        return Plan(0, STREAM, graph.fingerprint, stages, links)


def fixed_core(plan: Plan) -> SchedulerCore:
    """A scheduler that insists on one plan; `inject` a `StreamConfigured` into its service for another."""
    wanted = StreamSettings(planner="fixed", plan=plan)
    return SchedulerCore(NoAdvisor(), CoreConfig(secrets.token_hex(8), model=plan.model, settings=wanted))


@contextmanager
def serving(core: SchedulerCore) -> Iterator[tuple[SchedulerService, SchedulerAddress]]:
    """The scheduler on real sockets, in a thread of its own."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    factory = SocketFactory(context)
    inbox, reports = factory.subscriber("tcp://127.0.0.1:*", bind=True)
    outbox, announced = factory.publisher("tcp://127.0.0.1:*", bind=True)
    service, stop = SchedulerService(core, inbox, outbox), threading.Event()
    thread = threading.Thread(target=service.run, args=(stop,), name="scheduler")
    thread.start()
    try:
        yield service, SchedulerAddress(reports, announced)
    finally:
        stop.set()
        thread.join()
        context.term()
