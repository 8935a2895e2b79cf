"""Pictures of runs: everything that happened on one time axis, and several runs side by side."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator
from numpy.typing import NDArray

from scheduler.simulate.record import LinkSeries, PlanUse, RunRecord

Floats = NDArray[np.float64]

TIERS = {"device": "#0072b2", "edge": "#e69f00", "cloud": "#009e73"}
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#8c6d31")
"""Okabe and Ito's, which the colour-blind can tell apart."""

WIDTHS = {
    1: "#08306b",
    2: "#08519c",
    3: "#2171b5",
    4: "#4292c6",
    5: "#6baed6",
    6: "#9ecae1",
    7: "#c6dbef",
    8: "#deebf7",
}
"""Bits per element: the darker, the fewer."""

PICTURE, RAW, HALF, CODED = "#fdae6b", "#f0f0f0", "#e7e1ef", "#bcbddc"
"""Picture codecs, raw floats, half floats, and entropy codecs, whose bits follow the content."""

MAX_REASONS = 8
"""Switches whose reasons are written below the picture; the page has all."""

MAX_MARKS = 60
"""Switches drawn as lines; with more, lines would hide the curves."""

BINS = 120


def run_picture(record: RunRecord) -> Figure:
    """One run: links, split, bit-widths, frames/s, latency, bytes and accuracy over time; switches across all."""
    drops = [use.drop for use in record.plans if use.stream == 0]
    accuracy = any(each is not None for each in drops)
    heights = [1.2] * len(record.links) + [1.2, 0.5, 1.0, 1.0, 1.0] + [0.7] * accuracy
    reasons = min(MAX_REASONS, len(_switches(record)))
    figure = Figure(figsize=(11.0, 1.25 * sum(heights) + 0.9 + 0.19 * reasons), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(len(heights), 1, sharex=True, height_ratios=heights))
    figure.suptitle(f"{record.title} ({record.kind})", fontweight="bold", x=0.01, ha="left")
    rest = iter(panels)
    for link in record.links:
        _draw_link(next(rest), link)
    uses = _spans(record)
    _draw_split(next(rest), uses)
    _draw_widths(next(rest), uses)
    _draw_rate(next(rest), record)
    _draw_latency(next(rest), record)
    _draw_bytes(next(rest), record)
    if accuracy:
        _draw_drop(next(rest), uses)
    for panel in panels:
        _mark_switches(panel, record)
    _number_switches(panels[0], record)
    panels[-1].set_xlabel("time since the source started (s)")
    panels[-1].set_xlim(0, end_s(record))
    if reasons:
        figure.supxlabel(_reasons(record), x=0.06, ha="left", fontsize=8, linespacing=1.5)
    return figure


def comparison_picture(records: Sequence[RunRecord]) -> Figure:
    """Several runs: the first one's links, then frames/s, latency and bytes of all, and their totals as bars."""
    links = records[0].links[:1]
    heights = [1.0] * len(links) + [1.5, 1.5, 1.2]
    figure = Figure(figsize=(11.0, 1.4 * sum(heights) + 3.2), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    parts: Any = figure.subfigures(2, 1, height_ratios=(1.4 * sum(heights), 2.6))
    above, below = parts
    panels = list(np.atleast_1d(above.subplots(len(heights), 1, sharex=True, height_ratios=heights)))
    figure.suptitle(f"{records[0].model}: {', '.join(labels(records))}", fontweight="bold", x=0.01, ha="left")
    rest = iter(panels)
    for link in links:
        _draw_link(next(rest), link, estimated=False)
    rate, latency, sent = rest
    for record, label, colour in zip(records, labels(records), itertools.cycle(COLOURS), strict=False):
        edges = _bins(record)
        centres = (edges[:-1] + edges[1:]) / 2
        done = np.asarray(record.frames.done_s)
        rate.stairs(_rates(done, edges), edges, color=colour, linewidth=1.3, label=label)
        latency.plot(centres, 1e3 * _medians(done, record.frames.latency_s, edges), color=colour, linewidth=1.3)
        sent.plot(centres, _medians(done, record.frames.bytes, edges) / 1e3, color=colour, linewidth=1.3)
    _finish(rate, "frames/s")
    rate.set_ylim(bottom=0)
    _finish(latency, "latency (ms)", log=True)
    _finish(sent, "kB per frame")
    sent.set_ylim(bottom=0)
    panels[-1].set_xlabel("time since the source started (s)")
    panels[-1].set_xlim(0, max(end_s(record) for record in records))
    rate.legend(loc="upper left", bbox_to_anchor=(1.005, 1.0), frameon=False, fontsize=8)
    _draw_totals(below, records)
    return figure


def png(figure: Figure) -> bytes:
    """A picture as PNG."""
    out = BytesIO()
    figure.savefig(out, format="png")
    return out.getvalue()


def labels(records: Sequence[RunRecord]) -> list[str]:
    """A short name for each run: its policy, and what else it takes to tell them apart."""
    names = [record.policy for record in records]
    if len(set(names)) < len(names) or len({record.kind for record in records}) > 1:
        names = [f"{record.policy} ({record.kind})" for record in records]
    if len(set(names)) < len(names):
        names = [f"{name} {number}" for number, name in enumerate(names, 1)]
    return names


def end_s(record: RunRecord) -> float:
    """Where the time axis ends."""
    return max(record.frames.done_s, default=record.seconds)


# --- panels


def _draw_link(axes: Any, link: LinkSeries, estimated: bool = True) -> None:
    values = [*link.true_bps, *(link.estimated_bps if not link.true_bps else [])]
    unit, name = (1e6, "Mbit/s") if max(values, default=0.0) >= 2e6 else (1e3, "kbit/s")
    true = np.asarray(link.true_bps) / unit
    if len(true):
        axes.fill_between(link.true_s, true, step="post", color="0.82", linewidth=0, label="true")
    top = float(true.max()) if len(true) else 0.0
    if estimated and link.estimated_s:
        seen = np.asarray(link.estimated_bps) / unit
        axes.plot(link.estimated_s, seen, color="#d55e00", linewidth=1.2, drawstyle="steps-post", label="estimated")
        top = max(top, float(np.percentile(seen, 90)))
    _finish(axes, f"{link.name}\n{name}")
    axes.set_ylim(0, 1.08 * top or 1.0)
    if estimated:
        axes.legend(loc="upper left", bbox_to_anchor=(1.005, 1.0), frameon=False, fontsize=8)


def _spans(record: RunRecord) -> list[tuple[float, float, PlanUse]]:
    """The first stream's plans with their begins and ends."""
    uses = sorted((use for use in record.plans if use.stream == 0), key=lambda use: use.at_s)
    ends = [use.at_s for use in uses[1:]] + [end_s(record)]
    return [(use.at_s, max(use.at_s, end), use) for use, end in zip(uses, ends, strict=True)]


def _draw_split(axes: Any, spans: list[tuple[float, float, PlanUse]]) -> None:
    for begin, end, use in spans:
        height = 0.0
        for stage, share in zip(use.plan.stages, use.shares, strict=True):
            axes.fill_between([begin, end], height, height + share, color=TIERS[stage.tier], alpha=0.85, linewidth=0)
            height += share
    _finish(axes, "share of\nthe network")
    axes.set_ylim(0, 1)
    handles = [Patch(color=colour, alpha=0.85, label=tier) for tier, colour in TIERS.items()]
    axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.005, 1.0), frameon=False, fontsize=8)


def _draw_widths(axes: Any, spans: list[tuple[float, float, PlanUse]]) -> None:
    """One band per link of a plan, coloured by bits per element and named where there is room."""
    total = max((end for _, end, _ in spans), default=1.0)
    for begin, end, use in spans:
        for number, link in enumerate(use.plan.links):
            low = number / len(use.plan.links)
            high = (number + 1) / len(use.plan.links)
            axes.fill_between([begin, end], low, high, color=codec_colour(link.codec), linewidth=0)
            if (end - begin) / total > 0.012 * len(link.codec):
                style = {"ha": "center", "va": "center", "fontsize": 7, "clip_on": True}
                axes.text((begin + end) / 2, (low + high) / 2, link.codec, color=_ink(link.codec), **style)
    _finish(axes, "codec")
    axes.set_ylim(0, 1)
    axes.set_yticks([])
    axes.grid(False)
    used = dict.fromkeys(link.codec for _, _, use in spans for link in use.plan.links)
    handles = [Patch(facecolor=codec_colour(codec), edgecolor="0.6", label=codec) for codec in list(used)[:6]]
    if handles:
        columns = 1 + (len(handles) > 3)
        axes.legend(
            handles=handles, loc="upper left", bbox_to_anchor=(1.005, 1.1), frameon=False, fontsize=7, ncols=columns,
            handlelength=1.0, columnspacing=0.8, labelspacing=0.2,
        )  # fmt: skip


def bits_of(codec: str) -> int | None:
    """Bits per element of a quantising codec, by its name; None for all others."""
    found = re.match(r"[a-z]*?(\d+)", codec)
    if codec.startswith(("jpeg", "webp", "fp")) or found is None:
        return None
    return int(found[1]) if 1 <= int(found[1]) <= 8 else None


def codec_colour(codec: str) -> str:
    """The colour of a codec's band."""
    width = bits_of(codec)
    if width is not None:
        return WIDTHS[width]
    if codec.startswith(("jpeg", "webp")):
        return PICTURE
    if re.fullmatch(r"(t-)?e\d+", codec):
        return CODED
    return HALF if codec == "fp16" else RAW


def _ink(codec: str) -> str:
    width = bits_of(codec)
    return "white" if width is not None and width <= 4 else "black"


def _draw_rate(axes: Any, record: RunRecord) -> None:
    edges = _bins(record)
    rates = _rates(np.asarray(record.frames.done_s), edges)
    axes.stairs(rates, edges, color="0.2", linewidth=1.2)
    _finish(axes, "frames/s")
    axes.set_ylim(0, 1.1 * float(rates.max(initial=0.0)) or 1.0)


def _draw_latency(axes: Any, record: RunRecord) -> None:
    done, latency = np.asarray(record.frames.done_s), 1e3 * np.asarray(record.frames.latency_s)
    every = max(1, len(done) // 4000)
    axes.plot(done[::every], latency[::every], ".", color="#0072b2", markersize=1.6, alpha=0.35, rasterized=True)
    edges = _bins(record)
    middle = _medians(done, latency.tolist(), edges)
    axes.plot((edges[:-1] + edges[1:]) / 2, middle, color="0.1", linewidth=1.2)
    _finish(axes, "latency (ms)", log=bool(len(latency)))


def _draw_bytes(axes: Any, record: RunRecord) -> None:
    edges = _bins(record)
    middle = _medians(np.asarray(record.frames.done_s), record.frames.bytes, edges) / 1e3
    axes.plot((edges[:-1] + edges[1:]) / 2, middle, color="#cc79a7", linewidth=1.4, drawstyle="steps-mid")
    _finish(axes, "kB per frame")
    axes.set_ylim(bottom=0)


def _draw_drop(axes: Any, spans: list[tuple[float, float, PlanUse]]) -> None:
    for begin, end, use in spans:
        if use.drop is not None:
            axes.plot([begin, end], [100 * use.drop] * 2, color="#009e73", linewidth=2.0, solid_capstyle="butt")
    _finish(axes, "accuracy\ndrop (%)")
    axes.set_ylim(bottom=0)


def _mark_switches(axes: Any, record: RunRecord) -> None:
    uses = _switches(record)
    if len(uses) <= MAX_MARKS:
        for use in uses:
            axes.axvline(use.at_s, color="0.35", linewidth=0.7, linestyle=(0, (2, 3)))


def _switches(record: RunRecord) -> list[PlanUse]:
    """The first stream's plans but the first."""
    return sorted((use for use in record.plans if use.stream == 0), key=lambda use: use.at_s)[1:]


def _number_switches(axes: Any, record: RunRecord) -> None:
    """Numbers over the lines, for the list of reasons below."""
    style = {"ha": "center", "va": "bottom", "fontsize": 7.5, "color": "0.25", "transform": axes.get_xaxis_transform()}
    for number, use in enumerate(_switches(record)[:MAX_REASONS], 1):
        axes.text(use.at_s, 1.01, str(number), **style)


def _reasons(record: RunRecord) -> str:
    uses = _switches(record)
    shown = [f"{number}   at {use.at_s:.1f} s: {use.reason[:110]}" for number, use in enumerate(uses[:MAX_REASONS], 1)]
    more = [f"and {len(uses) - MAX_REASONS} more switches"] if len(uses) > MAX_REASONS else []
    return "\n".join([*shown, *more])


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
        colours = [colour for colour, _ in zip(itertools.cycle(COLOURS), values, strict=False)]
        bars = axes.barh(places, values, color=colours, height=0.66)
        axes.bar_label(bars, labels=[f"{value:,.3g}" for value in values], padding=3, fontsize=8)
        axes.set_yticks(places, names, fontsize=8)
        axes.set_title(title, loc="left", fontsize=9)
        axes.spines[["top", "right", "bottom"]].set_visible(False)
        axes.tick_params(length=0, labelsize=8)
        axes.set_xticks([])
        axes.set_xlim(0, 1.25 * max(values) or 1.0)


# --- figures over time


def _bins(record: RunRecord) -> Floats:
    end = max(end_s(record), 1e-3)
    width = max(min(1.0, end / 10), end / BINS)
    return np.arange(max(2, int(np.ceil(end / width)) + 1), dtype=np.float64) * width


def _rates(done_s: Floats, edges: Floats) -> Floats:
    counts, _ = np.histogram(done_s, edges)
    return np.asarray(counts / np.diff(edges))


def _medians(done_s: Floats, values: Sequence[float], edges: Floats) -> Floats:
    """Median per bin; NaN, a gap in the line, where nothing came."""
    found = np.full(len(edges) - 1, np.nan)
    places = np.digitize(done_s, edges) - 1
    column = np.asarray(values, dtype=np.float64)
    for place in np.unique(places):
        if 0 <= place < len(found):
            found[place] = np.median(column[places == place])
    return found


def _finish(axes: Any, label: str, log: bool = False) -> None:
    axes.set_ylabel(label, fontsize=8.5)
    if log:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        axes.yaxis.set_minor_formatter("")
    axes.grid(color="0.92", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
