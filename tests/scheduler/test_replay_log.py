"""An `events.jsonl`, as a live run leaves it, gives every decision again in a new core."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

import zmq

from nodes.admission import Waiting
from nodes.agent import SchedulerAddress
from nodes.deciding import Deciding, build_core
from nodes.sockets import SocketFactory
from pipeline.plan import Tier
from scheduler.events import (
    DecisionRecord,
    LogDecision,
    StreamConfigured,
    StreamSettings,
    decode_line,
)
from scheduler.handmade import plan_of
from scheduler.service import Core, EventLog, SchedulerService
from tests.nodes.processes import anabranch, eventually
from tests.nodes.tiny import NAMES, SPEC, Deployment, picture_folder, waiting


def _replayed(core: Core, log: Path) -> tuple[list[DecisionRecord], list[DecisionRecord]]:
    """The decisions that the log holds, and those that `core` makes on the log's events."""
    logged: list[DecisionRecord] = []
    made: list[DecisionRecord] = []
    for data in log.read_bytes().splitlines()[1:]:
        line = decode_line(data)
        if line.event is not None:
            found = core.handle(line.event, line.now)
            made += [each.record for each in found if isinstance(each, LogDecision)]
        elif isinstance(line.instruction, LogDecision):
            logged.append(line.instruction.record)
    return logged, made


def _incarnation(log: Path) -> str:
    header = json.loads(log.read_bytes().partition(b"\n")[0])
    assert header["log"] == "anabranch events"
    return str(header["scheduler"])


def test_the_log_of_a_service_on_its_sockets_replays(tmp_path: Path) -> None:
    deciding = Deciding(SPEC, planner="fixed")
    deployment = Deployment()
    _serve(deciding, deployment, tmp_path / "events.jsonl")
    deployment.check(60)
    core, _ = build_core(Deciding(SPEC, planner="fixed", incarnation=_incarnation(tmp_path / "events.jsonl")))
    logged, made = _replayed(core, tmp_path / "events.jsonl")
    assert logged == made
    kinds = [record.kind for record in logged]
    assert {"join", "stream", "prepare", "commit", "switched", "death"} <= set(kinds)
    assert kinds.count("switched") == 2


def _serve(deciding: Deciding, deployment: Deployment, log: Path) -> None:
    """A stream through three nodes whose plan is changed on the way, and whose edge leaves."""
    core, header = build_core(deciding)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    factory = SocketFactory(context)
    inbox, reports = factory.subscriber("tcp://127.0.0.1:*", bind=True)
    outbox, plans = factory.publisher("tcp://127.0.0.1:*", bind=True)
    service, stop = SchedulerService(core, inbox, outbox, EventLog(log, header)), threading.Event()
    thread = threading.Thread(target=service.run, args=(stop, 0.1))
    thread.start()
    address = SchedulerAddress(reports, plans)
    try:
        edge = deployment.node(Tier.EDGE, address)
        deployment.node(Tier.CLOUD, address)
        device = deployment.device(address)
        graph = deployment.model.captured.graph
        route = {tier: NAMES[tier] for tier in (Tier.DEVICE, Tier.CLOUD)}
        wanted = StreamSettings(planner="fixed", plan=plan_of(graph, "*", route, "first"))

        def feed(offer: Callable[[Waiting], bool]) -> None:
            for number in range(60):
                if number == 30:
                    service.inject(StreamConfigured("camera", wanted))
                    eventually(lambda: device.admission.plan.nodes == tuple(route.values()), "the other plan")
                    edge.stop()
                offer(waiting(number, deployment.model))

        device.run(feed)
        deployment.stop()
    finally:
        stop.set()
        thread.join()
        context.term()


def test_the_log_of_a_planned_run_replays(tmp_path: Path) -> None:
    pictures = picture_folder(tmp_path / "pictures", 150)
    run_dir = tmp_path / "run"
    done = anabranch(
        "run", "--source", pictures, "--model", SPEC, "--run-dir", run_dir, "--policy", "joint", "--emulate-speed",
        "device=0.02,edge=0.05,cloud=0.05",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    log = run_dir / "events.jsonl"
    profiles = tuple(f"{name}={run_dir / f'profile-{name}.json'}" for name in NAMES.values())
    core, _ = build_core(Deciding(SPEC, planner="joint", profiles=profiles, incarnation=_incarnation(log)))
    logged, made = _replayed(core, log)
    assert logged == made
    assert {"join", "stream", "prepare", "commit", "switched"} <= {record.kind for record in logged}
