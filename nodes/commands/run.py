"""`anabranch run`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from nodes.admission import Admit
from nodes.commands import options as opt
from nodes.commands.device import Annotate, Frames, Seconds, Source
from nodes.deciding import MAX_DROP
from nodes.local.run import LocalRun, RunSettings, default_run_dir
from nodes.parsing import parse_delays, parse_links, parse_speeds, parse_tiers
from nodes.report.view import summary_table
from scheduler.handmade import Tiling


def run(
    source: Source = "scene:",
    model: opt.Model = "builtin",
    weights: opt.Weights = None,
    labels: opt.Labels = None,
    frames: Frames = None,
    seconds: Seconds = None,
    admit: Annotated[Admit, typer.Option("--admit", help="What a full window does to the source.")] = Admit.EVERY,
    cut: Annotated[str, typer.Option(help="Where each part but the last ends, comma-separated; empty: even.")] = "",
    codec: Annotated[str, typer.Option(help="Codec of every link, or one per link.")] = "fp32",
    tiers: Annotated[str, typer.Option(help="Which tiers take part.")] = "device,edge,cloud",
    tiles: opt.Tiles = 0,
    tile_stacks: opt.TileStacks = "",
    tile_codec: opt.TileCodec = "fp32",
    emulate_speed: Annotated[
        str, typer.Option(help="Emulate slower nodes: device=0.25,edge=0.5 of this machine's speed.")
    ] = "",
    policy: Annotated[str, typer.Option(help="Who plans: fixed, joint, hpa, dyno, dads, ...")] = "fixed",
    objective: opt.Goals = "throughput,latency",
    max_drop: opt.MaxDrop = MAX_DROP,
    calibration: Annotated[Path | None, typer.Option(help="What packing costs, from `anabranch calibrate`.")] = None,
    trace: Annotated[
        list[str] | None, typer.Option(help="LINK=TRACE: shape a link, for example device-edge=lte-driving-1.")
    ] = None,
    delay: opt.Delays = None,
    annotate: Annotate = None,
    run_dir: Annotated[Path | None, typer.Option(help="Where the run is kept; runs/TIME-MODEL by default.")] = None,
    torch_device: opt.TorchDevice = "cpu",
    keys: Annotated[
        str, typer.Option(help="Encrypt everything: a folder of keys, or `new` for keys that last for this run.")
    ] = "",
    json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Run a video through device, edge and cloud, each a process of its own on this machine.

    Examples:

        anabranch run --source scene: --frames 300

        anabranch run --source video.mp4 --tiers device,edge --tiles 2

        anabranch run --source video.mp4 --model pytorchcv.models.resnet:resnet18 --annotate out.mp4
    """
    settings = RunSettings(
        source, run_dir or default_run_dir(model), model, weights, labels, frames, admit, annotate, cut, codec,
        parse_tiers(tiers), parse_speeds(emulate_speed), torch_device, policy, objective, max_drop, calibration,
        parse_links(trace or ()), parse_delays(delay or (), {}), seconds, Tiling(tiles, tile_stacks, tile_codec),
        keys=keys,
    )  # fmt: skip
    console = Console(stderr=json)
    summary = LocalRun(settings, console).run()
    if json:
        typer.echo((settings.run_dir / "summary.json").read_text(), nl=False)
    else:
        console.print(summary_table(summary))
        console.print(f"run folder: {settings.run_dir}", highlight=False)
