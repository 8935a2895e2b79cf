"""How long planning takes: `joint` in full and after a change of bandwidth, beside min-cuts and HPA.

On Inception-v4 with eight codecs per link and grids of up to eight tile workers. All run in turn in each round, on one
thread whose own time is taken, so that nothing else on the machine counts. A full search begins with the network, the
profiles and the tables as they come from their files; networkx's min-cut begins with its flow network ready built.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any

import networkx as nx
import numpy as np

from nodes.bench import _networks as networks
from nodes.bench.report import Bar, BenchReport, Cell
from pipeline.model.capture import CapturedModel
from pipeline.plan import Tier
from scheduler.objective import Goal, Objective, Priority
from scheduler.planners.dads import Dads, FlowNetwork, min_cut
from scheduler.planners.dads import network as flow_network
from scheduler.planners.hpa import Hpa
from scheduler.planners.joint import Joint
from scheduler.problem import DEVICE_CLOUD, DEVICE_EDGE, Problem
from scheduler.simulate.figures import Machine, assumed_packing
from scheduler.tables import PackingTable, SegmentTimes
from scheduler.tiles import Grid, TileTable, mask_words, waists

NETWORK = "inceptionv4"
CODECS = ("fp32", "fp16", "q8", "q6", "q5", "q4", "q3", "q2")
"""Eight per link; at the input, eight picture codecs (the raw picture among them) instead."""
PICTURES = ("fp32", "jpeg95", "jpeg90", "jpeg75", "jpeg60", "webp90", "webp75", "webp60")
WORKERS = 8
ROUNDS = 25

OBJECTIVES = {
    "latency": Objective((Priority(Goal.LATENCY),), max_drop=0.01),
    "throughput,latency": Objective(max_drop=0.01),
}

MERGE_S = 5e-3
HALO = 1.3
"""Of the tile table: a stack costs a merge, and its workers together do this much of the work of one."""


def run() -> BenchReport:
    """Time all planners on each objective and link."""
    captured = networks.capture(NETWORK)
    rows: list[dict[str, Cell]] = []
    ratios: list[tuple[float, float]] = []
    for name, objective in OBJECTIVES.items():
        for link in networks.LINKS:
            times = _times(_problem(captured, link, objective))
            full, again, cut = times["joint, full"], times["joint, again"], times["networkx min-cut"]
            ratios.append((full / cut, again / full))
            milliseconds: dict[str, Cell] = {f"{what} ms": round(1e3 * spent, 3) for what, spent in times.items()}
            shares: dict[str, Cell] = {"full / min-cut": round(full / cut, 3), "again / full": round(again / full, 3)}
            rows.append({"objective": name, "link": link, **milliseconds, **shares})
    problem = _problem(captured, "wifi", OBJECTIVES["latency"])
    bars = [
        Bar("joint, full / networkx min-cut alone, worst", max(full for full, _ in ratios), 1.0, "max"),
        Bar("joint, again / full, median over rows", statistics.median(again for _, again in ratios), 0.1, "max"),
    ]
    cuts, blocks = len(captured.graph.cuts), len(captured.graph.blocks)
    notes = [
        f"{NETWORK}: {blocks} blocks, {cuts} cuts, {len(CODECS)} codecs per link, grids of 2 to {WORKERS} workers: "
        f"{Joint().plan(problem).considered:.3g} combinations of cuts and codecs after pruning, before grids",
        f"medians of {ROUNDS} rounds, own time of one thread",
        f"worst row: again / full {max(again for _, again in ratios):.3f}",
    ]
    return BenchReport("planner", rows, bars, notes)


def _times(problem: Problem) -> dict[str, float]:
    """Median seconds of each."""
    rng, found = np.random.default_rng(0), dict[str, list[float]]()
    flow = flow_network(problem, DEVICE_CLOUD)
    graph = as_networkx(flow)
    for _ in range(ROUNDS):
        planner, fresh = Joint(), _fresh(problem)
        changed = _changed(fresh, float(rng.uniform(0.5, 2.0)))
        for name, work in (
            ("joint, full", lambda p=planner, q=fresh: p.plan(q)),
            ("joint, again", lambda p=planner, q=changed: p.plan(q)),
            ("networkx min-cut", lambda: nx.minimum_cut(graph, flow.source, flow.sink)),
            ("scipy max-flow", lambda: min_cut(flow)),
            ("dads", lambda: Dads().plan(problem)),
            ("hpa", lambda: Hpa().plan(problem)),
        ):
            found.setdefault(name, []).append(_spent(work))
    return {name: statistics.median(each) for name, each in found.items()}


def _spent(work: Callable[[], Any]) -> float:
    before = time.thread_time()
    work()
    return time.thread_time() - before


def as_networkx(flow: FlowNetwork) -> nx.DiGraph:
    """The flow network for networkx: arcs that are never cut have no capacity."""
    graph = nx.DiGraph()
    for tail, head, capacity_s in zip(flow.tails, flow.heads, flow.capacity_s, strict=True):
        if not np.isfinite(capacity_s):
            graph.add_edge(tail, head)
        elif graph.has_edge(tail, head):
            graph[tail][head]["capacity"] += capacity_s
        else:
            graph.add_edge(tail, head, capacity=capacity_s)
    return graph


def _problem(captured: CapturedModel, link: str, objective: Objective) -> Problem:
    graph = captured.graph
    speeds = {Tier.DEVICE: networks.DEVICES["20G"], Tier.EDGE: networks.EDGE, Tier.CLOUD: networks.CLOUD}
    times = {networks.NODES[tier]: Machine(speed).times(graph) for tier, speed in speeds.items()}
    packing = _eight(assumed_packing(graph))
    tiles = _tiles(captured, times[networks.NODES[Tier.EDGE]])
    links = networks.LINKS[link]
    return Problem(graph, "s", networks.NODES, times, packing, links, objective=objective, tiles=tiles)


def _eight(table: PackingTable) -> PackingTable:
    """Eight codecs per link; sizes and drops vary over the cuts, as measured ones do, so that none stands out."""
    rng, nbytes, drop = np.random.default_rng(1), table.bytes.copy(), table.drop.copy()
    for number, name in enumerate(table.codecs):
        if name not in CODECS:
            nbytes[1:, number] = np.inf
        elif name != "fp32":
            nbytes[1:, number] *= rng.uniform(0.6, 1.0, len(nbytes) - 1)
            drop[1:, number] *= rng.uniform(0.5, 1.5, len(nbytes) - 1)
        if name not in PICTURES:
            nbytes[0, number] = np.inf
    return dataclasses.replace(table, bytes=nbytes, drop=drop)


def _tiles(captured: CapturedModel, times: SegmentTimes) -> TileTable:
    where = waists(mask_words(captured.graph))
    run_s = times.leave_s[where][None, :] - times.leave_s[where][:, None]
    gain = np.array([run_s * (1 - HALO / workers) - MERGE_S for workers in range(2, WORKERS + 1)])
    grids = tuple(Grid((1.0 / workers,) * workers) for workers in range(2, WORKERS + 1))
    return TileTable(where, grids, gain, tuple(f"tile-{number}" for number in range(WORKERS)))


def _fresh(problem: Problem) -> Problem:
    """The same tables as new objects, with nothing worked out yet."""
    old = problem.tiles
    if old is None:
        return problem
    return dataclasses.replace(problem, tiles=TileTable(old.waists, old.grids, old.gain_s, old.workers))


def _changed(problem: Problem, factor: float) -> Problem:
    link = problem.links[DEVICE_EDGE]
    slower = dataclasses.replace(link, goodput_bps=link.goodput_bps * factor)
    return dataclasses.replace(problem, links={**problem.links, DEVICE_EDGE: slower})
