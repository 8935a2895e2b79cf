"""From worlds to problems: the best route of several, profiles that are missing, bounds, and a running plan."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.errors import PlanError
from pipeline.model.graph import INPUT, Block, ModelGraph, TensorSpec
from pipeline.plan import Plan, Tier, device_only
from scheduler.advising import PlannerAdvisor
from scheduler.events import StreamSettings
from scheduler.objective import Goal, Objective, Priority
from scheduler.planners.joint import Joint
from scheduler.problem import LinkEstimate, LoadEstimate
from scheduler.tables import PackingTable, SegmentTimes
from scheduler.tiles import TileTable
from scheduler.tiling import Workers
from scheduler.world import Candidate, World

BLOCK_S = {"phone": 0.1, "slow edge": 0.05, "fast edge": 0.01, "cloud": 0.005}
PHONE, SLOW, FAST, CLOUD = (
    Candidate("phone", Tier.DEVICE, "p"), Candidate("slow edge", Tier.EDGE, "p"),
    Candidate("fast edge", Tier.EDGE, "p"), Candidate("cloud", Tier.CLOUD, "p"),
)  # fmt: skip


def chain() -> ModelGraph:
    """Three blocks in a row."""
    tensors = {INPUT: TensorSpec(INPUT, (1, 3, 32, 32), "uint8")}
    tensors |= {f"t{n}": TensorSpec(f"t{n}", (1, 8, 16, 16)) for n in range(3)}
    inputs = (INPUT, "t0", "t1")
    blocks = tuple(Block(n, f"b{n}", "conv", (), (inputs[n],), (f"t{n}",), 1000, 10) for n in range(3))
    return ModelGraph("chain", "fp", blocks, tensors, ("t2",))


class Shelf:
    """Everything known of the chain."""

    def __init__(self) -> None:
        self.chain = chain()
        raw = np.array([[float(self.chain.cut_bytes(cut))] for cut in self.chain.cuts])
        zero = np.zeros_like(raw)
        self.table = PackingTable(("fp32",), raw, zero, zero, zero)
        self.known = {name: self._times(seconds) for name, seconds in BLOCK_S.items()}

    def _times(self, block_s: float) -> SegmentTimes:
        count = np.array([cut.mask.bit_count() for cut in self.chain.cuts], dtype=np.float64)
        return SegmentTimes(count * block_s, count * block_s, np.full(3, block_s), count)

    def graph(self, model: str) -> ModelGraph:
        return self.chain

    def packing(self, model: str) -> PackingTable:
        return self.table

    def times(self, model: str, node: str, profile: str) -> SegmentTimes | None:
        return self.known.get(node)

    def tiles(self, model: str, workers: Workers) -> TileTable | None:
        return None


def world(
    *candidates: Candidate, bps: float = 1e9, objective: Objective | None = None, current: Plan | None = None
) -> World:
    """All candidates, joined by links of one speed."""
    pairs = [(a, b) for a in candidates for b in candidates if a.tier is not b.tier]
    asked = objective or Objective((Priority(Goal.LATENCY),))
    return World(
        "cam", "fp", "phone", StreamSettings(objective=asked), 0.0, candidates,
        {(a.name, b.name): LinkEstimate(bps) for a, b in pairs},
        {each.name: LoadEstimate() for each in candidates},
        current or device_only("cam", "phone", "fp", 3),
    )  # fmt: skip


def advisor() -> tuple[PlannerAdvisor, Shelf]:
    shelf = Shelf()
    return PlannerAdvisor(shelf, {"joint": Joint()}), shelf


def test_the_best_of_several_routes_is_advised_beside_the_running_plan() -> None:
    advise, _ = advisor()
    advice = advise.advise(world(PHONE, SLOW, FAST))
    assert advice.plan.nodes == ("phone", "fast edge")
    assert advice.current_cost is not None
    assert advice.current_cost.latency_s == pytest.approx(0.3)
    assert advice.cost.latency_s < 0.05
    assert (advice.broken, advice.current_broken) == ("", "")


def test_a_slow_link_keeps_the_plan_on_the_device() -> None:
    advise, _ = advisor()
    assert advise.advise(world(PHONE, FAST, CLOUD, bps=1e3)).plan.nodes == ("phone",)


def test_a_running_plan_whose_node_is_gone_has_no_cost() -> None:
    advise, _ = advisor()
    running = advise.advise(world(PHONE, FAST)).plan
    assert advise.advise(world(PHONE, SLOW, current=running)).current_cost is None


def test_a_running_plan_on_another_route_is_costed_on_its_own() -> None:
    advise, _ = advisor()
    running = advise.advise(world(PHONE, SLOW)).plan
    advice = advise.advise(world(PHONE, FAST, SLOW, current=running))
    assert running.nodes == ("phone", "slow edge")
    assert advice.current_cost is not None
    assert advice.current_cost.latency_s > advice.cost.latency_s


def test_broken_bounds_are_named() -> None:
    advise, _ = advisor()
    asked = Objective((Priority(Goal.LATENCY),), max_latency_s=0.2)
    assert advise.advise(world(PHONE, FAST, objective=asked)).current_broken == "max_latency_s"
    assert advise.advise(world(PHONE, objective=asked)).broken == "max_latency_s"


def test_nodes_without_a_profile_are_left_out_and_a_device_without_one_is_an_error() -> None:
    advise, shelf = advisor()
    del shelf.known["fast edge"]
    assert advise.advise(world(PHONE, SLOW, FAST)).plan.nodes == ("phone", "slow edge")
    del shelf.known["phone"]
    with pytest.raises(PlanError, match="no profile"):
        advise.advise(world(PHONE, SLOW))


def test_an_unknown_planner_is_an_error() -> None:
    advise = PlannerAdvisor(Shelf(), {})
    with pytest.raises(PlanError, match="unknown"):
        advise.advise(world(PHONE))


def test_stage_times_come_from_the_profile() -> None:
    advise, _ = advisor()
    plan = device_only("cam", "phone", "fp", 0)
    assert advise.stage_s(plan, "phone") == pytest.approx(0.3)
