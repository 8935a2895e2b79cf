"""Pictures of traces: rate over time, and how the rates are distributed."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from traces.errors import TraceError
from traces.stats import OUTAGE_BPS, TraceStats, trace_stats
from traces.trace import FloatArray, Trace
from traces.units import format_rate

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito's colours, which the colour-blind can tell apart."""
_POINTS = 1200
"""Steps drawn: more than a picture has room for would only be noise."""


def plot_traces(traces: Sequence[Trace], title: str = "") -> Figure:
    """Rate over time above, and the distribution of the rates below, of one trace or several.

    Raises:
        TraceError: no trace, or more than there are colours.
    """
    if not 1 <= len(traces) <= len(COLOURS):
        raise TraceError("plot", f"{len(traces)} traces do not go into one picture", f"give 1 to {len(COLOURS)}")
    figure = Figure(figsize=(10, 6.2), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    over_time, distribution = figure.subplots(2, 1, height_ratios=(3, 2))
    longest_s = max(trace.duration_s for trace in traces)
    traces = [_lasting(trace, longest_s) for trace in traces]
    unit_bps, unit = _unit(max(_drawn(trace)[1].max() for trace in traces))
    for trace, colour in zip(traces, COLOURS, strict=False):
        _draw_time(over_time, trace, colour, unit_bps, alone=len(traces) == 1)
        _draw_distribution(distribution, trace, colour, unit_bps)
    _finish(over_time, "time (s)", f"rate ({unit})")
    over_time.set_xlim(0, longest_s)
    _finish(distribution, f"rate ({unit}); dots: 5, 50 and 95 % of the time", "share of time below")
    distribution.set_ylim(0, 1.01)
    distribution.set_xlim(left=0)
    if len(traces) == 1:
        figure.suptitle(title or traces[0].name, fontweight="bold", x=0.01, ha="left")
        over_time.set_title(_caption(trace_stats(traces[0])), loc="left", fontsize=9, color="0.35")
    else:
        figure.suptitle(title or "rates over time", fontweight="bold", x=0.01, ha="left")
        _legend(over_time, *over_time.get_legend_handles_labels())
    return figure


def save_plot(traces: Sequence[Trace], path: Path | str, title: str = "") -> Path:
    """Draws traces into a picture; the format follows from the file's name (png, svg, pdf).

    Raises:
        TraceError: a file that cannot be written, or of an unknown kind.
    """
    path = Path(path)
    try:
        plot_traces(traces, title).savefig(path)
    except (OSError, ValueError) as error:
        if isinstance(error, TraceError):
            raise
        raise TraceError(str(path), f"cannot be written: {error}", "name it .png, .svg or .pdf") from None
    return path


def plot_png(traces: Sequence[Trace], title: str = "") -> bytes:
    """The picture as PNG, to put into a report."""
    out = BytesIO()
    plot_traces(traces, title).savefig(out, format="png")
    return out.getvalue()


def _draw_time(axes: Any, trace: Trace, colour: str, unit_bps: float, alone: bool) -> None:
    edges, rates = _drawn(trace)
    values = rates / unit_bps
    axes.stairs(values, edges, baseline=None, color=colour, linewidth=1.2, label=trace.name)
    if not alone:
        return
    axes.stairs(values, edges, color=colour, fill=True, alpha=0.15)
    axes.axhline(trace.mean_bps / unit_bps, color="0.25", linewidth=1, linestyle="--")
    label = f" mean {format_rate(trace.mean_bps)}"
    axes.annotate(label, (1, trace.mean_bps / unit_bps), xycoords=("axes fraction", "data"), fontsize=8, va="center")
    _shade_outages(axes, edges, rates)


def _shade_outages(axes: Any, edges: FloatArray, rates: FloatArray) -> None:
    down = np.concatenate([[False], rates < OUTAGE_BPS, [False]])
    changes = np.flatnonzero(np.diff(down.astype(np.int8)))
    for index, (first, last) in enumerate(zip(changes[::2], changes[1::2], strict=True)):
        label = "outage" if index == 0 else None
        axes.axvspan(edges[first], edges[last], color="#d55e00", alpha=0.25, linewidth=0, label=label)
    if len(changes):
        handles, labels = axes.get_legend_handles_labels()
        _legend(axes, handles[-1:], labels[-1:])


def _legend(axes: Any, handles: list[Any], labels: list[str]) -> None:
    """A legend above the axes, where it covers no data."""
    axes.legend(handles, labels, loc="lower right", bbox_to_anchor=(1, 1), frameon=False, fontsize=9, ncols=6)


def _draw_distribution(axes: Any, trace: Trace, colour: str, unit_bps: float) -> None:
    edges, rates = _drawn(trace)
    order = np.argsort(rates)
    share = np.cumsum(np.diff(edges)[order]) / trace.duration_s
    x, y = np.append(0, rates[order] / unit_bps), np.append(0, share)
    axes.step(x, y, where="post", color=colour, linewidth=1.5, label=trace.name)
    for level in (0.05, 0.5, 0.95):
        at = min(int(np.searchsorted(share, level)), len(order) - 1)
        axes.plot(rates[order][at] / unit_bps, level, "o", color=colour, markersize=4)


def _finish(axes: Any, across: str, up: str) -> None:
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.set_ylim(bottom=0)
    axes.grid(True, color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _lasting(trace: Trace, duration_s: float) -> Trace:
    """A constant rate for as long as the other traces last; all others as they are."""
    if len(trace.rates_bps) > 1 or trace.duration_s >= duration_s:
        return trace
    return Trace(trace.starts_s, trace.rates_bps, duration_s, trace.name)


def _drawn(trace: Trace) -> tuple[FloatArray, FloatArray]:
    """(edges, rates) as drawn: means over a second, or over what a long trace has room for."""
    step_s = max(min(1.0, trace.duration_s), trace.duration_s / _POINTS)
    even = trace.resample(step_s)
    return np.append(even.starts_s, even.duration_s), even.rates_bps


def _unit(peak_bps: float) -> tuple[float, str]:
    return next(
        ((size, unit) for size, unit in ((1e9, "Gbit/s"), (1e6, "Mbit/s")) if peak_bps >= 2 * size), (1e3, "kbit/s")
    )


def _caption(stats: TraceStats) -> str:
    rates = f"p5 {format_rate(stats.p5_bps)}, median {format_rate(stats.p50_bps)}, p95 {format_rate(stats.p95_bps)}"
    spread = f"variation {stats.cv:.2f}, correlated over {stats.correlation_s:.0f} s"
    return f"{rates}; {spread}; down {stats.outage_share:.1%} of the time"
