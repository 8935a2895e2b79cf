"""`anabranch scheduler`."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path
from typing import Annotated

import typer
import zmq

from nodes.commands import options as opt
from nodes.config import read_deployment
from nodes.deciding import MAX_DROP, Deciding, build_core
from nodes.keys import Keyring, Role
from nodes.launch import stop_on_signals, stop_with_parent, tell_ready
from nodes.sockets import SocketFactory
from pipeline.model import memory
from scheduler.handmade import Tiling
from scheduler.objective import Objective
from scheduler.service import EventLog, SchedulerService

YOUNG = 20_000
"""Objects that the collector lets pass: half of what the reports of a thousand nodes are made of, each second."""


def scheduler(
    reports: Annotated[str, typer.Option(help="Where to bind the reports socket.")] = "tcp://127.0.0.1:5700",
    plans: Annotated[str, typer.Option(help="Where to bind the plans socket.")] = "tcp://127.0.0.1:5701",
    model: opt.Model = "builtin",
    weights: opt.Weights = None,
    graph: Annotated[Path | None, typer.Option(help="Block graph as JSON, instead of --model.")] = None,
    planner: Annotated[str, typer.Option(help="Who plans: fixed, joint, hpa, dyno, neurosurgeon, dads, ...")] = "fixed",
    cut: Annotated[str, typer.Option(help="Fixed planner: where each part but the last ends.")] = "",
    codec: Annotated[str, typer.Option(help="Fixed planner: codec of every link, or one per link.")] = "fp32",
    nodes: Annotated[
        str, typer.Option(help="Fixed planner: the node of each tier that takes part; device=* for any.")
    ] = "device=device-1,edge=edge-1,cloud=cloud-1",
    profile: Annotated[
        list[str] | None, typer.Option(help="NODE=FILE of `anabranch profile`, once per node; *=FILE for the others.")
    ] = None,
    calibration: Annotated[Path | None, typer.Option(help="What packing costs, from `anabranch calibrate`.")] = None,
    objective: opt.Goals = "throughput,latency",
    max_drop: opt.MaxDrop = MAX_DROP,
    tiles: opt.Tiles = 0,
    tile_stacks: opt.TileStacks = "",
    tile_codec: opt.TileCodec = "fp32",
    links: Annotated[
        Path | None, typer.Option(help="links.json of a replay: no other links are planned with.", hidden=True)
    ] = None,
    log: Annotated[Path | None, typer.Option(help="Write all events and decisions here (events.jsonl).")] = None,
    config: opt.Config = None,
    keys: opt.Keys = None,
    insecure: opt.Insecure = False,
    child: opt.Child = False,
) -> None:
    """Start the scheduler: it hears all nodes' reports and tells them their plans.

    Example: anabranch scheduler --model builtin --cut stage1,stage3
    """
    deciding = Deciding(
        model, weights, graph, planner, cut, codec, nodes, tuple(profile or ()), calibration,
        Objective.parse(objective, max_drop=max_drop), links, Tiling(tiles, tile_stacks, tile_codec),
    ).resolved(config)  # fmt: skip
    if config is not None:
        deployment = read_deployment(config)
        address, insecure = deployment.scheduler.address, deployment.insecure
        reports, plans, keys = address.reports, address.plans, deployment.keys
    stop = threading.Event()
    stop_on_signals(stop.set)
    if child:
        stop_with_parent(stop.set)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    factory = SocketFactory(context, insecure, Keyring.of_role(keys, Role.SCHEDULER) if keys is not None else None)
    core, header = build_core(deciding)
    with contextlib.ExitStack() as stack:
        stack.callback(context.term)
        inbox, reports = factory.subscriber(reports, bind=True)
        stack.callback(inbox.close)
        outbox, plans = factory.publisher(plans, bind=True)
        stack.callback(outbox.close)
        events = EventLog(log, header) if log is not None else None
        memory.settle(YOUNG)
        tell_ready({"reports": reports, "plans": plans})
        SchedulerService(core, inbox, outbox, events).run(stop)
