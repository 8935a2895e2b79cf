"""`anabranch replay`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from nodes.admission import Admit
from nodes.commands import options as opt
from nodes.commands.device import Annotate, Frames, Source
from nodes.deciding import MAX_DROP
from nodes.local import LocalRun, RunSettings, default_run_dir
from nodes.parsing import parse_links, parse_speeds, parse_tiers
from nodes.report_html import write_report
from nodes.report_view import summary_table
from nodes.run_record import load_run
from traces.units import parse_time_s


def replay(
    trace: Annotated[list[str], typer.Option(help="LINK=TRACE: device-edge=lte-driving-1, edge-cloud=20Mbit, ...")],
    source: Source = "scene:",
    model: opt.Model = "builtin",
    weights: opt.Weights = None,
    labels: opt.Labels = None,
    frames: Frames = None,
    admit: Annotated[Admit, typer.Option("--admit", help="What a full window does to the source.")] = Admit.EVERY,
    policy: Annotated[str, typer.Option(help="joint, hpa, dyno, dads, device-only, cloud-only.")] = "joint",
    objective: opt.Goals = "throughput,latency",
    max_drop: opt.MaxDrop = MAX_DROP,
    calibration: Annotated[Path | None, typer.Option(help="What packing costs, from `anabranch calibrate`.")] = None,
    delay: Annotated[str, typer.Option(help="Propagation of every shaped link, one way.")] = "0ms",
    tiers: Annotated[str, typer.Option(help="Which tiers take part.")] = "device,edge,cloud",
    emulate_speed: Annotated[str, typer.Option(help="Emulate slower nodes: device=0.25,edge=0.5.")] = "",
    annotate: Annotate = None,
    run_dir: Annotated[Path | None, typer.Option(help="Where the run is kept; runs/TIME-MODEL by default.")] = None,
) -> None:
    """Run the real processes behind links that replay bandwidth traces, and report on one time axis.

    Example: anabranch replay --trace device-edge=lte-driving-1 --trace edge-cloud=50Mbit --frames 600
    """
    settings = RunSettings(
        source, run_dir or default_run_dir(model), model, weights, labels, frames, admit, annotate,
        tiers=parse_tiers(tiers), speeds=parse_speeds(emulate_speed), policy=policy, objective=objective,
        max_drop=max_drop, calibration=calibration, links=parse_links(trace), delay_s=parse_time_s(delay),
    )  # fmt: skip
    console = Console()
    console.print(summary_table(LocalRun(settings, console).run()))
    report = write_report(load_run(settings.run_dir), settings.run_dir)
    console.print(f"report: {report}", highlight=False)
