"""Pictures of runs: everything that happened on one time axis."""

from __future__ import annotations

import re
from io import BytesIO
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator

from nodes.report.series import Stretch, bins, end_s, medians, rates, step_s, stretches, switches
from pipeline.plan import Tier
from scheduler.simulate.record import LinkSeries, RunRecord

TIERS = {Tier.DEVICE: "#0072b2", Tier.EDGE: "#e69f00", Tier.CLOUD: "#009e73"}
"""Colours of Okabe and Ito's, which the colour-blind can tell apart."""

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

PICTURE, RAW, HALF, CODED = "#fdae6b", "#d9d9d9", "#e7e1ef", "#bcbddc"
"""Picture codecs, raw floats, half floats, and entropy codecs, whose bits follow the content."""

TRUE, ESTIMATED = "0.82", "#d55e00"

MAX_REASONS = 8
"""Switches whose reasons are written below the picture; the page has all."""

MAX_MARKS = 60
"""Switches drawn as lines; with more, lines would hide the curves."""

CLOSE = 0.012
"""Of the time axis: numbers that are closer together would be read as one."""

LEGEND = {"loc": "upper left", "bbox_to_anchor": (1.005, 1.02), "frameon": False, "fontsize": 8, "handlelength": 1.4}


def run_picture(record: RunRecord) -> Figure:
    """One run: links, split, codecs, frames/s, latency, bytes and accuracy over time; switches across all."""
    accuracy = any(use.drop is not None for use in record.plans if use.stream == 0)
    heights = [1.2] * len(record.links) + [1.2, 0.5, 1.0, 1.0, 1.0] + [0.7] * accuracy
    reasons = min(MAX_REASONS, len(switches(record)))
    figure = Figure(figsize=(11.0, 1.25 * sum(heights) + 0.9 + 0.19 * reasons), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(len(heights), 1, sharex=True, height_ratios=heights))
    figure.suptitle(f"{record.title} ({record.kind})", fontweight="bold", x=0.01, ha="left")
    rest = iter(panels)
    for link in record.links:
        _draw_estimates(next(rest), link)
    found = stretches(record)
    _draw_split(next(rest), found, record.streams[0] if len(record.streams) > 1 else "")
    _draw_codecs(next(rest), found, end_s(record))
    _draw_rate(next(rest), record)
    _draw_latency(next(rest), record)
    _draw_bytes(next(rest), record)
    if accuracy:
        _draw_drop(next(rest), found)
    for panel in panels:
        _mark_switches(panel, record)
    _number_switches(panels[0], record)
    panels[-1].set_xlabel("time since the source started (s)")
    panels[-1].set_xlim(0, end_s(record))
    figure.align_ylabels(panels)
    if reasons:
        figure.supxlabel(_reasons(record), x=0.06, ha="left", fontsize=8, linespacing=1.5)
    return figure


def png(figure: Figure) -> bytes:
    """A picture as PNG."""
    out = BytesIO()
    figure.savefig(out, format="png")
    return out.getvalue()


def rate_unit(bps: float) -> tuple[float, str]:
    """The unit to show rates of up to `bps` in: its size in bit/s, and its name."""
    units = ((1e9, "Gbit/s"), (1e6, "Mbit/s"))
    return next(((size, name) for size, name in units if bps >= 2.0 * size), (1e3, "kbit/s"))


def title_of(link: LinkSeries) -> str:
    """A link's name, as pictures show it."""
    return link.name.replace("->", "\u2192")


def draw_truth(axes: Any, link: LinkSeries, unit: float) -> None:
    """What a link could carry, as an area; the last step is as long as the others."""
    times = [*link.true_s, link.true_s[-1] + step_s(link)]
    true_rates = np.array([*link.true_bps, link.true_bps[-1]]) / unit
    axes.fill_between(times, true_rates, step="post", color=TRUE, linewidth=0, label="true")


def finish(axes: Any, label: str, log: bool = False) -> None:
    """What all panels have: a label with the unit, a grid, and no frame."""
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


# --- panels


def _draw_estimates(axes: Any, link: LinkSeries) -> None:
    """What a link could carry, where that is known, and what the scheduler took it for."""
    unit, name = rate_unit(max([*link.true_bps, *(link.estimated_bps if not link.true_bps else [])], default=0.0))
    true, seen = np.asarray(link.true_bps) / unit, np.asarray(link.estimated_bps) / unit
    if len(true):
        draw_truth(axes, link, unit)
    if len(seen):
        axes.plot(link.estimated_s, seen, color=ESTIMATED, linewidth=1.2, drawstyle="steps-post", label="estimated")
    finish(axes, f"{title_of(link)}\n({name})")
    # A guess may be far off for a moment, and would leave no room for all else.
    top, highest = float(true.max(initial=0.0)), float(seen.max(initial=0.0))
    axes.set_ylim(0, 1.08 * (max(top, min(highest, 1.5 * top)) if len(true) else highest) or 1.0)
    if len(true) or len(seen):
        axes.legend(**LEGEND)


def _draw_bands(axes: Any, bands: dict[tuple[float, float, str], list[tuple[float, float]]]) -> None:
    """Bands by lower edge, upper edge and colour: when each begins, and for how long it lasts."""
    for (low, high, colour), times in bands.items():
        axes.broken_barh(times, (low, high - low), facecolors=colour, linewidth=0, antialiased=False)
    axes.set_ylim(0, 1)


def _draw_split(axes: Any, found: list[Stretch], stream: str) -> None:
    bands: dict[tuple[float, float, str], list[tuple[float, float]]] = {}
    for each in found:
        height = 0.0
        for stage, share in zip(each.use.plan.stages, each.use.shares, strict=True):
            if share > 0.0:
                band = bands.setdefault((height, height + share, TIERS[stage.tier]), [])
                band.append((each.begin_s, each.end_s - each.begin_s))
            height += share
    _draw_bands(axes, bands)
    finish(axes, "share of the network\n" + (f"({stream})" if stream else "computed by"))
    axes.legend(handles=[Patch(color=colour, label=tier) for tier, colour in TIERS.items()], **LEGEND)


def _draw_codecs(axes: Any, found: list[Stretch], end: float) -> None:
    """One band per link of a plan, the first one lowest, coloured by bits per element and named where there is room."""
    bands: dict[tuple[float, float, str], list[tuple[float, float]]] = {}
    for each in found:
        links, length_s = each.use.plan.links, each.end_s - each.begin_s
        for number, link in enumerate(links):
            low, high = number / len(links) + 0.02, (number + 1) / len(links) - 0.02
            bands.setdefault((low, high, codec_colour(link.codec)), []).append((each.begin_s, length_s))
            if length_s / end > 0.012 * len(link.codec):
                style = {"ha": "center", "va": "center", "fontsize": 7, "clip_on": True}
                middle_s = (each.begin_s + each.end_s) / 2
                axes.text(middle_s, (low + high) / 2, link.codec, color=_ink(link.codec), **style)
    _draw_bands(axes, bands)
    finish(axes, "codec\nby link")
    axes.set_yticks([])
    axes.grid(False)
    used = dict.fromkeys(link.codec for each in found for link in each.use.plan.links)
    handles = [Patch(facecolor=codec_colour(codec), edgecolor="0.6", label=codec) for codec in list(used)[:6]]
    if handles:
        style = LEGEND | {"fontsize": 7, "handlelength": 1.0, "bbox_to_anchor": (1.005, 1.1)}
        axes.legend(handles=handles, ncols=1 + (len(handles) > 3), columnspacing=0.8, labelspacing=0.2, **style)


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
    edges = bins(end_s(record))
    found = rates(record, edges)
    axes.stairs(found, edges, baseline=None, color="0.2", linewidth=1.2)
    finish(axes, "results\n(frames/s)")
    axes.set_ylim(0, 1.1 * float(np.nanmax(found, initial=0.0)) or 1.0)


def _draw_latency(axes: Any, record: RunRecord) -> None:
    done, latency = np.asarray(record.frames.done_s), 1e3 * np.asarray(record.frames.latency_s)
    every = max(1, len(done) // 4000)
    axes.plot(done[::every], latency[::every], ".", color="#0072b2", markersize=1.6, alpha=0.35, rasterized=True)
    edges = bins(end_s(record))
    axes.stairs(medians(record, latency.tolist(), edges), edges, baseline=None, color="0.1", linewidth=1.2)
    finish(axes, "latency\n(ms)", log=bool(len(latency)))
    dot = Line2D([], [], color="#0072b2", marker=".", linestyle="", label="each frame")
    axes.legend(handles=[dot, Line2D([], [], color="0.1", linewidth=1.2, label="median")], **LEGEND)


def _draw_bytes(axes: Any, record: RunRecord) -> None:
    edges = bins(end_s(record))
    axes.stairs(medians(record, record.frames.bytes, edges) / 1e3, edges, baseline=None, color="#cc79a7", linewidth=1.4)
    finish(axes, "sent, all links\n(kB per frame)")
    axes.set_ylim(bottom=0)


def _draw_drop(axes: Any, found: list[Stretch]) -> None:
    known = [(each.begin_s, each.end_s, 100 * each.use.drop) for each in found if each.use.drop is not None]
    begins, ends, drops = zip(*known, strict=True) if known else ((), (), ())
    axes.hlines(drops, begins, ends, color="#009e73", linewidth=2.0)
    finish(axes, "accuracy\ndrop (%)")
    top = max(0.5, 1.3 * max(drops, default=0.0))
    axes.set_ylim(-0.06 * top, top)


def _mark_switches(axes: Any, record: RunRecord) -> None:
    uses = switches(record)
    if len(uses) <= MAX_MARKS:
        for use in uses:
            axes.axvline(use.at_s, color="0.35", linewidth=0.7, linestyle=(0, (2, 3)))


def _number_switches(axes: Any, record: RunRecord) -> None:
    """Numbers over the lines, for the list of reasons below; of lines that are close together, over the first."""
    style = {"ha": "center", "va": "bottom", "fontsize": 7.5, "color": "0.25", "transform": axes.get_xaxis_transform()}
    groups: list[tuple[float, list[str]]] = []
    for number, use in enumerate(switches(record)[:MAX_REASONS], 1):
        if groups and use.at_s - groups[-1][0] < CLOSE * len(groups[-1][1]) * end_s(record):
            groups[-1][1].append(str(number))
        else:
            groups.append((use.at_s, [str(number)]))
    for at_s, numbers in groups:
        axes.text(at_s, 1.01, ",".join(numbers), **style)


def _reasons(record: RunRecord) -> str:
    uses = switches(record)
    shown = [f"{number}   at {use.at_s:.1f} s: {use.reason[:110]}" for number, use in enumerate(uses[:MAX_REASONS], 1)]
    more = [f"and {len(uses) - MAX_REASONS} more switches"] if len(uses) > MAX_REASONS else []
    return "\n".join([*shown, *more])
