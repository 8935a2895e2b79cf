"""`anabranch simulate`."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from nodes.admission import Admit
from nodes.commands import options as opt
from nodes.commands.traces import trace_errors
from nodes.parsing import parse_speeds, parse_tiers
from nodes.report.html import write_report
from nodes.report.view import switches_table
from nodes.simulation import SimulationOptions, build_scenario, record_rows
from pipeline.errors import ConfigError
from pipeline.frames.sources import open_source
from scheduler.simulate import simulate as run_simulation
from scheduler.simulate.record import RunRecord
from scheduler.simulate.scenario import POLICIES

Profiles = Annotated[
    list[str],
    typer.Option(
        "--profile", help="TIER=FILE: a measured profile (`anabranch profile`) instead of a speed.", metavar="TIER=FILE"
    ),
]

Pictures = Annotated[Path | None, typer.Option(help="As a replay takes it: without effect, there are no pictures.")]
Policy = Annotated[str, typer.Option(help=f"Who plans: {', '.join(POLICIES)}.")]


def simulate(
    trace: opt.Traces,
    source: Annotated[str, typer.Option(help="Under --admit latest, its frame rate counts; see also --fps.")] = "",
    model: opt.Model = "builtin",
    weights: opt.Weights = None,
    policy: Policy = "joint",
    objective: Annotated[str, typer.Option(help="Goals in order: throughput, latency, bytes, ...")] = (
        "throughput,latency"
    ),
    max_drop: Annotated[float, typer.Option(help="Largest loss of accuracy; 0.01 is one point.")] = 0.01,
    device_speed: Annotated[str, typer.Option(help="FLOP/s of the device; 20G is a single-board computer.")] = "20G",
    edge_speed: Annotated[str, typer.Option(help="FLOP/s of the edge; 200G is a desktop's CPU.")] = "200G",
    cloud_speed: Annotated[str, typer.Option(help="FLOP/s of the cloud; 2T is an accelerator at batch 1.")] = "2T",
    emulate_speed: Annotated[
        str, typer.Option(help="As in a replay: nodes as shares of this machine's speed, which is measured.")
    ] = "",
    profile: Profiles = [],  # noqa: B006 - Typer copies it
    calibration: Annotated[
        Path | None, typer.Option(help="Measured packing table (`anabranch calibrate`) instead of assumed sizes.")
    ] = None,
    delay: opt.Delays = None,
    workers: Annotated[int, typer.Option(help="Tile workers: the edge is as much faster, at 80% each.", min=0)] = 0,
    seconds: Annotated[float, typer.Option(help="The source ends after this.", min=0.1)] = 60.0,
    frames: Annotated[int | None, typer.Option(help="Or after so many frames.", min=1)] = None,
    fps: Annotated[float, typer.Option(help="Frame rate of the source; 0: as fast as it goes.", min=0.0)] = 0.0,
    admit: Annotated[Admit, typer.Option(help="What a full window does to the source.")] = Admit.EVERY,
    streams: Annotated[int, typer.Option(help="Cameras, each on a device and an access link of its own.", min=1)] = 1,
    tiers: Annotated[str, typer.Option(help="Which tiers take part.")] = "device,edge,cloud",
    cut: opt.Cut = "",
    codec: opt.Codec = "fp32",
    noise: Annotated[
        float | None, typer.Option(help="Log deviation of every service time: 0.05, emulated 0.01.", min=0.0)
    ] = None,
    labels: Pictures = None,
    annotate: Pictures = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same run.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option("--out", "--run-dir", help="Folder for record.json, report.html and its pictures."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the totals as JSON.")] = False,
) -> None:
    """Simulate a deployment on traces, with the live scheduler, estimators, credit window and switch protocol.

    It takes the options of `anabranch replay`; with --emulate-speed, it simulates that very run on this machine.
    Without profiles, a node's times are analytic: each block takes the longer of its arithmetic at the given FLOP/s
    and its memory traffic at a fifth of that in bytes/s. Without a calibration, packed sizes are those of plain
    quantisation and of typical photographs, and the accuracy drops are assumed (docs/simulator.md lists them).

    Examples:

        anabranch simulate --trace device-edge=lte-driving --trace edge-cloud=100Mbit --model builtin

        anabranch simulate --trace device-cloud=5Mbit --policy dyno --objective latency --fps 5 --out runs/dyno
    """
    options = SimulationOptions(
        model, policy, objective, max_drop,
        {"device": device_speed, "edge": edge_speed, "cloud": cloud_speed}, parse_speeds(emulate_speed),
        tuple(profile), calibration, tuple(trace), tuple(delay or ()), workers, seconds, frames,
        fps or _fps_of(source, admit), admit.value, streams, parse_tiers(tiers), cut, codec, noise, seed, weights,
    )  # fmt: skip
    del labels, annotate
    with trace_errors():
        scenario = build_scenario(options)
    begin = time.perf_counter()
    record = run_simulation(scenario)
    took_s = time.perf_counter() - begin
    if out is not None:
        record.save(out)
        write_report(record, out)
    if json:
        typer.echo(_as_json(record))
        return
    console = Console()
    console.print(totals_table(record))
    if streams == 1:
        console.print(switches_table(record))
    console.print(f"{record.events:,} events in {took_s:.1f} s", highlight=False)
    if out is not None:
        console.print(f"report: {out / 'report.html'}", highlight=False)


def _fps_of(source: str, admit: Admit) -> float:
    """The frame rate at which a source gives frames: its own, where the newest one replaces the waiting one."""
    if not source:
        return 0.0
    with contextlib.closing(open_source(source)) as opened:
        return (opened.fps or 0.0) if admit is Admit.LATEST or opened.live else 0.0


def totals_table(record: RunRecord) -> Table:
    """The totals of a run, for people."""
    table = Table(title=f"{record.model}: {record.policy}, {record.objective}", title_justify="left", show_header=False)
    for name, value in record_rows(record):
        table.add_row(name, value)
    return table


def _as_json(record: RunRecord) -> str:
    import msgspec

    fields = ("title", "kind", "policy", "model", "objective", "seconds", "streams", "about", "events")
    if not record.frames.frame:
        raise ConfigError("simulation", "no frame has a result", "give it more seconds")
    head = {name: getattr(record, name) for name in fields}
    return msgspec.json.encode({**head, "totals": record.totals}).decode()
