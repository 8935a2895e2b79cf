"""`anabranch profile`: measure a network's segments on this machine."""

from __future__ import annotations

import platform
import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from nodes.commands import options as opt
from nodes.profiler import ProfilerSettings, profile_node
from pipeline.errors import ConfigError
from pipeline.model.spec import load_model
from scheduler.profile import Profile, load
from scheduler.regression import Regression, regress


def profile(
    out: Annotated[Path, typer.Option(help="File to write.")],
    model: opt.Model = "builtin",
    weights: opt.Weights = None,
    name: Annotated[str, typer.Option(help="Name of the node; by default this machine's.")] = "",
    budget: Annotated[float, typer.Option(help="Seconds to measure for.", min=1.0)] = 120.0,
    torch_threads: opt.TorchThreads = 1,
    torch_device: opt.TorchDevice = "cpu",
    learn_from: Annotated[
        list[str] | None,
        typer.Option(help="Predict instead of measuring, from SPEC=FILE: a profiled network; may be repeated."),
    ] = None,
    speed: Annotated[float, typer.Option(help="With --learn-from: speed over the profiled node.", min=1e-3)] = 1.0,
    json: Annotated[bool, typer.Option("--json", help="Print the profile as JSON.")] = False,
) -> None:
    """Measure how long segments of a network take here, and write the profile that planners read.

    Run it with nothing else running, with the threads that the node will have.

    Examples:

        anabranch profile --model builtin --out laptop.json

        anabranch profile --model pytorchcv.models.resnet:resnet18 --budget 60 --out resnet18.json

        anabranch profile --model my.nets:net --learn-from builtin=laptop.json --speed 0.25 --out camera.json
    """
    captured = load_model(model, weights=weights).captured
    node = name or platform.node() or "node"
    if learn_from:
        found = _learn(learn_from).predict(captured.graph, node, speed)
    else:
        settings = ProfilerSettings(budget, torch_threads, torch_device)
        console = Console(stderr=True)
        with Progress(TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=console) as bar:
            task = bar.add_task("measuring", total=1.0)
            found = profile_node(
                captured, node, settings, lambda share, what: bar.update(task, completed=share, description=what)
            )
    found.save(out)
    if json:
        typer.echo(msgspec.json.format(msgspec.json.encode(found)).decode())
    else:
        Console(width=None if sys.stdout.isatty() else 160).print(summary(found, out), highlight=False)


def summary(found: Profile, out: Path) -> str:
    """What people want to know of a profile."""
    total, error = sum(found.timing.block_s), found.error
    how = f"{found.segments} segments measured" if found.segments else "predicted from other networks' profiles"
    lines = [
        f"{out}: {found.model} on {found.node}, {total * 1e3:.2f} ms per frame, {how}",
        f"error on held-out {'segments' if found.segments else 'networks'}: median {error.median:.1%}, "
        f"95th percentile {error.p95:.1%}"
        + (f" ({error.p95_long:.1%} of the longer ones)" if error.p95_long is not None else ""),
    ]
    if found.packing_s_per_byte:
        speed = 1 / found.packing_s_per_byte / 1e6
        lines.append(f"packing: {speed:.0f} MB/s of fp32, a second of it slows compute by {found.contention:.2f} s")
    if found.memory_error is not None:
        lines.append(
            f"memory: weights, and {found.memory_scale:.2f} times the activations by arithmetic (the most that was "
            f"measured, above the others by {found.memory_error:.0%} in the median)"
        )
    return "\n".join(lines)


def _learn(known: list[str]) -> Regression:
    pairs = []
    for text in known:
        spec, separator, path = text.rpartition("=")
        if not separator:
            raise ConfigError(f"--learn-from {text}", "not SPEC=FILE", "give the network and its profile")
        graph = load_model(spec).captured.graph
        pairs.append((graph, load(Path(path), graph)))
    return regress(pairs)
