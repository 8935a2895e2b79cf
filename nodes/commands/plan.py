"""`anabranch plan`: the best plan for given machines and links, and why."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from nodes import plan_view
from nodes.commands import options as opt
from nodes.parsing import read_plan
from nodes.planning import PlanOptions, build_problem, parse_sweep
from pipeline.errors import ConfigError
from pipeline.model.spec import load_model
from scheduler.events import ADAPTIVE
from scheduler.explain import explain, geometric, sweep
from scheduler.objective import Objective
from scheduler.planners import NAMES, make
from traces.units import parse_time_s

PLAIN_WIDTH = 160
"""Columns where the output is no terminal."""

SWEEP_POINTS = 25


def plan(
    model: opt.Model = "builtin",
    weights: opt.Weights = None,
    node: Annotated[
        list[str] | None,
        typer.Option(
            help="TIER=SPEED in FLOP/s (device=20G), or TIER=PROFILE.json[@FRACTION] of `anabranch profile`.",
            metavar="TIER=VALUE",
        ),
    ] = None,
    link: Annotated[
        list[str] | None, typer.Option(help="HOP=RATE[,RTT[,UNCERTAINTY]].", metavar="HOP=RATE,RTT")
    ] = None,
    load: Annotated[list[str] | None, typer.Option(help="TIER=SLOWDOWN[,UNCERTAINTY].")] = None,
    calibration: Annotated[Path | None, typer.Option(help="Table of `anabranch calibrate`.")] = None,
    planner: Annotated[str, typer.Option(help=f"Who plans: {', '.join(NAMES)}.")] = "joint",
    fixed: Annotated[Path | None, typer.Option(help="Plan file of the planner `fixed`.")] = None,
    objective: Annotated[
        str,
        typer.Option(help="Goals in order: throughput, latency, bytes, cloud, energy; `latency~5%` has a tolerance."),
    ] = "throughput,latency",
    max_latency: Annotated[str, typer.Option(help="Bound, such as 80ms.")] = "",
    max_drop: Annotated[float, typer.Option(help="Largest loss of accuracy; 0.01 is one point.", min=0.0)] = 0.01,
    min_fps: Annotated[float | None, typer.Option(help="Bound on frames/s.")] = None,
    max_bytes: Annotated[float | None, typer.Option(help="Bound on bytes per second over all links.")] = None,
    max_memory: Annotated[float | None, typer.Option(help="Bound on the device's memory, in MB.")] = None,
    private_until: Annotated[
        str | None, typer.Option(help="Block before which no tensor leaves the device.", metavar="BLOCK")
    ] = None,
    pictures_stay: Annotated[bool, typer.Option("--pictures-stay", help="No picture goes to the cloud.")] = False,
    quantile: Annotated[float, typer.Option(help="Plan for links this bad: 0.9 is one time in ten.")] = 0.5,
    tiles: Annotated[int, typer.Option(help="Machines that share the edge stage, itself included.", min=1)] = 1,
    tile_link: Annotated[str, typer.Option(help="Rate between them.")] = "1Gbit",
    fps: Annotated[float, typer.Option(help="Frame rate of the source; 0: as fast as it goes.", min=0.0)] = 0.0,
    power: Annotated[str, typer.Option(help="Watts of the device: computing[,sending].")] = "",
    sweep_link: Annotated[
        str, typer.Option("--sweep", help="HOP=LOW:HIGH: how the choice moves with a link's rate.", metavar="HOP=A:B")
    ] = "",
    out: Annotated[Path | None, typer.Option(help="Write the plan to this file.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print everything as one JSON object.")] = False,
) -> None:
    """Find the best split, codecs and tiles, and explain the choice.

    Without profiles and calibration, times and sizes follow from arithmetic and stated assumptions (docs/planner.md).

    Examples:

        anabranch plan --node device=20G --node edge=200G --node cloud=2T --link device-edge=40Mbit,4ms --link edge-cloud=20Mbit,20ms

        anabranch plan --node device=laptop.json@0.2 --node cloud=laptop.json --link device-cloud=5Mbit,30ms --objective latency

        anabranch plan --sweep device-edge=1:200Mbps
    """  # noqa: E501
    captured = load_model(model, weights=weights).captured
    asked = Objective.parse(
        objective, max_latency_s=_seconds(max_latency), max_drop=max_drop, min_fps=min_fps, max_bytes_per_s=max_bytes,
        max_device_bytes=None if max_memory is None else max_memory * 1e6, private_until=private_until,
        pictures_stay_at_edge=pictures_stay, quantile=quantile,
    )  # fmt: skip
    options = PlanOptions(
        nodes=tuple(node or ("device=20G", "edge=200G", "cloud=2T")),
        links=tuple(link or ("device-edge=40Mbit,4ms", "edge-cloud=20Mbit,20ms", "device-cloud=10Mbit,24ms")),
        loads=tuple(load or ()), calibration=calibration, tiles=tiles, tile_link=tile_link, fps=fps, power=power,
        objective=asked,
    )  # fmt: skip
    problem = build_problem(captured, options, planner == ADAPTIVE)
    chooser = make(planner, read_plan(fixed) if fixed else None)
    console = Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH)
    if sweep_link:
        hop, low, high = parse_sweep(sweep_link)
        if not problem.has(hop):
            raise ConfigError(f"--sweep {sweep_link}", "no such link in this problem", "give it with --link")
        points = sweep(problem, chooser, hop, geometric(low, high, SWEEP_POINTS))
        if json:
            typer.echo(msgspec.json.encode(plan_view.sweep_data(points)))
        else:
            console.print(plan_view.sweep_table(problem.graph, points))
        return
    found = explain(problem, chooser)
    if out is not None:
        out.write_bytes(msgspec.json.format(msgspec.json.encode(found.decision.plan)))
    if json:
        typer.echo(msgspec.json.encode(plan_view.as_data(found)))
    else:
        console.print(plan_view.render(problem.graph, found))


def _seconds(text: str) -> float | None:
    return parse_time_s(text) if text else None
