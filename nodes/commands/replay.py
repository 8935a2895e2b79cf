"""`anabranch replay`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from nodes.admission import Admit
from nodes.commands import options as opt
from nodes.commands.device import Annotate, Frames, Seconds, Source
from nodes.commands.simulate import Policy
from nodes.commands.traces import trace_errors
from nodes.deciding import MAX_DROP
from nodes.local.run import LocalRun, RunSettings, default_run_dir
from nodes.parsing import parse_delays, parse_links, parse_speeds, parse_tiers
from nodes.report.html import write_report
from nodes.report.record import load_run
from nodes.report.view import summary_table, switches_table
from scheduler.simulate.scenario import DELAYS_S


def replay(
    trace: opt.Traces,
    source: Source = "scene:",
    model: opt.Model = "builtin",
    weights: opt.Weights = None,
    labels: opt.Labels = None,
    frames: Frames = None,
    seconds: Seconds = None,
    admit: Annotated[Admit, typer.Option("--admit", help="What a full window does to the source.")] = Admit.EVERY,
    policy: Policy = "joint",
    objective: opt.Goals = "throughput,latency",
    max_drop: opt.MaxDrop = MAX_DROP,
    calibration: Annotated[Path | None, typer.Option(help="What packing costs, from `anabranch calibrate`.")] = None,
    delay: opt.Delays = None,
    tiers: Annotated[str, typer.Option(help="Which tiers take part.")] = "device,edge,cloud",
    emulate_speed: Annotated[str, typer.Option(help="Emulate slower nodes: device=0.25,edge=0.5.")] = "",
    cut: opt.Cut = "",
    codec: opt.Codec = "fp32",
    annotate: Annotate = None,
    run_dir: Annotated[Path | None, typer.Option(help="Where the run is kept; runs/TIME-MODEL by default.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the totals as JSON.")] = False,
) -> None:
    """Run the real processes behind links that replay bandwidth traces, and report on one time axis.

    Only links with a trace are there. `anabranch simulate` takes the same options and simulates the same run.

    Example: anabranch replay --trace device-edge=lte-driving-1 --trace edge-cloud=50Mbit --frames 600
    """
    with trace_errors():
        delays = parse_delays(delay or (), DELAYS_S)
    settings = RunSettings(
        source, run_dir or default_run_dir(model), model, weights, labels, frames, admit, annotate, cut, codec,
        parse_tiers(tiers), parse_speeds(emulate_speed), policy=policy, objective=objective,
        max_drop=max_drop, calibration=calibration, links=parse_links(trace), delays=delays, seconds=seconds,
    )  # fmt: skip
    console = Console(stderr=json)
    with trace_errors():
        summary = LocalRun(settings, console).run()
    record = load_run(settings.run_dir)
    report = write_report(record, settings.run_dir)
    if json:
        typer.echo(msgspec.json.encode({"run": str(settings.run_dir), "totals": record.totals}).decode())
        return
    console.print(summary_table(summary))
    console.print(switches_table(record))
    console.print(f"report: {report}", highlight=False)
