"""The planners' benchmarks: what is compared is the same problem, and what is reported follows from the outcomes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from nodes.bench import predicted
from nodes.bench.planner import as_networkx
from nodes.bench.planners import GOALS, RIVALS, Outcome, report
from nodes.bench.report import Bar, BenchReport, Cell
from nodes.commands.bench import bench
from pipeline.errors import ConfigError
from scheduler.objective import Objective
from scheduler.planners.dads import min_cut, network
from scheduler.problem import DEVICE_CLOUD, LinkEstimate
from tests.scheduler import worlds

bench_app = typer.Typer()
bench_app.command()(bench)


@pytest.mark.parametrize("seed", range(8))
def test_networkx_and_scipy_cut_the_same_network(seed: int) -> None:
    rng = np.random.default_rng(seed)
    problem = worlds.problem(rng, worlds.Size(7), Objective())
    times = {name: worlds.times(rng, problem.graph, 1e-3) for name in worlds.NODES.values()}
    links = {DEVICE_CLOUD: LinkEstimate(3e5)}
    flow = network(dataclasses.replace(problem, nodes=worlds.NODES, times=times, links=links), DEVICE_CLOUD)
    value, _ = nx.minimum_cut(as_networkx(flow), flow.source, flow.sink)
    mask = min_cut(flow)
    # What SciPy cuts, summed over the arcs that leave its side; auxiliary vertices go with their tensor's readers.
    device = {vertex for vertex in range(flow.blocks) if mask >> vertex & 1} | {flow.source}
    hubs = {head for head in flow.heads if head > flow.sink}
    readers = {hub: {h for t, h in zip(flow.tails, flow.heads, strict=True) if t == hub} for hub in hubs}
    device |= {hub for hub in hubs if readers[hub] <= device}
    arcs = zip(flow.tails, flow.heads, flow.capacity_s, strict=True)
    assert sum(s for t, h, s in arcs if t in device and h not in device) == pytest.approx(value, abs=1e-4)


def outcomes(rival_s: float) -> list[Outcome]:
    """One cell per goal: everybody takes `rival_s` where `joint` takes one second."""
    return [
        Outcome("net", "wifi", "5G", goal, planner, seconds, seconds, True)
        for goal in GOALS
        for planner, seconds in (("joint", 1.0), *((rival, rival_s) for rival in RIVALS))
    ]


def test_report_tells_factors_and_fails_where_a_rival_is_better() -> None:
    good = report(outcomes(2.0))
    assert good.ok
    assert len(good.rows) == len(GOALS)
    assert any(note.startswith("joint over hpa: latency 2.00x") for note in good.notes)
    assert not report(outcomes(0.5)).ok


def test_predicted_is_judged_over_the_rows_of_all_parts(tmp_path: Path) -> None:
    rows: list[dict[str, Cell]] = [
        {"model": f"net{number % 3}", "error": 0.01 * number, "latency error": 0.3} for number in range(30)
    ]
    path = tmp_path / "part.json"
    path.write_bytes(BenchReport("predicted", rows).as_json())
    again = predicted.run(networks="", add=f"{path},{path}")
    assert again.rows == rows * 2
    bars = {bar.name: bar for bar in again.bars}
    assert (bars["plans"].value, bars["networks"].value) == (60, 3)
    assert bars["frames/s: median error"].value == pytest.approx(0.145)
    assert not bars["frames/s: median error"].ok
    assert not bars["latency: p95 error"].ok
    with pytest.raises(ConfigError, match="not of this benchmark"):
        predicted.run(networks="lenet")


def test_settings_of_a_benchmark_that_it_does_not_have() -> None:
    for setting, words in (("plans=many", "Expected `int`"), ("rounds=3", "it has networks, plans, seed, add")):
        with pytest.raises(ConfigError, match=words):
            CliRunner().invoke(bench_app, ["predicted", "networks=", setting], catch_exceptions=False)


def test_a_report_as_a_page() -> None:
    page = BenchReport("toy", [{"a": 1, "b": "x | y"}], [Bar("share", 0.5, 0.9, "min")], ["a note"]).as_markdown()
    assert "| 1 | x \\| y |" in page
    assert "falls short" in page
    assert "- a note" in page
