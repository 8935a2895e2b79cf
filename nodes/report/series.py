"""What a record's pictures show over time: rates, medians, and which plan computed the results."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.plan import Tier, device_only
from scheduler.simulate.record import LinkSeries, PlanUse, RunRecord

Floats = NDArray[np.float64]

BINS = 120
"""Most bins of a picture; none is shorter than a second, where the run is not very short."""

SILENCE = 4.0
"""Of typical times between results: when nothing came for longer, nothing was computed for as long as is known."""

ALIKE = 0.05
"""Two runs had the same link where the bits that it could carry differ by no more, at any time."""


@dataclass(frozen=True)
class Stretch:
    """Results of the first stream that came one after the other, all computed by one plan."""

    begin_s: float
    end_s: float
    use: PlanUse


def end_s(record: RunRecord) -> float:
    """Where the time axis ends."""
    return max(record.frames.done_s, default=record.seconds)


def bins(end: float) -> Floats:
    """Edges of even bins from 0 on; the last one reaches `end` (s) or beyond."""
    end = max(end, 1e-3)
    width = max(min(1.0, end / 10), end / BINS)
    return np.arange(max(2, int(np.ceil(end / width - 1e-9)) + 1), dtype=np.float64) * width


def rates(record: RunRecord, edges: Floats) -> Floats:
    """Results per second in each bin; NaN behind the run's end.

    The bin that the run ends in and the one before it are taken together: in a piece of a bin there may be any rate.
    """
    end, width = end_s(record), edges[1] - edges[0]
    counts = np.bincount(_places(record, edges), minlength=len(edges))[: len(edges) - 1]
    found = np.where(edges[:-1] < end, counts / width, np.nan)
    last = int(np.clip(np.searchsorted(edges, end) - 1, 0, len(found) - 1))
    if edges[last + 1] > end:
        first = max(0, last - 1)
        found[first : last + 1] = counts[first : last + 1].sum() / max(end - edges[first], 1e-9)
    return found


def medians(record: RunRecord, values: Sequence[float], edges: Floats) -> Floats:
    """Median of the results in each bin; NaN, a gap in the line, where nothing came."""
    found = np.full(len(edges) - 1, np.nan)
    places = _places(record, edges)
    column = np.asarray(values, dtype=np.float64)
    for place in np.unique(places):
        if place < len(found):
            found[place] = np.median(column[places == place])
    return found


def _places(record: RunRecord, edges: Floats) -> NDArray[np.intp]:
    """The bin of each result; one that came on an edge closes the bin before it, as it closes a run's time."""
    return np.maximum(np.digitize(record.frames.done_s, edges, right=True) - 1, 0)


def stretches(record: RunRecord) -> list[Stretch]:
    """What computed the first stream's results, result by result.

    A result stands for the time since the one before it, unless that is so long that nothing was computed. The
    plan that frames are sent by is not always the one that computes them: in an outage the device does it alone.
    """
    frames = record.frames
    came = [each for each in zip(frames.stream, frames.done_s, frames.epoch, strict=True) if each[0] == 0]
    if not came:
        return []
    uses = _uses(record)
    times = np.array([done_s for _, done_s, _ in came])
    first_s = min(at_s for stream, at_s in zip(frames.stream, frames.admitted_s, strict=True) if stream == 0)
    begins = np.concatenate([[max(0.0, first_s)], times[:-1]])
    if len(times) > 1:
        begins = np.maximum(begins, times - max(1.0, SILENCE * float(np.median(np.diff(times)))))
    found: list[Stretch] = []
    for (_, done_s, epoch), begin_s in zip(came, begins.tolist(), strict=True):
        use = uses.get(epoch)
        if use is None:
            continue
        if found and found[-1].use is use and found[-1].end_s >= begin_s:
            found[-1] = Stretch(found[-1].begin_s, done_s, use)
        else:
            found.append(Stretch(begin_s, done_s, use))
    return found


def switches(record: RunRecord) -> list[PlanUse]:
    """The first stream's plans but the first."""
    return sorted((use for use in record.plans if use.stream == 0), key=lambda use: use.at_s)[1:]


def shared_links(records: Sequence[RunRecord]) -> list[list[tuple[int, LinkSeries]]]:
    """The links that tell runs' stories, each with the runs whose truth is drawn, and its series there.

    Those that vary, or else the first. Where all runs had the same link, one run stands for all: the longest.
    """
    found: dict[str, list[tuple[int, LinkSeries]]] = {}
    for number, record in enumerate(records):
        for link in record.links:
            if link.true_bps:
                found.setdefault(link.name, []).append((number, link))
    varying = [each for each in found.values() if any(_varies(link) for _, link in each)]
    chosen = varying or list(found.values())[:1]
    return [_one_for_all(each) for each in chosen]


def _one_for_all(runs: list[tuple[int, LinkSeries]]) -> list[tuple[int, LinkSeries]]:
    longest = max(runs, key=lambda run: run[1].true_s[-1])
    return [longest] if all(_are_alike(link, longest[1]) for _, link in runs) else runs


def _varies(link: LinkSeries) -> bool:
    return max(link.true_bps) > (1.0 + ALIKE) * min(link.true_bps)


def _are_alike(one: LinkSeries, other: LinkSeries) -> bool:
    """Whether both could carry as much until any time that both know; inside a step either draws a straight line."""
    until_s = min(one.true_s[-1], other.true_s[-1])
    at_s = np.linspace(0.0, until_s, 50)
    carried = [np.interp(at_s, *_carried(each)) for each in (one, other)]
    longest_s = max(step_s(one), step_s(other))
    slack = ALIKE * carried[0][-1] + 0.25 * longest_s * max(*one.true_bps, *other.true_bps)
    return bool(np.all(np.abs(carried[0] - carried[1]) <= slack))


def _carried(link: LinkSeries) -> tuple[Floats, Floats]:
    """Times, and the bits that the link could carry until then."""
    times = np.append(link.true_s, link.true_s[-1] + step_s(link))
    return times, np.concatenate([[0.0], np.cumsum(np.diff(times) * np.asarray(link.true_bps))])


def step_s(link: LinkSeries) -> float:
    """Length of the steps of a link's true rate."""
    return link.true_s[1] - link.true_s[0] if len(link.true_s) > 1 else 1.0


def _uses(record: RunRecord) -> dict[int, PlanUse]:
    """The first stream's plans by epoch; epoch 0, everything on the device, is always there."""
    stream = record.streams[0] if record.streams else ""
    exact = 0.0 if any(use.drop is not None for use in record.plans) else None
    node = next(itertools.chain((use.plan.nodes[0] for use in record.plans), [Tier.DEVICE.value]))
    alone = PlanUse(0.0, 0, device_only(stream, node, "", 0), "", (1.0,), exact)
    return {0: alone} | {use.plan.epoch: use for use in record.plans if use.stream == 0 and use.plan.epoch}
