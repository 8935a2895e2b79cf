"""What viewers see of the cluster."""

from __future__ import annotations

from collections.abc import Iterable

from scheduler.commands import LinkView, NodeView, StreamView
from scheduler.registry import NodeRecord, Registry
from scheduler.streams import StreamState

MAX_NODES_SHOWN = 500
MAX_LINKS_SHOWN = 500


def node_views(registry: Registry, now: float) -> tuple[NodeView, ...]:
    """All nodes, up to a number that a person could look at."""
    return tuple(_node_view(each, now) for each, _ in zip(registry, range(MAX_NODES_SHOWN), strict=False))


def _node_view(node: NodeRecord, now: float) -> NodeView:
    report = node.report
    return NodeView(
        node=node.name,
        tier=report.tier,
        alive=node.alive,
        age_s=max(0.0, now - node.heard_s),
        load=report.load,
        slowdown=node.slowdown.estimate(now).value,
        refused=node.refused,
    )


def link_views(registry: Registry, now: float) -> tuple[LinkView, ...]:
    """All links of which something is known."""
    views = []
    for node in registry:
        for peer, estimator in node.links.items():
            goodput = estimator.goodput(now)
            if goodput is not None:
                rtt_s = estimator.rtt_s or 0.0
                views.append(LinkView(peer, node.name, goodput.value, goodput.uncertainty, rtt_s, goodput.age_s))
        if len(views) >= MAX_LINKS_SHOWN:
            break
    return tuple(views[:MAX_LINKS_SHOWN])


def stream_view(state: StreamState, waiting_for: Iterable[str]) -> StreamView:
    """One stream."""
    running = None if state.advice is None else state.advice.current_cost
    return StreamView(
        stream=state.stream,
        device=state.device,
        phase=state.phase,
        current=state.current,
        prepared=None if state.prepared is None else state.prepared.plan,
        waiting_for=tuple(waiting_for),
        fps=state.report.fps.window,
        latency_s=state.report.latency_s.window,
        predicted_fps=0.0 if running is None or running.period_s <= 0.0 else running.throughput_fps,
        predicted_latency_s=0.0 if running is None else running.latency_s,
        weight=state.settings.weight,
        planner=state.settings.planner,
        switches=tuple(state.switches.records),
        problem=state.problem,
    )
