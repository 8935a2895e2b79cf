"""An `events.jsonl`, as a live run leaves it, gives every decision again in a new core."""

from __future__ import annotations

import contextlib
import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import zmq

from nodes.admission import Waiting
from nodes.agent import SchedulerAddress
from nodes.batches import Batches
from nodes.cloud import CloudNode
from nodes.deciding import Deciding, build_core
from nodes.device import DeviceNode
from nodes.device import StreamSettings as Stream
from nodes.edge import EdgeNode
from nodes.node import Node, NodeSettings
from nodes.replayed import LiveLink, write_links
from nodes.sockets import SocketFactory
from nodes.tile import TileNode
from pipeline.model.spec import LoadedModel, load_model
from pipeline.plan import Tier
from scheduler.events import (
    DecisionRecord,
    LogDecision,
    StreamConfigured,
    StreamSettings,
    decode_line,
)
from scheduler.handmade import Tiling, plan_of
from scheduler.profile import HeldOut, Profile, Timing
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


@contextlib.contextmanager
def _serving(deciding: Deciding, log: Path) -> Iterator[tuple[SchedulerService, SchedulerAddress]]:
    """The scheduler on real sockets, with its log."""
    core, header = build_core(deciding)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    factory = SocketFactory(context)
    inbox, reports = factory.subscriber("tcp://127.0.0.1:*", bind=True)
    outbox, plans = factory.publisher("tcp://127.0.0.1:*", bind=True)
    service, stop = SchedulerService(core, inbox, outbox, EventLog(log, header)), threading.Event()
    thread = threading.Thread(target=service.run, args=(stop, 0.1))
    thread.start()
    try:
        yield service, SchedulerAddress(reports, plans)
    finally:
        stop.set()
        thread.join()
        context.term()


def _serve(deciding: Deciding, deployment: Deployment, log: Path) -> None:
    """A stream through three nodes whose plan is changed on the way, and whose edge leaves."""
    with _serving(deciding, log) as (service, address):
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


CAMERAS = ("device-1", "device-2", "device-3", "device-4")
CLOUDS = ("cloud-1", "cloud-2")
BLOCK_S = {"device": 0.5, "edge": 0.05, "cloud": 0.02}
"""By tier, of each block: made-up profiles. The first camera reaches the edge alone, the others reach the clouds."""

LIMIT_S = 60.0


@pytest.mark.timeout(120)
def test_the_log_of_tiles_batches_and_several_clouds_replays(tmp_path: Path) -> None:
    model = load_model(SPEC)
    deciding = _deciding(tmp_path, model)
    with _serving(deciding, tmp_path / "events.jsonl") as (_, address), _nodes(model, address, tmp_path) as nodes:
        devices = [node for node in nodes if isinstance(node, DeviceNode)]
        seen, until_s = set[str](), time.monotonic() + LIMIT_S

        def is_over() -> bool:
            """Frames flow until the log has all that it is to hold."""
            plans = [device.admission.plan for device in devices]
            seen.update(name for plan in plans for name in plan.nodes)
            seen.update(name for plan in plans if plan.tiles is not None for name in plan.tiles.workers)
            sizes = (size for node in nodes for size, count in node.loop.batches.counts.items() if count)
            return ({"tile-1", *CLOUDS} <= seen and max(sizes, default=1) > 1) or time.monotonic() > until_s

        threads = [threading.Thread(target=_feed, args=(device, model, is_over)) for device in devices]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        batches = [size for node in nodes for size, count in node.loop.batches.counts.items() if size > 1 and count]
    core, _ = build_core(replace(deciding, incarnation=_incarnation(tmp_path / "events.jsonl")))
    logged, made = _replayed(core, tmp_path / "events.jsonl")
    assert logged == made
    committed = [record.plan for record in logged if record.kind == "commit" and record.plan is not None]
    assert any(plan.tiles is not None and "tile-1" in plan.tiles.workers for plan in committed)
    assert {name for plan in committed for name in plan.nodes} >= set(CLOUDS)
    assert batches, "frames of several streams were computed together"


def _deciding(folder: Path, model: LoadedModel) -> Deciding:
    graph = model.captured.graph
    for tier, block_s in BLOCK_S.items():
        timing = Timing((block_s,) * len(graph.blocks))
        Profile(graph.fingerprint, graph.name, tier, timing, HeldOut(0, 0.0, 0.0)).save(folder / f"{tier}.json")
    joined = [(CAMERAS[0], "edge-1"), ("edge-1", "tile-1"), ("tile-1", "edge-1")]
    joined += [(camera, cloud) for camera in CAMERAS[1:] for cloud in CLOUDS]
    return Deciding(
        SPEC,
        planner="joint",
        profiles=tuple(f"{name}={folder / name.partition('-')[0]}.json" for name in (*CAMERAS, "edge-1", *CLOUDS)),
        links=write_links(folder, [LiveLink(*pair, "100Mbit") for pair in joined]),
        tiling=Tiling(2),
    )


@contextlib.contextmanager
def _nodes(model: LoadedModel, address: SchedulerAddress, folder: Path) -> Iterator[list[Node]]:
    """An edge with a tile worker, two clouds so slow that frames wait, and four cameras: as their profiles say."""

    def how(name: str) -> NodeSettings:
        profile = folder / f"{name.partition('-')[0]}.json"
        emulated = profile if profile.exists() else None
        return NodeSettings(name, address, batches=Batches.ROUNDING, report_interval_s=0.5, emulate_profile=emulated)

    nodes: list[Node] = [EdgeNode(how("edge-1"), model), TileNode(how("tile-1"), model)]
    nodes += [CloudNode(how(name), model) for name in CLOUDS]
    nodes += [
        DeviceNode(how(name), model, Stream(name, first_plan_timeout_s=30.0, needs_plan=True), lambda outcome: None)
        for name in CAMERAS
    ]
    try:
        for node in nodes:
            node.start()
        yield nodes
    finally:
        for node in reversed(nodes):
            node.stop()


def _feed(device: DeviceNode, model: LoadedModel, is_over: Callable[[], bool]) -> None:
    def read(offer: Callable[[Waiting], bool]) -> None:
        for number in itertools.count():
            if is_over() or not offer(waiting(number, model)):
                return

    device.run(read)
