"""`anabranch model`: what a network looks like to this project."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console, RenderableType
from rich.table import Table

from nodes.commands import options as opt
from pipeline.model.capture import CapturedModel
from pipeline.model.graph import INPUT, OUTPUT, Block, ModelGraph
from pipeline.model.spec import load_model, load_plain, save_pt2
from pipeline.tiling.analysis import why_untileable

MAX_CUT_ROWS = 200
"""Cuts that the table shows; `--json` has all of them."""

PLAIN_WIDTH = 160
"""Columns of the tables where the output is no terminal."""

Spec = Annotated[str, typer.Argument(help="`builtin`, `package.module:factory`, or a saved .pt2.", metavar="SPEC")]

app = typer.Typer(help="Show a network's blocks and cuts, or save it.", no_args_is_help=True)


@app.command()
def show(
    spec: Spec = "builtin",
    weights: opt.Weights = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object, with every cut.")] = False,
    dot: Annotated[bool, typer.Option("--dot", help="Print the block graph for Graphviz.")] = False,
) -> None:
    """Capture a network and print its blocks and its cuts.

    Examples:

        anabranch model show builtin

        anabranch model show pytorchcv.models.resnet:resnet18 --dot | dot -Tsvg -o resnet18.svg
    """
    captured = load_model(spec, weights=weights).captured
    if dot:
        typer.echo(as_dot(captured.graph))
    elif json:
        typer.echo(msgspec.json.format(msgspec.json.encode(describe(captured))).decode())
    else:
        console = Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH)
        for part in (_blocks_table(captured), _cuts_table(captured.graph), _totals(captured)):
            console.print(part, highlight=False)


@app.command()
def save(
    spec: Spec,
    out: Annotated[Path, typer.Argument(help="File to write, ending in .pt2.")],
    weights: opt.Weights = None,
    labels: opt.Labels = None,
) -> None:
    """Save a network with its weights, preprocessing and labels, for machines that lack its code.

    Example:

        anabranch model save my_package.nets:detector detector.pt2 --weights detector.pth
    """
    save_pt2(load_plain(spec, weights=weights, labels=labels), out)
    typer.echo(f"{out}: {out.stat().st_size / 1e6:.1f} MB")


def describe(captured: CapturedModel) -> dict[str, Any]:
    """The graph as plain data: model totals, `blocks` with why they cannot be tiled, `tensors`, and all `cuts`."""
    graph = captured.graph
    return {
        "name": graph.name,
        "fingerprint": graph.fingerprint,
        "flops": graph.flops,
        "weight_bytes": graph.weight_bytes,
        "supports_batch": captured.supports_batch,
        "cuts_complete": graph.cuts_complete,
        "outputs": graph.outputs,
        "blocks": [
            {**msgspec.to_builtins(block), "untileable": why_untileable(captured, block)} for block in graph.blocks
        ],
        "tensors": {name: {**msgspec.to_builtins(spec), "nbytes": spec.nbytes} for name, spec in graph.tensors.items()},
        "cuts": [
            {"index": cut.index, "name": cut.name, "tensors": cut.tensors, "nbytes": graph.cut_bytes(cut)}
            for cut in graph.cuts
        ],
    }


def as_dot(graph: ModelGraph) -> str:
    """The blocks as a directed graph in Graphviz's language; edges carry kilobytes."""
    lines = ["digraph model {", '  node [shape=box, fontname="sans-serif"];', f'  "{INPUT}" [shape=ellipse];']
    lines += [
        f'  "{block.name}" [label="{block.name}\\n{block.kind} {block.flops / 1e6:.1f} MFLOPs"];'
        for block in graph.blocks
    ]
    for block in graph.blocks:
        for name in block.inputs:
            source = INPUT if name == INPUT else graph.blocks[graph.producer[name]].name
            lines.append(f'  "{source}" -> "{block.name}" [label="{graph.tensors[name].nbytes / 1e3:.0f} kB"];')
    lines.append(f'  "{OUTPUT}" [shape=ellipse];')
    lines += [f'  "{graph.blocks[graph.producer[name]].name}" -> "{OUTPUT}";' for name in graph.outputs]
    return "\n".join([*lines, "}"])


def _blocks_table(captured: CapturedModel) -> RenderableType:
    table = _table(
        f"{captured.graph.name}: blocks", ("", "block", "kind", "output", "kB", "MFLOPs", "weights kB", "tiles")
    )
    for block in captured.graph.blocks:
        table.add_row(*_block_row(captured, block))
    return table


def _block_row(captured: CapturedModel, block: Block) -> tuple[str, ...]:
    outputs = [captured.graph.tensors[name] for name in block.outputs]
    shapes = " ".join("x".join(str(size) for size in spec.shape[1:]) for spec in outputs)
    return (
        str(block.index),
        block.name,
        block.kind,
        shapes,
        f"{sum(spec.nbytes for spec in outputs) / 1e3:.1f}",
        f"{block.flops / 1e6:.2f}",
        f"{block.weight_bytes / 1e3:.1f}",
        why_untileable(captured, block) or "yes",
    )


def _cuts_table(graph: ModelGraph) -> RenderableType:
    shown = graph.cuts[:MAX_CUT_ROWS]
    rest = f" (the first {len(shown)} of {len(graph.cuts)}; --json has all)" if len(shown) < len(graph.cuts) else ""
    table = _table(f"{graph.name}: cuts{rest}", ("", "cut", "tensors", "kB", "GFLOPs before"))
    for cut in shown:
        before = sum(block.flops for block in graph.between(graph.cut(INPUT), cut))
        row = (str(cut.index), cut.name, str(len(cut.tensors)), f"{graph.cut_bytes(cut) / 1e3:.1f}")
        table.add_row(*row, f"{before / 1e9:.3f}")
    return table


def _totals(captured: CapturedModel) -> str:
    graph = captured.graph
    order = "" if graph.cuts_complete else " (too many convex cuts: those of one order only)"
    return (
        f"{len(graph.blocks)} blocks, {len(graph.cuts)} cuts{order}, {graph.flops / 1e9:.2f} GFLOPs, "
        f"{graph.weight_bytes / 1e6:.1f} MB of weights, "
        f"batches: {'yes' if captured.supports_batch else 'no'}, fingerprint {graph.fingerprint}"
    )


def _table(title: str, headings: tuple[str, ...]) -> Table:
    table = Table(title=title, title_justify="left")
    for heading in headings:
        words = heading in ("block", "kind", "cut", "output", "tiles")
        table.add_column(heading, justify="left" if words else "right", overflow="fold")
    return table
