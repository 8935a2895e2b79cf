"""Several runs side by side: one picture, and one table."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from nodes.report.plots import draw_truth, finish, rate_unit, title_of
from nodes.report.series import Floats, bins, end_s, medians, rates, shared_links
from scheduler.simulate.record import LinkSeries, RunRecord

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#8c6d31")
"""Okabe and Ito's, which the colour-blind can tell apart."""


def comparison_picture(records: Sequence[RunRecord]) -> Figure:
    """Several runs: their links, then frames/s, latency and bytes of all on one time axis, and their totals as bars."""
    links = shared_links(records)
    heights = [1.0] * len(links) + [1.5, 1.5, 1.2]
    over_time, totals = 1.4 * sum(heights) + 0.6, 0.8 + 0.36 * max(3, len(records))
    figure = Figure(figsize=(11.0, over_time + totals), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    parts: Any = figure.subfigures(2, 1, height_ratios=(over_time, totals))
    above, below = parts
    panels = list(np.atleast_1d(above.subplots(len(heights), 1, sharex=True, height_ratios=heights)))
    figure.suptitle(f"{records[0].model}: {', '.join(labels(records))}", fontweight="bold", x=0.01, ha="left")
    end = max(end_s(record) for record in records)
    rest = iter(panels)
    for runs in links:
        _draw_truths(next(rest), runs)
    _draw_runs(list(rest), records, bins(end))
    panels[-1].set_xlabel("time since the source started (s); a dot is a run's last result")
    panels[-1].set_xlim(0, 1.01 * end)
    above.align_ylabels(panels)
    lines, texts = panels[-1].get_legend_handles_labels()
    above.legend(lines, texts, loc="outside right upper", frameon=False, fontsize=8, handlelength=1.4, labelspacing=0.9)
    _draw_totals(below, records)
    return figure


def comparison_rows(records: Sequence[RunRecord]) -> tuple[list[str], list[list[str]]]:
    """The totals of several runs: column names, and a row per run. What is known of none has no column."""
    columns = ["policy", "frames/s", "p50 ms", "p95 ms", "kB/frame", "drop", "top-1", "switches"]
    rows = []
    for record, label in zip(records, labels(records), strict=True):
        totals = record.totals
        latency = totals.latency_s
        rows.append(
            [
                label,
                f"{totals.fps:.2f}",
                "" if latency is None else f"{latency.p50 * 1e3:.0f}",
                "" if latency is None else f"{latency.p95 * 1e3:.0f}",
                f"{totals.bytes_per_frame / 1e3:.1f}",
                "" if totals.drop is None else f"{totals.drop:.2%}",
                "" if totals.accuracy is None else f"{totals.accuracy:.1%}",
                str(totals.switches),
            ]
        )
    known = [number for number in range(len(columns)) if any(row[number] for row in rows)]
    return [columns[number] for number in known], [[row[number] for number in known] for row in rows]


def labels(records: Sequence[RunRecord]) -> list[str]:
    """A short name for each run: its policy, and what else it takes to tell them apart."""
    names = [record.policy for record in records]
    if len(set(names)) < len(names) or len({record.kind for record in records}) > 1:
        names = [f"{record.policy} ({record.kind})" for record in records]
    if len(set(names)) < len(names):
        names = [f"{name} {number}" for number, name in enumerate(names, 1)]
    return names


def _colours(records: Sequence[RunRecord]) -> list[str]:
    return [colour for colour, _ in zip(itertools.cycle(COLOURS), records, strict=False)]


def _draw_truths(axes: Any, runs: list[tuple[int, LinkSeries]]) -> None:
    """What a link could carry: for all runs alike, or, where that differed, a line for each in its colour."""
    unit, name = rate_unit(max(max(link.true_bps) for _, link in runs))
    if len(runs) == 1:
        draw_truth(axes, runs[0][1], unit)
    else:
        for number, link in runs:
            style = {"color": COLOURS[number % len(COLOURS)], "drawstyle": "steps-post", "linewidth": 1.0}
            axes.plot(link.true_s, np.asarray(link.true_bps) / unit, **style)
    finish(axes, f"{title_of(runs[0][1])}\n({name})")
    axes.set_ylim(bottom=0)


def _draw_runs(panels: list[Any], records: Sequence[RunRecord], edges: Floats) -> None:
    """Results per second, latency and bytes over time; a dot where a run's line ends."""
    for record, label, colour in zip(records, labels(records), _colours(records), strict=True):
        frames, totals = record.frames, record.totals
        figures = (
            rates(record, edges),
            1e3 * medians(record, frames.latency_s, edges),
            medians(record, frames.bytes, edges) / 1e3,
        )
        text = f"{label}\n{totals.results:,} frames, {totals.seconds:.1f} s"
        for axes, values in zip(panels, figures, strict=True):
            axes.stairs(
                values, np.minimum(edges, end_s(record)), baseline=None, color=colour, linewidth=1.3, label=text
            )
            known = np.flatnonzero(np.isfinite(values))
            if len(known):
                last_s = min(end_s(record), edges[known[-1] + 1])
                axes.plot(last_s, values[known[-1]], "o", color=colour, markersize=4, clip_on=False)
    rate, latency, sent = panels
    finish(rate, "results\n(frames/s)")
    finish(latency, "median latency\n(ms)", log=any(record.frames.done_s for record in records))
    finish(sent, "sent, all links\n(kB per frame)")
    rate.set_ylim(bottom=0)
    sent.set_ylim(bottom=0)


def _draw_totals(figure: Any, records: Sequence[RunRecord]) -> None:
    """Bars of the totals, with their values."""
    names = labels(records)
    latencies = [record.totals.latency_s for record in records]
    figures = (
        ("frames/s", [record.totals.fps for record in records]),
        ("median latency (ms)", [1e3 * each.p50 if each else 0.0 for each in latencies]),
        ("kB per frame", [record.totals.bytes_per_frame / 1e3 for record in records]),
    )
    panels = figure.subplots(1, len(figures), sharey=True)
    for axes, (title, values) in zip(panels, figures, strict=True):
        places = np.arange(len(values))[::-1]
        bars = axes.barh(places, values, color=_colours(records), height=0.66)
        axes.bar_label(
            bars,
            labels=[f"{value:,.0f}" if value >= 100 else f"{value:.3g}" for value in values],
            padding=3,
            fontsize=8,
        )
        axes.set_yticks(places, names, fontsize=8)
        axes.set_title(title, loc="left", fontsize=9)
        axes.spines[["top", "right", "bottom"]].set_visible(False)
        axes.tick_params(length=0, labelsize=8)
        axes.set_xticks([])
        axes.set_xlim(0, 1.25 * max(values) or 1.0)
