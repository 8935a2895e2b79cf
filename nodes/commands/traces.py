"""`anabranch traces`: bandwidth over time, to look at, convert and make."""

from __future__ import annotations

import json as jsonlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from nodes.launch import stop_on_signals
from nodes.recording import record_folder, record_live
from pipeline.errors import ConfigError
from traces.errors import TraceError
from traces.formats import FORMATS, ReadOptions, read_traces, write_trace
from traces.library import KINDS, library_trace, names, synthesise
from traces.load import load_trace
from traces.plots import save_plot
from traces.stats import TraceStats, trace_stats
from traces.trace import Trace
from traces.units import format_rate, parse_time_s

app = typer.Typer(help="List, show, plot, convert and make bandwidth traces.", no_args_is_help=True)

Spec = Annotated[str, typer.Argument(help="A file (`log.csv#3`: its third run), a library name, or a rate: 20Mbit.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Format = Annotated[str | None, typer.Option("--format", help=f"Format of the file read: {', '.join(FORMATS)}.")]
TimeColumn = Annotated[str | None, typer.Option(help="Time column of a table: its name, or its number from 1.")]
RateColumn = Annotated[str | None, typer.Option(help="Rate column of a table: its name, or its number from 1.")]
TimeUnit = Annotated[str | None, typer.Option(help="s, ms, us, ns, min or h.")]
RateUnit = Annotated[str | None, typer.Option(help="bit/s, kbit/s, Mbit/s, Gbit/s, or `bytes` since the line before.")]

SUFFIXES = {"mahimahi": "down", "columns": "txt"}
"""Where a file's suffix is not its format's name."""


@contextmanager
def trace_errors() -> Iterator[None]:
    """A trace's error as one of the project's, which the command line prints as one line."""
    try:
        yield
    except TraceError as error:
        where = error.thing if error.line is None else f"{error.thing}, line {error.line}"
        raise ConfigError(where, error.condition, error.mend) from error


@app.command("list")
def list_traces(
    folder: Annotated[Path | None, typer.Argument(help="All files below this folder, not the library.")] = None,
    json: Json = False,
) -> None:
    """List the library's traces, or all traces of a folder, with their figures.

    Examples:

        anabranch traces list

        anabranch traces list recordings/ --json
    """
    with trace_errors():
        traces = [library_trace(name) for name in names()] if folder is None else _in_folder(folder)
    _print_stats(traces, json)


@app.command()
def show(
    spec: Spec,
    format: Format = None,
    time_column: TimeColumn = None,
    rate_column: RateColumn = None,
    time_unit: TimeUnit = None,
    rate_unit: RateUnit = None,
    json: Json = False,
) -> None:
    """Show the figures of a trace; of a file with several runs, of each.

    Examples:

        anabranch traces show lte-driving

        anabranch traces show drive.csv --rate-column UL_bitrate --rate-unit kbit/s
    """
    options = ReadOptions(format, time_column, rate_column, time_unit, rate_unit)
    with trace_errors():
        traces = read_traces(spec, options) if Path(spec).is_file() else [load_trace(spec, options)]
    _print_stats(traces, json)


@app.command()
def plot(
    specs: Annotated[list[str], typer.Argument(help="Traces for one picture: files, library names or rates.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Picture: .png, .svg or .pdf.")] = Path("traces.png"),
    title: Annotated[str, typer.Option(help="Heading of the picture.")] = "",
) -> None:
    """Draw rate over time and the distribution of the rates.

    Example:

        anabranch traces plot starlink.down starlink.up -o starlink.png
    """
    with trace_errors():
        typer.echo(str(save_plot([load_trace(spec) for spec in specs], out, title)))


@app.command()
def convert(
    spec: Spec,
    out: Annotated[Path, typer.Argument(help="File to write; .csv, .down, .up and .oboe say the format, .gz packs.")],
    format: Format = None,
    time_column: TimeColumn = None,
    rate_column: RateColumn = None,
    time_unit: TimeUnit = None,
    rate_unit: RateUnit = None,
    to: Annotated[str | None, typer.Option(help=f"Format to write: {', '.join(FORMATS)}.")] = None,
    start: Annotated[str, typer.Option(help="Begin at this time of the trace.")] = "0s",
    end: Annotated[str | None, typer.Option(help="End at this time; past its end the trace begins again.")] = None,
    scale: Annotated[float, typer.Option(help="Multiply all rates.", min=0.0)] = 1.0,
    step: Annotated[str | None, typer.Option(help="Even steps of this length, each with its mean rate.")] = None,
) -> None:
    """Write a trace in another format; cut, scale and resample it on the way.

    Examples:

        anabranch traces convert drive.csv drive.down

        anabranch traces convert lte-walking.up walk.csv --start 30s --end 90s --step 1s --scale 0.5
    """
    options = ReadOptions(format, time_column, rate_column, time_unit, rate_unit)
    with trace_errors():
        trace = load_trace(spec, options)
        if end is not None or parse_time_s(start) > 0:
            trace = trace.slice(parse_time_s(start), parse_time_s(end) if end else trace.duration_s)
        trace = trace.scale(scale) if scale != 1.0 else trace
        trace = trace.resample(parse_time_s(step)) if step else trace
        path = write_trace(trace, out, to)
    typer.echo(f"{path}: {trace.duration_s:.1f} s, mean {format_rate(trace.mean_bps)}")


@app.command()
def record(
    run: Annotated[Path | None, typer.Argument(help="Folder of a finished run.")] = None,
    attach: Annotated[
        str, typer.Option(help="Or the plan socket of a scheduler that runs, tcp://HOST:PORT; Ctrl-C ends it.")
    ] = "",
    seconds: Annotated[float | None, typer.Option(help="With --attach: record for so long.", min=0.1)] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for one file per link and direction.")] = Path("."),
    step: Annotated[str, typer.Option(help="Length of the traces' steps.")] = "1s",
    to: Annotated[str, typer.Option(help=f"Format to write: {', '.join(FORMATS)}.")] = "csv",
) -> None:
    """Write the throughput that a run's nodes measured as a trace per link and direction.

    Examples:

        anabranch traces record runs/field --out traces/field

        anabranch traces record --attach tcp://10.0.0.1:5701 --seconds 600 --out traces/field
    """
    if (run is None) == (not attach):
        raise ConfigError("traces record", "one of a run's folder and --attach is wanted")
    with trace_errors():
        step_s = parse_time_s(step)
        found = record_folder(run, step_s) if run is not None else _record_attached(attach, seconds, step_s)
        if not found:
            raise TraceError("recording", "no link carried anything that could be timed", "record while frames cross")
        out.mkdir(parents=True, exist_ok=True)
        for trace in found.values():
            typer.echo(str(write_trace(trace, out / f"{trace.name}.{SUFFIXES.get(to, to)}", to)))
    _print_stats(list(found.values()), json=False)


def _record_attached(plans: str, seconds: float | None, step_s: float) -> dict[tuple[str, str], Trace]:
    stop = threading.Event()
    stop_on_signals(stop.set)
    timer = threading.Timer(seconds or threading.TIMEOUT_MAX, stop.set)
    timer.daemon = True
    timer.start()
    try:
        return record_live(plans, stop, step_s)
    finally:
        timer.cancel()


@app.command()
def synth(
    kind: Annotated[str, typer.Argument(help=f"One of {', '.join(KINDS)}.")],
    out: Annotated[Path, typer.Argument(help="File to write; `.up` and `.down` (or -up, -down) are added.")],
    seed: Annotated[int, typer.Option(help="The same seed gives the same trace.", min=0)] = 1,
    duration: Annotated[str, typer.Option(help="Length.")] = "4min",
    to: Annotated[str | None, typer.Option(help=f"Format to write: {', '.join(FORMATS)}.")] = None,
) -> None:
    """Make a pair of traces, down and up, of a kind of link.

    Example:

        anabranch traces synth lte-driving commute.csv --seed 7 --duration 10min
    """
    with trace_errors():
        if kind not in KINDS:
            raise TraceError(f"kind {kind!r}", "is unknown", f"use one of {', '.join(KINDS)}")
        for way, trace in zip(("down", "up"), synthesise(kind, KINDS[kind], seed, parse_time_s(duration)), strict=True):
            # Without a suffix, .down and .up are the suffix, which names mahimahi's format.
            name = f"{out.stem}-{way}{out.suffix}" if out.suffix else f"{out.name}.{way}"
            path = write_trace(trace, out.with_name(name), to)
            typer.echo(f"{path}: {trace.duration_s:.1f} s, mean {format_rate(trace.mean_bps)}")


def _in_folder(folder: Path) -> list[Trace]:
    if not folder.is_dir():
        raise TraceError(str(folder), "is no folder", "give a folder of traces, or none for the library")
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    traces: list[Trace] = []
    for path in files:
        try:
            traces += read_traces(path)
        except TraceError as error:
            typer.echo(f"skipped: {error}", err=True)
    return traces


def _print_stats(traces: list[Trace], json: bool) -> None:
    rows = [(trace, trace_stats(trace)) for trace in traces]
    if json:
        typer.echo(jsonlib.dumps([{"name": trace.name, **asdict(stats)} for trace, stats in rows], indent=2))
        return
    table = Table(
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        caption="rates in Mbit/s, over windows of 1 s",
        caption_justify="left",
        pad_edge=False,
    )
    table.add_column("name", overflow="fold", min_width=min(24, max((len(trace.name) for trace in traces), default=0)))
    for title in ("s", "mean", "p5", "median", "p95", "cv", "down", "longest", "corr."):
        table.add_column(title, justify="right", no_wrap=True)
    for trace, stats in rows:
        table.add_row(trace.name, *_cells(stats))
    Console().print(table)


def _cells(stats: TraceStats) -> list[str]:
    rates = (stats.mean_bps, stats.p5_bps, stats.p50_bps, stats.p95_bps)
    return [
        f"{stats.duration_s:.0f}",
        *(f"{rate / 1e6:.3g}" if rate < 999.5e6 else f"{rate / 1e6:.0f}" for rate in rates),
        f"{stats.cv:.2f}",
        f"{stats.outage_share:.1%}",
        f"{stats.longest_outage_s:.0f} s",
        f"{stats.correlation_s:.0f} s",
    ]
