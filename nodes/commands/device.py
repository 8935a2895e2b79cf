"""`anabranch device`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nodes.admission import Admit
from nodes.commands import options as opt
from nodes.commands.serving import Launch
from nodes.guard import BUDGET
from nodes.session import DeviceSession, SessionSettings

Source = Annotated[
    str,
    typer.Option(help="A video file, rtsp://..., camera:0, a folder, or scene:seed=3", metavar="SOURCE"),
]
Frames = Annotated[int | None, typer.Option(help="Stop after so many frames.", min=1)]
AdmitOption = Annotated[Admit, typer.Option("--admit", help="What a full window does to the source.")]
RunDir = Annotated[Path | None, typer.Option(help="Folder for summary.json, results.jsonl, plan.json.")]
Seconds = Annotated[float | None, typer.Option(help="Or after so long.", min=0.1)]
Annotate = Annotated[Path | None, typer.Option(help="Write the video with the answers drawn in.")]


def device(
    name: opt.Name = "device-1",
    source: Source = "scene:",
    model: opt.Model = "builtin",
    weights: opt.Weights = None,
    labels: opt.Labels = None,
    scheduler: opt.Scheduler = "",
    stream: Annotated[str, typer.Option(help="Name of the stream; the node's own where empty.")] = "",
    frames: Frames = None,
    seconds: Seconds = None,
    admit: AdmitOption = Admit.LATEST,
    run_dir: RunDir = None,
    annotate: Annotate = None,
    listen: opt.Listen = "tcp://127.0.0.1:*",
    advertise: opt.Advertise = "",
    config: opt.Config = None,
    peer: opt.Peer = None,
    torch_device: opt.TorchDevice = "cpu",
    torch_threads: opt.TorchThreads = 0,
    emulate_speed: opt.EmulateSpeed = 1.0,
    emulate_profile: opt.EmulateProfile = None,
    keys: opt.Keys = None,
    insecure: opt.Insecure = False,
    first_plan_timeout: Annotated[float, typer.Option(help="Seconds that the first frame waits for a plan.")] = 10.0,
    needs_plan: Annotated[bool, typer.Option("--needs-plan", help="Fail where no plan comes.")] = False,
    layout: opt.Pinned = None,
    guard_budget: Annotated[
        float,
        typer.Option(help="Share of frames that are also computed in full precision.", min=0, max=1),
    ] = BUDGET,
    child: opt.Child = False,
) -> None:
    """Start a device: the source of a stream, its first stage, and the sinks of its results.

    Example: anabranch device --source camera:0 --scheduler tcp://10.0.0.1:5700,tcp://10.0.0.1:5701
    """
    launch = Launch(
        "device", name, model, weights, scheduler, listen, advertise, torch_device, torch_threads, emulate_speed,
        insecure, config, tuple(peer or ()), layout, keys=keys, emulate_profile=emulate_profile,
    )  # fmt: skip
    session = SessionSettings(
        stream or name,
        source,
        frames,
        admit,
        run_dir,
        annotate,
        labels,
        first_plan_timeout,
        needs_plan,
        guard_budget,
        seconds,
    )
    DeviceSession(*session.resolved(launch)).run(child)
