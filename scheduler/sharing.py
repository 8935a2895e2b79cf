"""What is left of a node or a link for one stream when others use it too: fair shares by weight, work-conserving."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass

from pipeline.plan import Plan
from scheduler.reports import Report

LEAST_SHARE = 0.02
"""No stream is told that it gets less than this: estimates of nothing plan nothing."""


@dataclass(frozen=True)
class Demand:
    """What one stream uses now."""

    weight: float
    nodes: Mapping[str, float]
    """Share of each node's time, 0 to 1."""
    links: Mapping[tuple[str, str], float]
    """Bits a second on each link."""


def usage_of(report: Report, moving: Container[tuple[str, int]]) -> dict[str, float]:
    """Share of the reporting node's time that each stream takes: frames a second times seconds a frame.

    Args:
        report: the node's.
        moving: streams and epochs of which frames were computed since the report before; the figures of all
            others are of the past.
    """
    usage: dict[str, float] = {}
    for stage in report.stages:
        busy = stage.fps.window * (stage.compute_s.window + stage.unpack_s.window + stage.pack_s.window)
        if busy > 0.0 and (stage.stream, stage.epoch) in moving:
            usage[stage.stream] = min(1.0, usage.get(stage.stream, 0.0) + busy)
    return usage


def sent_bps(report: Report, plan: Plan) -> dict[tuple[str, str], float]:
    """Bits a second that a node sends for this plan, by link."""
    sent: dict[tuple[str, str], float] = {}
    for hop, stage in enumerate(plan.stages[:-1]):
        if stage.node != report.node:
            continue
        for each in report.stages:
            if each.stream == plan.stream and each.epoch == plan.epoch:
                sent[stage.node, plan.stages[hop + 1].node] = each.fps.window * each.packed_bytes.window * 8.0
    return sent


def share(weight: float, used: float, others: Iterable[float]) -> float:
    """The part of a resource that a stream can count on.

    It is what the others leave, and at least its fair share, since they will have to give way to it.

    Args:
        weight: the stream's own.
        used: part of the resource, 0 to 1, that the other streams use together.
        others: weights of the streams that use it.
    """
    total = weight + sum(others)
    return max(LEAST_SHARE, weight / total, 1.0 - min(1.0, used))


class Demands:
    """What all streams use, looked up by node and by link."""

    def __init__(self, by_stream: Mapping[str, Demand]) -> None:
        self._nodes: dict[str, list[_Use]] = {}
        self._links: dict[tuple[str, str], list[_Use]] = {}
        for stream, demand in by_stream.items():
            for node, part in demand.nodes.items():
                if part > 0.0:
                    self._nodes.setdefault(node, []).append(_Use(stream, demand.weight, part))
            for link, bps in demand.links.items():
                if bps > 0.0:
                    self._links.setdefault(link, []).append(_Use(stream, demand.weight, bps))

    def node_share(self, stream: str, weight: float, node: str) -> float:
        """The part of a node's time that is left for `stream`, beside all others."""
        using = [use for use in self._nodes.get(node, ()) if use.stream != stream]
        return share(weight, sum(use.used for use in using), (use.weight for use in using))

    def link_share(self, stream: str, weight: float, link: tuple[str, str], goodput_bps: float) -> float:
        """The part of a link's goodput that is left for `stream`, beside all others."""
        using = [use for use in self._links.get(link, ()) if use.stream != stream]
        return share(weight, sum(use.used for use in using) / max(1.0, goodput_bps), (use.weight for use in using))


@dataclass(frozen=True, slots=True)
class _Use:
    stream: str
    weight: float
    used: float
