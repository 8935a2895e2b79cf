"""How a plan and its explanation look: table, drawing, runners-up, flips, sweep; and the same as plain data."""

from __future__ import annotations

from typing import Any

import msgspec
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from pipeline.model.graph import ModelGraph
from pipeline.plan import Plan
from scheduler.explain import Explanation, Flip, Point, describe, loss
from scheduler.problem import Cost

DRAWING_WIDTH = 72
"""Columns of the drawing of the three parts."""

COLOURS = {"device": "green", "edge": "cyan", "cloud": "magenta"}


def render(graph: ModelGraph, found: Explanation) -> RenderableType:
    """All that `anabranch plan` prints."""
    parts: list[RenderableType] = [drawing(graph, found.decision.plan), stage_table(graph, found)]
    parts.append(Text(headline(found)))
    if found.decision.runners_up:
        parts.append(runners_up(found))
    if found.active:
        parts.append(active_table(found))
    parts.append(flip_table(found.flips))
    return Group(*parts)


def headline(found: Explanation) -> str:
    """The figures of the plan in one line or two."""
    cost, decision = found.decision.cost, found.decision
    drop = "unknown" if cost.accuracy_drop is None else f"{100 * cost.accuracy_drop:.2f} points"
    alone_fps = cost.throughput_fps - cost.pipeline_fps
    alone = f" ({alone_fps:.2f} of them computed by the device alone)" if alone_fps > 0.005 else ""
    energy = "" if cost.energy_j is None else f", {cost.energy_j * 1e3:.1f} mJ on the device"
    lines = [
        f"{cost.throughput_fps:.2f} frames/s{alone}, latency {cost.latency_s * 1e3:.2f} ms, "
        f"{cost.bytes / 1e3:.2f} kB/frame, accuracy drop {drop}{energy}",
        f"planner {decision.planner} chose between {decision.considered:,} combinations",
    ]
    if decision.violated is not None:
        lines.append(f"no plan keeps the bound {decision.violated}: this is the nearest one")
    return "\n".join(lines)


def drawing(graph: ModelGraph, plan: Plan) -> RenderableType:
    """The three parts as a bar over the network's floating-point operations, with what crosses the links."""
    total, bar, legend = max(graph.flops, 1), Text(), Text()
    for hop, stage in enumerate(plan.stages):
        blocks = graph.between(*plan.span(hop, graph))
        share = sum(block.flops for block in blocks) / total
        colour = COLOURS[stage.tier]
        bar.append("█" * round(share * DRAWING_WIDTH) or "▏", style=colour)
        legend.append(f"{stage.tier} {stage.node}: {len(blocks)} blocks, {share:.1%} of the operations\n", style=colour)
        if hop < len(plan.links):
            cut = graph.cut(stage.until)
            bar.append("│")
            legend.append(f"   └─ {plan.links[hop].codec} over {', '.join(cut.tensors)} at cut {cut.name}\n")
    legend.rstrip()
    return Panel(Group(bar, legend), title=f"{graph.name}: {len(graph.blocks)} blocks, {graph.flops / 1e9:.2f} GFLOP")


def stage_table(graph: ModelGraph, found: Explanation) -> RenderableType:
    """Predicted times, the bottleneck marked."""
    cost = found.decision.cost
    table = Table("part", "decode", "compute", "encode", "transfer", "bytes", title="predicted, ms per frame")
    for number, stage in enumerate(cost.stages):
        times = (stage.decode_s, stage.compute_s, stage.encode_s)
        names = (f"{stage.tier} {part}" for part in ("decode", "compute", "encode"))
        cells = [_milliseconds(time_s, name == cost.bottleneck) for time_s, name in zip(times, names, strict=True)]
        table.add_row(f"{stage.tier} ({stage.node})", *cells, "", "")
        if number < len(cost.links):
            link = cost.links[number]
            name = f"{link.source}-{link.target} link"
            transfer = _milliseconds(link.transfer_s, name == cost.bottleneck)
            table.add_row(f"  {link.codec}", "", "", "", transfer, f"{link.bytes:,.0f}")
    if cost.links:
        transfer = _milliseconds(cost.home.transfer_s, cost.bottleneck == "way home")
        table.add_row("way home", "", "", "", transfer, f"{graph.result_bytes:,}")
    return table


def _milliseconds(seconds: float, bottleneck: bool) -> str:
    text = f"{seconds * 1e3:.3f}"
    return f"[bold red]{text} ◄ bottleneck[/]" if bottleneck else text


def runners_up(found: Explanation) -> RenderableType:
    """Next best plans, and what they lose."""
    table = Table("plan", "frames/s", "latency ms", "loses", title="runners-up")
    for other in found.decision.runners_up:
        figures = f"{other.cost.throughput_fps:.2f}", f"{other.cost.latency_s * 1e3:.2f}"
        table.add_row(describe(other.plan), *figures, loss(found.decision, other.cost))
    return table


def active_table(found: Explanation) -> RenderableType:
    """Bounds that keep a better plan away."""
    table = Table("bound", "without it", "frames/s", "latency ms", title="active bounds")
    for bound in found.active:
        figures = f"{bound.cost.throughput_fps:.2f}", f"{bound.cost.latency_s * 1e3:.2f}"
        table.add_row(bound.name, describe(bound.plan), *figures)
    return table


def flip_table(flips: tuple[Flip, ...]) -> RenderableType:
    """Where the choice changes."""
    if not flips:
        return Text("no bandwidth or load within a factor of 64 would change this plan")
    table = Table("if", "now", "passes", "then", title="the choice flips")
    for flip in flips:
        table.add_row(flip.what, _value(flip.now, flip.unit), _value(flip.at, flip.unit), describe(flip.plan))
    return table


def _value(value: float, unit: str) -> str:
    return f"{value / 1e6:.3g} Mbit/s" if unit == "bit/s" else f"{value:.3g}x"


def sweep_table(graph: ModelGraph, points: tuple[Point, ...]) -> RenderableType:
    """One line per bandwidth: the parts as a bar, codecs, and the figures."""
    table = Table("Mbit/s", "parts (device, edge, cloud)", "codecs", "tiles", "frames/s", "latency ms", "kB/frame")
    for point in points:
        tiles = (
            max((len(s.rows) * len(s.columns) for s in point.plan.tiles.stacks), default=1) if point.plan.tiles else 1
        )
        cost = point.cost
        table.add_row(
            f"{point.bps / 1e6:.3g}",
            _bar(graph, point.plan),
            " ".join(link.codec for link in point.plan.links) or "-",
            str(tiles),
            f"{cost.throughput_fps:.2f}",
            f"{cost.latency_s * 1e3:.2f}",
            f"{cost.bytes / 1e3:.2f}",
        )
    return table


def _bar(graph: ModelGraph, plan: Plan, width: int = 40) -> Text:
    bar, total, drawn, done = Text(), max(graph.flops, 1), 0, 0
    for hop, stage in enumerate(plan.stages):
        done += sum(block.flops for block in graph.between(*plan.span(hop, graph)))
        until = round(done / total * width)
        bar.append({"device": "▒", "edge": "▓", "cloud": "█"}[stage.tier] * (until - drawn), COLOURS[stage.tier])
        drawn = until
    return bar


def as_data(found: Explanation) -> dict[str, Any]:
    """The explanation as plain data."""
    decision = found.decision
    return {
        "plan": msgspec.to_builtins(decision.plan),
        "cost": cost_data(decision.cost),
        "planner": decision.planner,
        "considered": decision.considered,
        "violated": decision.violated,
        "runners_up": [
            {
                "plan": msgspec.to_builtins(other.plan),
                "cost": cost_data(other.cost),
                "loses": loss(decision, other.cost),
            }
            for other in decision.runners_up
        ],
        "active_bounds": [
            {"bound": each.name, "plan_without": msgspec.to_builtins(each.plan), "cost_without": cost_data(each.cost)}
            for each in found.active
        ],
        "flips": [
            {
                "what": flip.what,
                "unit": flip.unit,
                "now": flip.now,
                "at": flip.at,
                "plan": msgspec.to_builtins(flip.plan),
            }
            for flip in found.flips
        ],
    }


def cost_data(cost: Cost) -> dict[str, Any]:
    """A cost as plain data, throughput included."""
    return {**msgspec.to_builtins(cost), "period_s": cost.period_s, "throughput_fps": cost.throughput_fps}


def sweep_data(points: tuple[Point, ...]) -> list[dict[str, Any]]:
    """A sweep as plain data."""
    return [
        {"bps": point.bps, "plan": msgspec.to_builtins(point.plan), "cost": cost_data(point.cost)} for point in points
    ]
