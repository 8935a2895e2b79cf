"""Gathers a simulation's record while it runs."""

from __future__ import annotations

import math
from collections import Counter, OrderedDict

import msgspec

from pipeline.model.graph import INPUT, ModelGraph, bits
from pipeline.plan import Plan
from scheduler.commands import ClusterState
from scheduler.events import DecisionRecord
from scheduler.problem import HOPS
from scheduler.simulate.cluster import Cluster
from scheduler.simulate.device import Done, SimulatedDevice
from scheduler.simulate.record import (
    Frames,
    LinkSeries,
    PlanUse,
    Quantiles,
    Remark,
    RunRecord,
    Totals,
    fps_of,
)
from scheduler.simulate.scenario import Scenario, node_name

POINTS = 300
"""Most steps of a link's true rate: as many as a picture shows."""

STEP_S = 0.5
"""Its shortest step: below, a cellular link's rate is bursts of packets."""

MAX_REMARKS = 2000

SHOWN = frozenset({"prepare", "switched", "fallback", "adopt", "abandon", "death", "problem", "keep", "measured"})


class Recorder:
    """Collects frames, plans and switches of all streams."""

    def __init__(self, scenario: Scenario, cluster: Cluster) -> None:
        self.frames = Frames()
        self.plans: list[PlanUse] = []
        self._drops: list[float | None] = []
        self._scenario = scenario
        self._cluster = cluster
        self._shares: OrderedDict[tuple[str, ...], tuple[float, ...]] = OrderedDict()
        self._indices = {device.source.stream: number for number, device in enumerate(cluster.devices)}
        for device in cluster.devices:
            device.hooks.done, device.hooks.switched = self._done, self._switched

    def _done(self, device: SimulatedDevice, done: Done) -> None:
        frames, zero_s = self.frames, self._scenario.lead_s
        frames.stream.append(self._indices[device.source.stream])
        frames.frame.append(done.frame)
        frames.admitted_s.append(round(done.admitted_s - zero_s, 6))
        frames.done_s.append(round(done.done_s - zero_s, 6))
        frames.epoch.append(done.epoch)
        frames.bytes.append(done.bytes)
        self._drops.append(done.drop)

    def _switched(self, device: SimulatedDevice, plan: Plan, reason: str) -> None:
        at_s = round(self._cluster.agenda.now - self._scenario.lead_s, 6)
        route = self._cluster.routes.of(plan)
        shares = self._shares_of(plan)
        self.plans.append(PlanUse(at_s, self._indices[device.source.stream], plan, reason, shares, route.drop))

    def _shares_of(self, plan: Plan) -> tuple[float, ...]:
        key = tuple(stage.until for stage in plan.stages)
        if key not in self._shares:
            self._shares[key] = shares(self._scenario.graph, plan)
        return self._shares[key]

    def record(self, decisions: list[DecisionRecord], states: list[ClusterState]) -> RunRecord:
        """The whole record, once the run is over."""
        scenario = self._scenario
        reasons = {(each.stream, each.epoch): each.reason for each in decisions if each.kind == "prepare"}
        names = list(self._indices)
        plans = [
            msgspec.structs.replace(use, reason=use.reason or reasons.get((names[use.stream], use.plan.epoch), ""))
            for use in self.plans
        ]
        return RunRecord(
            title=f"{scenario.graph.name}, {scenario.policy}",
            kind="simulated",
            policy=scenario.policy,
            model=scenario.graph.name,
            objective=",".join(level.goal for level in scenario.objective.priorities),
            seconds=scenario.seconds,
            streams=names,
            totals=self._totals(),
            frames=self.frames,
            plans=plans,
            links=self._links(states),
            remarks=self._remarks(decisions),
            about=self._about(),
            events=self._cluster.agenda.done,
        )

    def _about(self) -> dict[str, str]:
        scenario = self._scenario
        source = f"{scenario.fps:g} frames/s" if scenario.fps else "as fast as it goes"
        traces = {
            f"{node_name(a)} -> {node_name(b)}": channel.trace.name for (a, b), channel in scenario.channels.items()
        }
        return {"source": source, "admission": scenario.admit, "seed": str(scenario.seed), **traces}

    def _totals(self) -> Totals:
        frames, devices = self.frames, self._cluster.devices
        latency = frames.latency_s
        results = max(1, len(latency))
        drops: Counter[str] = Counter()
        again: Counter[str] = Counter()
        for device in devices:
            drops.update(device.counts.drops)
            again.update(device.ledger.readmissions)
        return Totals(
            frames_admitted=sum(device.ledger.admitted for device in devices),
            results=len(latency),
            drops=dict(drops),
            readmitted=dict(again),
            duplicates=sum(device.ledger.drops["duplicate"] for device in devices),
            seconds=max(frames.done_s, default=0.0) - min(frames.admitted_s, default=0.0),
            fps=fps_of(frames.done_s),
            latency_s=Quantiles.of(latency),
            latency_mean_s=math.fsum(latency) / results,
            bytes_per_frame=sum(frames.bytes) / results,
            link_bytes=self._link_bytes(results),
            epochs=dict(Counter(frames.epoch)),
            switches=max(0, len(self.plans) - len(devices)),
            drop=self._mean_drop(),
        )

    def _mean_drop(self) -> float | None:
        known = [each for each in self._drops if each is not None]
        return math.fsum(known) / len(known) if known and len(known) == len(self._drops) else None

    def _link_bytes(self, results: int) -> dict[str, float]:
        found = {}
        for (source, target), link in self._cluster.links.items():
            if link.watch.bytes_total:
                found[f"{source} -> {target}"] = link.watch.bytes_total / results
        return found

    def _links(self, states: list[ClusterState]) -> list[LinkSeries]:
        hops = [hop for hop in HOPS if hop in self._scenario.channels]
        return [self._series(node_name(hop[0]), node_name(hop[1]), states) for hop in hops]

    def _series(self, source: str, target: str, states: list[ClusterState]) -> LinkSeries:
        zero_s = self._scenario.lead_s
        end_s = max(self._scenario.seconds, max(self.frames.done_s, default=0.0))
        step_s = max(STEP_S, end_s / POINTS)
        times = [number * step_s for number in range(max(1, math.ceil(end_s / step_s)))]
        link = self._cluster.link(source, target)
        pipe = None if link is None else link.pipe
        seen = [
            (state.at_s - zero_s, view.goodput_bps)
            for state in states
            for view in state.links
            if (view.source, view.target) == (source, target) and state.at_s - zero_s <= end_s
        ]
        return LinkSeries(
            f"{source} -> {target}",
            [round(each, 6) for each in times],
            [round(pipe.mean_bps(zero_s + each, zero_s + each + step_s), 1) for each in times if pipe is not None],
            [round(at_s, 6) for at_s, _ in seen],
            [round(bps, 1) for _, bps in seen],
        )

    def _remarks(self, decisions: list[DecisionRecord]) -> list[Remark]:
        zero_s = self._scenario.lead_s
        shown = [each for each in decisions if each.kind in SHOWN]
        return [
            Remark(round(each.at_s - zero_s, 6), each.kind, each.reason, each.stream, each.epoch)
            for each in shown[:MAX_REMARKS]
        ]


def shares(graph: ModelGraph, plan: Plan) -> tuple[float, ...]:
    """Share of the network's arithmetic that each stage of a plan computes."""
    total = max(1, graph.flops)
    found, start = [], graph.cut(INPUT)
    for stage in plan.stages:
        end = graph.cut(stage.until)
        found.append(sum(graph.blocks[index].flops for index in bits(end.mask & ~start.mask)) / total)
        start = end
    return tuple(found)
