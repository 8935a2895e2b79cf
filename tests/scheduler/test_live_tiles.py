"""Tiles in live plans: whoever plans weighs the workers that are there, by their measured speeds and links."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest

from pipeline.model.capture import CapturedModel
from pipeline.model.spec import load_model
from pipeline.plan import Tier, device_only
from scheduler.advising import PlannerAdvisor
from scheduler.catalogue import MeasuredCatalogue
from scheduler.events import StreamSettings
from scheduler.objective import Goal, Objective, Priority
from scheduler.packing import arithmetic
from scheduler.planners.joint import Joint
from scheduler.problem import LinkEstimate, LoadEstimate
from scheduler.profile import HeldOut, Profile, Timing
from scheduler.tiling import Workers, tile_table
from scheduler.world import Candidate, World

NODES = (
    Candidate("phone", Tier.DEVICE, "p"), Candidate("edge", Tier.EDGE, "p"),
    Candidate("tile-2", None, ""), Candidate("tile-1", None, ""),
)  # fmt: skip
PHONE_S, EDGE_S = 0.2, 0.02
"""Of each block."""


@pytest.fixture(scope="module")
def captured() -> CapturedModel:
    """The network that comes with the project."""
    return load_model("builtin").captured


@pytest.fixture
def catalogue(captured: CapturedModel) -> MeasuredCatalogue:
    """Made-up profiles of a slow device and a faster edge node; the tile workers have none."""
    graph = captured.graph

    def profile(node: str, block_s: float) -> Profile:
        timing = Timing((block_s,) * len(graph.blocks))
        return Profile(graph.fingerprint, graph.name, node, timing, HeldOut(0, 0.0, 0.0))

    profiles = {"phone": profile("phone", PHONE_S), "edge": profile("edge", EDGE_S)}
    return MeasuredCatalogue(graph, profiles, arithmetic(graph), partial(tile_table, captured))


def world(captured: CapturedModel, tile_bps: float = 1e9, slowdown: float = 1.0, *left_out: str) -> World:
    """All nodes, the tile workers `slowdown` times slower than the edge node, behind links of `tile_bps`."""
    nodes = tuple(each for each in NODES if each.name not in left_out)
    workers = [each.name for each in nodes if each.tier is None]
    links = {("phone", "edge"): LinkEstimate(1e9)}
    links |= {way: LinkEstimate(tile_bps) for name in workers for way in (("edge", name), (name, "edge"))}
    loads = {each.name: LoadEstimate(slowdown if each.tier is None else 1.0) for each in nodes}
    fingerprint = captured.graph.fingerprint
    settings = StreamSettings(objective=Objective((Priority(Goal.LATENCY),)))
    return World(
        "cam", fingerprint, "phone", settings, 0.0, nodes, links, loads, device_only("cam", "phone", fingerprint, 3)
    )


def test_the_workers_that_are_there_share_the_edge_stage(captured: CapturedModel, catalogue: MeasuredCatalogue) -> None:
    advisor = PlannerAdvisor(catalogue, {"joint": Joint()})
    alone = advisor.advise(world(captured, 1e9, 1.0, "tile-1", "tile-2"))
    one = advisor.advise(world(captured, 1e9, 1.0, "tile-2"))
    both = advisor.advise(world(captured))
    assert alone.plan.tiles is None
    assert one.plan.tiles is not None and one.plan.tiles.workers == ("edge", "tile-1")
    assert both.plan.tiles is not None and both.plan.tiles.workers == ("edge", "tile-1", "tile-2")
    assert both.cost.latency_s < one.cost.latency_s < alone.cost.latency_s


def test_slower_workers_are_worth_less_and_links_that_are_too_slow_nothing(
    captured: CapturedModel, catalogue: MeasuredCatalogue
) -> None:
    advisor = PlannerAdvisor(catalogue, {"joint": Joint()})
    costs = [advisor.advise(world(captured, 1e9, slowdown)).cost.latency_s for slowdown in (1.0, 2.0, 4.0)]
    assert costs == sorted(costs) and costs[0] < costs[-1]
    assert advisor.advise(world(captured, 1e4)).plan.tiles is None


def test_a_tile_plan_that_runs_costs_what_it_was_planned_to(
    captured: CapturedModel, catalogue: MeasuredCatalogue
) -> None:
    advisor = PlannerAdvisor(catalogue, {"joint": Joint()})
    now = world(captured)
    planned = advisor.advise(now)
    again = advisor.advise(
        replace(now, current=planned.plan)  # as the core asks once the plan runs
    )
    assert again.plan == planned.plan
    assert again.current_cost is not None
    assert again.current_cost.latency_s == pytest.approx(planned.cost.latency_s)


def test_nearly_the_same_crew_has_the_same_table(captured: CapturedModel, catalogue: MeasuredCatalogue) -> None:
    model = captured.graph.fingerprint
    one = catalogue.tiles(model, Workers("edge", ("tile-1",), (1.0,), 1e9, 4e-4))
    assert one is not None
    assert catalogue.tiles(model, Workers("edge", ("tile-1",), (1.02,), 1.01e9, 4.1e-4)) is one
    assert catalogue.tiles(model, Workers("edge", ("tile-1",), (0.5,), 1e9, 4e-4)) is not one
    assert catalogue.tiles(model, Workers("phone", ("tile-1",), (1.0,), 1e9, 4e-4)) is not one
    assert catalogue.tiles(model, Workers("elsewhere", ("tile-1",), (1.0,), 1e9, 4e-4)) is None
