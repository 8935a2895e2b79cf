"""`anabranch calibrate`: what each codec costs at each cut, in bytes, time and accuracy."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import msgspec
import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from nodes.commands import options as opt
from pipeline.calibrate import Calibration, Entry, Estimate
from pipeline.frames.sources import open_source
from pipeline.model.spec import load_model
from pipeline.packing.campaign import Job
from pipeline.packing.campaign import calibrate as run_campaign
from pipeline.packing.measure import Settings

PLAIN_WIDTH = 160
"""Columns of the table where the output is no terminal."""


def calibrate(
    frames: Annotated[str, typer.Option(help="Pictures or video to measure on: of the kind that will be streamed.")],
    out: Annotated[Path, typer.Option(help="Table to write.")],
    model: opt.Model = "builtin",
    weights: opt.Weights = None,
    labels: Annotated[Path | None, typer.Option(help="CSV with a header, then file name and class.")] = None,
    cuts: Annotated[str, typer.Option(help="Cuts to measure, comma-separated; default: those a plan may choose.")] = "",
    codecs: Annotated[str, typer.Option(help="Codecs to measure, comma-separated; default: by tensor.")] = "",
    limit: Annotated[int | None, typer.Option(help="Frames to measure at most.", min=1)] = None,
    batch: Annotated[int, typer.Option(help="Frames between two points at which it can be stopped.", min=1)] = 16,
    pairs: Annotated[int, typer.Option(help="Pairs of lossy links to measure at most.", min=0)] = 24,
    max_drop: opt.MaxDrop = 0.01,
    torch_device: opt.TorchDevice = "cpu",
    threads: opt.TorchThreads = 1,
    plot: Annotated[Path | None, typer.Option(help="Plot of accuracy against bytes: .svg, .png or .pdf.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the table as one JSON object.")] = False,
) -> None:
    """Measure codecs at cuts, for your own model and frames.

    It can be stopped (Ctrl-C) and started again with the same options: it goes on where it was. Temporal codecs are
    measured where frames follow each other in time (videos, scenes), not on folders of pictures.

    Examples:

        anabranch calibrate --frames scene: --limit 64 --out builtin.calibration

        anabranch calibrate --model my.network:build --weights w.pth --frames pictures/ --out my.calibration
    """
    if threads:
        torch.set_num_threads(threads)
    source = open_source(frames, limit=1)
    ordered = source.fps is not None
    source.close()
    settings = Settings(_names(cuts), _names(codecs), ordered, torch_device)
    loaded = load_model(model, weights=weights)
    job = Job(frames, out, labels, limit, batch, pairs, max_drop, settings)
    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console,
        disable=not console.is_terminal,
    ) as progress:  # fmt: skip
        task = progress.add_task("calibrating", total=limit)
        table = run_campaign(loaded, job, lambda done, what: progress.update(task, completed=done, description=what))
    if plot is not None:
        draw(table, plot)
    if json:
        typer.echo(msgspec.json.encode(table))
    else:
        shown = Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH)
        shown.print(as_table(table, max_drop), highlight=False)
        shown.print(_summary(table, out), highlight=False)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def as_table(table: Calibration, max_drop: float) -> Table:
    """The smallest few codecs of each cut that keep the bound, and for each cut what comes next where none does."""
    title = f"{table.model} on {table.frames} frames of {table.source}"
    shown = Table(title=title, title_justify="left")
    for column in ("cut", "codec", "bytes p50", "p95", "encode ms", "decode ms", "SNR dB", "agreement %", "drop %"):
        shown.add_column(column, justify="left" if column in ("cut", "codec") else "right")
    for cut, by_codec in table.by_cut.items():
        for entry in best_entries(list(by_codec.values()), max_drop):
            snr = "exact" if entry.snr_db is None else f"{entry.snr_db:.1f}"
            drop = "" if entry.drop is None else _percent(entry.drop)
            shown.add_row(
                cut, entry.codec, f"{entry.bytes_p50:.0f}", f"{entry.bytes_p95:.0f}", f"{1e3 * entry.encode_s:.2f}",
                f"{1e3 * entry.decode_s:.2f}", snr, _percent(entry.agreement), drop,
            )  # fmt: skip
    return shown


def best_entries(entries: list[Entry], max_drop: float, count: int = 4) -> list[Entry]:
    """The entries of fewest bytes that keep the bound, smallest first; the most exact one where none keeps it."""
    kept = sorted((e for e in entries if e.loss.value <= max_drop), key=lambda e: e.bytes_p50)
    return kept[:count] or [min(entries, key=lambda e: e.loss.value)]


def _percent(estimate: Estimate) -> str:
    return f"{100 * estimate.value:.1f} ({100 * estimate.low:.1f}..{100 * estimate.high:.1f})"


def _summary(table: Calibration, out: Path) -> str:
    accuracy = "" if table.accuracy is None else f"; top-1 at full precision {_percent(table.accuracy)} %"
    skipped = f"; {len(table.skipped)} cuts left out as dominated" if table.skipped else ""
    return (
        f"{len(table.entries)} rows and {len(table.pairs)} pairs in {out}{accuracy}{skipped}. "
        "Shown: per cut the smallest codecs within the bound. Intervals are at 95 %."
    )


def draw(table: Calibration, path: Path) -> None:
    """Plot the accuracy drop (or, without labels, the share of changed answers) against bytes, a line per cut."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(10, 6), dpi=110, layout="constrained")
    for place, (cut, by_codec) in enumerate(table.by_cut.items()):
        front = pareto(list(by_codec.values()))
        points = [entry.bytes_p50 for entry in front], [100 * entry.loss.value for entry in front]
        colour = pyplot.get_cmap("viridis")(0.92 * place / len(table.by_cut))
        axes.plot(*points, marker=".", label=cut, color=colour)
        for entry, x, y in zip(front, *points, strict=True) if len(front) > 1 else ():
            axes.annotate(
                entry.codec, (x, y), xytext=(2, 3), textcoords="offset points", color=colour, fontsize=6.5, rotation=45,
                annotation_clip=True,
            )  # fmt: skip
    axes.set(xscale="log", xlabel="bytes of a frame over the link (median)")
    figure.suptitle(
        f"{table.model}, {table.frames} frames: bytes against accuracy", fontweight="bold", x=0.01, ha="left"
    )
    axes.set_title("a line per cut of the network; of its codecs those that none beats", loc="left", fontsize=9)
    axes.set_ylabel("top-1 accuracy lost (percentage points)" if table.labelled else "answers changed (%)")
    axes.set_ylim(top=min(axes.get_ylim()[1], 20))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", fontsize=7.5, frameon=False, title="cut", alignment="left")
    figure.savefig(path)
    pyplot.close(figure)


def pareto(entries: list[Entry]) -> list[Entry]:
    """Entries for which none has fewer bytes and no greater loss; by bytes, ascending."""
    front: list[Entry] = []
    for entry in sorted(entries, key=lambda e: (e.bytes_p50, e.loss.value)):
        if not front or entry.loss.value < front[-1].loss.value:
            front.append(entry)
    return front
