"""The summary of a run, for people."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table

from nodes.summary import Summary
from scheduler.simulate.record import RunRecord

MAX_SWITCHES = 30
"""Rows of the table of switches."""


def summary_table(summary: Summary) -> RenderableType:
    """Totals, then a row per node, then a row per link."""
    totals = Table(
        title=f"{summary.stream}: {summary.model} on {summary.source}", title_justify="left", show_header=False
    )
    for name, value in _totals(summary):
        totals.add_row(name, value)
    stages = Table()
    for heading in ("node", "frames", "compute ms", "queue ms", "unpack ms", "pack ms", "sent kB"):
        stages.add_column(heading, justify="left" if heading == "node" else "right")
    for stage in summary.stages:
        times = (stage.compute_s, stage.queue_s, stage.unpack_s, stage.pack_s)
        stages.add_row(
            stage.node, str(stage.frames), *(f"{value * 1e3:.2f}" for value in times), f"{stage.sent_bytes / 1e3:.1f}"
        )
    return Group(totals, stages)


def switches_table(record: RunRecord) -> RenderableType:
    """Every plan of a run, from when on, and why."""
    table = Table(
        title=f"plans and switches: {record.policy}", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    table.add_column("s", justify="right")
    table.add_column("plan", overflow="fold", ratio=3)
    table.add_column("why", overflow="fold", ratio=2)
    for use in record.plans[:MAX_SWITCHES]:
        table.add_row(f"{use.at_s:.1f}", use.line(), use.reason)
    if len(record.plans) > MAX_SWITCHES:
        table.caption = f"and {len(record.plans) - MAX_SWITCHES} more; report.html has all"
    return table


def _totals(summary: Summary) -> list[tuple[str, str]]:
    rows = [
        ("frames admitted", str(summary.frames_admitted)),
        ("results", str(summary.results)),
        ("dropped before admission", _counts(summary.drops)),
        ("admitted again", _counts(summary.readmitted)),
        ("frames/s", f"{summary.fps:.2f}"),
    ]
    if summary.latency_s is not None:
        latency = summary.latency_s
        rows.append(
            (
                "latency p50 / p95 / p99",
                " / ".join(f"{v * 1e3:.0f} ms" for v in (latency.p50, latency.p95, latency.p99)),
            )
        )
    rows += [(f"bytes per frame {link}", f"{count:,.0f}") for link, count in summary.link_bytes.items()]
    rows.append(("results per epoch", _counts({f"#{epoch}": count for epoch, count in summary.epochs.items()})))
    if summary.accuracy is not None:
        rows.append(("accuracy (top-1)", f"{summary.accuracy:.2%}"))
    if summary.guarded:
        rows.append(("guarded frames that disagree", f"{summary.guard_disagreed} of {summary.guarded}"))
    if summary.source_error:
        rows.append(("source ended early", summary.source_error))
    return rows


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items()) or "none"
