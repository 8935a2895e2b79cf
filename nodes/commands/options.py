"""Options that several commands share, so that they read and mean the same everywhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from nodes.agent import SchedulerAddress
from nodes.batches import Batches
from nodes.config import Deployment, NodeConfig, read_deployment
from pipeline.errors import ConfigError
from pipeline.model.layouts import Layout
from scheduler.reports import Endpoints

Model = Annotated[
    str, typer.Option(help="`builtin`, `package.module:factory`, or a saved .pt2.", show_default=True, metavar="SPEC")
]
Weights = Annotated[Path | None, typer.Option(help="State dict to load into the model (tensors only, no code).")]
Labels = Annotated[Path | None, typer.Option(help="Class names, one a line, or a CSV with index and name.")]
Name = Annotated[str, typer.Option(help="Name of this node; plans and reports use it.")]
Listen = Annotated[str, typer.Option(help="Where to bind the inbox; `*` for a free port.")]
Advertise = Annotated[str, typer.Option(help="How peers reach the inbox, where that is not where it is bound.")]
Scheduler = Annotated[
    str, typer.Option(help="REPORTS,PLANS: the scheduler's two addresses.", metavar="ADDR,ADDR", show_default=False)
]
Peer = Annotated[
    list[str] | None,
    typer.Option("--peer", help="NODE=tcp://HOST:PORT: reach a peer there, not where it says."),
]
Config = Annotated[Path | None, typer.Option(help="Deployment file; with --name, it replaces the other options.")]
TorchDevice = Annotated[str, typer.Option(help="Where torch computes: cpu or cuda.")]
TorchThreads = Annotated[int, typer.Option(help="Threads that torch computes with; 0 for its own choice.", min=0)]
EmulateSpeed = Annotated[
    float,
    typer.Option(help="Emulate a slower node: fraction of real speed, padded with sleep.", min=1e-3, max=1.0),
]
EmulateProfile = Annotated[
    Path | None,
    typer.Option(help="Emulate the slower machine that this profile is of, padded with sleep."),
]
Keys = Annotated[
    Path | None,
    typer.Option(help="Folder of keys (see `anabranch keys`): encrypts everything, and lets in only whom it names."),
]
Insecure = Annotated[bool, typer.Option("--insecure", help="Bind beyond loopback without keys: anybody may connect.")]
Pinned = Annotated[
    Layout | None, typer.Option("--layout", hidden=True, help="Pin the memory layout of segments, for equal bits.")
]
Together = Annotated[
    Batches, typer.Option("--batches", help="Frames computed together: none, with equal bits, or equal to rounding.")
]
Goals = Annotated[
    str, typer.Option("--objective", help="Goals in order of priority: throughput, latency, bytes, cloud, energy.")
]
MaxDrop = Annotated[float, typer.Option(help="Accuracy that a plan may cost, as a share (0.01: one point).", min=0)]
Cut = Annotated[str, typer.Option(help="Of the policy `fixed`: where each part but the last ends; empty: even parts.")]
Codec = Annotated[str, typer.Option(help="Of the policy `fixed`: codec of every link, or one per link.")]
Traces = Annotated[
    list[str],
    typer.Option(
        "--trace",
        help="HOP=TRACE, for device-edge, edge-cloud, device-cloud: a file, a library name, or a rate such as 20Mbit.",
        metavar="HOP=TRACE",
    ),
]
Delays = Annotated[
    list[str] | None,
    typer.Option("--delay", help="TIME of all shaped links, or HOP=TIME; one way.", metavar="[HOP=]TIME"),
]
Child = Annotated[bool, typer.Option("--child", hidden=True, help="Stop when standard input closes.")]


def scheduler_address(text: str) -> SchedulerAddress | None:
    """The two addresses of `--scheduler`; None where it is empty.

    Raises:
        ConfigError: not two addresses.
    """
    if not text:
        return None
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != 2:
        raise ConfigError(f"--scheduler {text}", "not two addresses", "give tcp://HOST:REPORTS,tcp://HOST:PLANS")
    return SchedulerAddress(*parts)


def peer_endpoints(texts: Sequence[str]) -> dict[str, Endpoints]:
    """What `--peer` says, by node.

    Raises:
        ConfigError: not NODE=ADDRESS.
    """
    found = {}
    for text in texts:
        name, _, endpoint = text.partition("=")
        if not name or "://" not in endpoint:
            raise ConfigError(f"--peer {text}", "not NODE=ADDRESS", "for example edge-1=tcp://127.0.0.1:7001")
        found[name] = Endpoints(frames=endpoint, results=endpoint, tiles=endpoint)
    return found


def from_file(config: Path | None, name: str, tier: str) -> tuple[Deployment, NodeConfig] | None:
    """What the deployment file says of this node; None where no file is given.

    Raises:
        ConfigError: the file is bad, lacks the node, or has it as another tier.
    """
    if config is None:
        return None
    deployment = read_deployment(config)
    node = deployment.named(name)
    if node.tier != tier:
        raise ConfigError(f"node {name}", f"is of tier {node.tier} in {config}", f"use `anabranch {node.tier}`")
    return deployment, node


Tiles = Annotated[
    int, typer.Option(help="Machines that share the edge stage in tiles, the edge node among them; 0: no tiles.", min=0)
]
TileStacks = Annotated[
    str, typer.Option(help="Cuts at which fused stacks end, comma-separated; empty: the edge node chooses.")
]
TileCodec = Annotated[str, typer.Option(help="Codec of tiles on their way.")]
