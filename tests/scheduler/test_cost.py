"""The cost model, against figures worked out by hand."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from pipeline.errors import ConfigError
from pipeline.model.graph import INPUT, OUTPUT, Block, ModelGraph, TensorSpec
from pipeline.plan import Link, Plan, Stage, Tier, TilePlan, TileStack
from scheduler.bounds import leaves_device, leaves_edge
from scheduler.cost import evaluate, violations
from scheduler.objective import Goal, Objective, Priority
from scheduler.planners.joint import Joint
from scheduler.problem import DEVICE_CLOUD, DEVICE_EDGE, EDGE_CLOUD, LinkEstimate, LoadEstimate, Power, Problem
from scheduler.tables import PackingTable, SegmentTimes
from scheduler.tiles import Grid, TileTable, mask_words, waists


def residual() -> ModelGraph:
    """a -> b -> sum of a and b: `a` is read twice."""
    names = (INPUT, "a", "b", "c")
    tensors = {name: TensorSpec(name, (1, 10)) for name in names} | {"c": TensorSpec("c", (1, 1), "uint8")}
    blocks = (
        Block(0, "A", "conv", ("a",), (INPUT,), ("a",), 100, 8),
        Block(1, "B", "conv", ("b",), ("a",), ("b",), 100, 8),
        Block(2, "C", "add", ("c",), ("a", "b"), ("c",), 10, 0),
    )
    return ModelGraph("residual", "0123", blocks, tensors, ("c",))


def world(**changes: object) -> Problem:
    """Seconds per block 4, 2, 1 for device, edge, cloud; 8 bit/s per hop and byte costs nothing but time."""
    graph = residual()
    potential = np.array([0.0, 1.0, 2.0, 3.0])

    def times(block_s: float, contention: float = 0.0) -> SegmentTimes:
        memory = np.array([40.0, 100.0, 200.0, 210.0])
        return SegmentTimes(
            potential * block_s, potential * block_s, np.full(3, block_s), memory, contention=contention
        )

    shape = (4, 2)
    packing = PackingTable(
        codecs=("fp32", "q4"),
        bytes=np.array([[40.0, 5.0], [40.0, 5.0], [80.0, 10.0], [40.0, 5.0]]),
        drop=np.array([[0.0, np.nan], [0.0, 0.01], [0.0, 0.02], [0.0, 0.0]]),
        encode_s=np.zeros(shape) + np.array([0.0, 0.5]),
        decode_s=np.zeros(shape) + np.array([0.0, 0.25]),
        pair_drop={(1, 1, 2, 1): 0.025},
    )
    problem = Problem(
        graph=graph,
        stream="s",
        nodes={Tier.DEVICE: "d", Tier.EDGE: "e", Tier.CLOUD: "c"},
        times={"d": times(4.0), "e": times(2.0), "c": times(1.0)},
        packing=packing,
        links={
            DEVICE_EDGE: LinkEstimate(80.0, 0.1),
            EDGE_CLOUD: LinkEstimate(40.0, 0.2),
            DEVICE_CLOUD: LinkEstimate(8.0, 0.3),
        },
    )
    return dataclasses.replace(problem, **changes)  # type: ignore[arg-type]


def plan(*parts: str, tiles: TilePlan | None = None) -> Plan:
    """`d:A fp32 e:B q4 c` as a plan."""
    nodes = {"d": Tier.DEVICE, "e": Tier.EDGE, "c": Tier.CLOUD}
    stages = []
    for part in parts[::2]:
        node, _, until = part.partition(":")
        stages.append(Stage(nodes[node], node, until or OUTPUT))
    return Plan(0, "s", "0123", tuple(stages), tuple(Link(codec) for codec in parts[1::2]), tiles)


def test_three_tiers_by_hand() -> None:
    cost = evaluate(world(), plan("d:A", "fp32", "e:B", "q4", "c"))
    # Device 4, link 40 bytes at 10 bytes/s, edge 2, packing 0.5, 10 bytes at 5 bytes/s, unpacking 0.25, cloud 1;
    # then 1 byte at 1 byte/s straight home.
    assert cost.latency_s == pytest.approx(4 + 4 + 2 + 0.5 + 2 + 0.25 + 1 + 1 + (0.1 + 0.2 + 0.3) / 2)
    assert (cost.period_s, cost.bottleneck) == (4.0, "device compute")
    assert cost.throughput_fps == 0.25
    assert [link.bytes for link in cost.links] == [40.0, 10.0]
    assert (cost.bytes, cost.accuracy_drop, cost.cloud_busy_s, cost.device_busy_s) == (50.0, 0.02, 1.25, 4.0)
    assert (cost.device_memory_bytes, cost.energy_j) == (100.0, None)


def test_results_go_home_straight_or_over_the_edge_and_can_be_the_bottleneck() -> None:
    three = plan("d:A", "fp32", "e:B", "q4", "c")
    links = {DEVICE_EDGE: LinkEstimate(80.0, 0.1), EDGE_CLOUD: LinkEstimate(40.0, 0.2)}
    home = evaluate(world(links=links), three).home
    assert (home.transfer_s, home.delay_s) == pytest.approx((8 / 40, 0.15))
    slow = evaluate(world(links={**links, DEVICE_CLOUD: LinkEstimate(1.0)}), three)
    assert (slow.period_s, slow.bottleneck) == (8.0, "way home")
    assert evaluate(world(), plan("d")).home.seconds == 0.0


def test_the_tensor_read_twice_is_paid_for_once() -> None:
    """Behind A, its output goes to B and C: one tensor crosses; behind B, both do."""
    graph = residual()
    assert graph.cut("A").tensors == ("a",)
    assert graph.cut("B").tensors == ("a", "b")
    assert evaluate(world(), plan("d:A", "fp32", "c")).bytes == 40.0


def test_measured_pair_wins_over_the_sum_of_drops() -> None:
    assert evaluate(world(), plan("d:A", "q4", "e:B", "q4", "c")).accuracy_drop == 0.025
    assert evaluate(world(), plan("d:A", "q4", "e:A", "q4", "c")).accuracy_drop == pytest.approx(0.02)
    assert evaluate(world(), plan("d:input", "q4", "e")).accuracy_drop is None


def test_loads_contention_and_quantile_slow_things_down() -> None:
    base = world()
    slow = dataclasses.replace(base, loads={"e": LoadEstimate(3.0)})
    assert evaluate(slow, plan("d:A", "fp32", "e:B", "q4", "c")).stages[1].compute_s == 6.0
    assert evaluate(slow, plan("d:A", "fp32", "e:B", "q4", "c")).stages[1].encode_s == 1.5
    shared = {**base.times, "d": dataclasses.replace(base.times["d"], contention=1.0)}
    assert evaluate(world(times=shared), plan("d:A", "q4", "e")).stages[0].compute_s == 4.5
    links = {DEVICE_EDGE: LinkEstimate(80.0, 0.0, 0.5)}
    wary = world(links=links, objective=Objective(quantile=0.9))
    sure = world(links=links)
    two = plan("d:A", "fp32", "e")
    assert evaluate(wary, two).links[0].transfer_s == pytest.approx(
        evaluate(sure, two).links[0].transfer_s * 1.898, rel=1e-3
    )


def test_energy_counts_computing_packing_and_sending() -> None:
    cost = evaluate(world(power=Power(2.0, 3.0)), plan("d:A", "q4", "e"))
    assert cost.energy_j == pytest.approx(2.0 * 4.5 + 3.0 * 0.5)


def test_everything_on_the_device_crosses_nothing() -> None:
    cost = evaluate(world(), plan("d"))
    assert (cost.latency_s, cost.period_s, cost.bytes, cost.accuracy_drop) == (12.0, 12.0, 0, 0.0)


def test_tiles_save_what_the_table_says() -> None:
    graph = residual()
    where = waists(mask_words(graph))
    gain = np.zeros((1, len(where), len(where)))
    gain[0, 1, 3] = 1.5
    table = TileTable(where, (Grid((0.5, 0.5)),), gain, ("e", "t"))
    problem = world(tiles=table)
    tiled = TilePlan((TileStack("A"), TileStack(OUTPUT, (0.5, 0.5))), ("e", "t"))
    assert evaluate(problem, plan("d:input", "fp32", "e", tiles=tiled)).stages[1].compute_s == 4.5
    assert table.choose(graph, 0, 3) == tiled
    assert table.choose(graph, 2, 3) is None
    assert table.choose(graph, 1, 3) == TilePlan((TileStack(OUTPUT, (0.5, 0.5)),), ("e", "t"))


def test_a_chain_of_stacks_saves_what_the_table_says_of_its_run() -> None:
    graph = residual()
    where = waists(mask_words(graph))
    gain = np.zeros((1, len(where), len(where)))
    gain[0, 0, 1], gain[0, 0, 3] = 0.5, 2.0
    chain = (TileStack("A", (0.5, 0.5)), TileStack(OUTPUT, (0.5, 0.5), chained=True))
    table = TileTable(where, (Grid(),), gain, ("e", "t"), stacks={(0, 3): chain, (0, 1): chain[:1]})
    chosen = table.choose(graph, 0, 3)
    assert chosen is not None and chosen.stacks == chain
    start = graph.cut("input")
    assert table.saved_by(graph, chosen, start) == 2.0
    merged = TilePlan((chain[0], TileStack(OUTPUT, (0.5, 0.5))), ("e", "t"))
    assert table.saved_by(graph, merged, start) == 0.5, "what is merged in between is not that run"


def test_privacy_looks_at_tensors_not_at_blocks() -> None:
    graph = residual()
    assert leaves_device(graph, "A").tolist() == [False, True, True, True]
    # `a`, which B reads, also goes around B to C: it crosses every cut before the end.
    assert leaves_device(graph, "B").tolist() == [False, False, False, True]
    assert leaves_edge(graph, True).tolist() == [False, True, True, True]
    with pytest.raises(ConfigError, match="no such block"):
        leaves_device(graph, "Z")


def test_violations_name_bounds_with_their_excess() -> None:
    objective = Objective(max_latency_s=10.0, max_drop=0.01, private_until="C", pictures_stay_at_edge=True)
    problem = world(objective=objective)
    two = plan("d:input", "fp32", "c")
    found = violations(problem, two, evaluate(problem, two))
    assert found["max_latency_s"] == pytest.approx((40 + 3 + 1 + 0.3 - 10) / 10)
    assert found["private_until"] == found["pictures_stay_at_edge"] == np.inf
    assert "max_drop" not in found
    lossy = plan("d:input", "q4", "e")
    assert violations(problem, lossy, evaluate(problem, lossy))["max_drop"] == np.inf


def test_impossible_bounds_give_the_nearest_plan_and_name_the_bound() -> None:
    problem = world(objective=Objective((Priority(Goal.LATENCY),), max_latency_s=1.0, max_drop=0.01))
    decision = Joint().plan(problem)
    assert decision.violated == "max_latency_s"
    relaxed = dataclasses.replace(problem, objective=Objective((Priority(Goal.LATENCY),), max_drop=0.01))
    assert decision.plan == Joint().plan(relaxed).plan


def test_a_source_slower_than_the_plan_makes_plans_equal() -> None:
    """Beyond the source's rate, throughput is worth nothing, and latency decides."""
    problem = world(objective=Objective())
    fast = Joint().plan(problem).cost
    slow = Joint().plan(dataclasses.replace(problem, fps=0.01)).cost
    assert slow.latency_s <= fast.latency_s
    assert slow.latency_s == Joint().plan(world(objective=Objective((Priority(Goal.LATENCY),)))).cost.latency_s


def test_bytes_per_second_need_a_frame_rate() -> None:
    with pytest.raises(ConfigError, match="the frame rate is not known"):
        Joint().plan(world(objective=Objective(max_bytes_per_s=10.0)))
    decision = Joint().plan(world(objective=Objective(max_bytes_per_s=10.0), fps=1.0))
    assert decision.cost.bytes <= 10.0


def test_objective_reads_priorities_and_refuses_nonsense() -> None:
    found = Objective.parse("latency~5%, bytes~0.2", max_drop=0.01)
    assert found.priorities == (Priority(Goal.LATENCY, 0.05), Priority(Goal.BYTES, 0.2))
    for text in ("", "speed", "latency,latency", "latency~x"):
        with pytest.raises(ConfigError):
            Objective.parse(text)
    with pytest.raises(ConfigError, match="quantile"):
        Objective(quantile=1.0)
    with pytest.raises(ConfigError, match="power"):
        Joint().plan(world(objective=Objective((Priority(Goal.ENERGY),))))


def test_headroom_follows_throughput_with_its_tolerance_and_once() -> None:
    goals = [(level.goal, level.tolerance) for level in Objective.parse("throughput~10%,bytes").levels]
    assert goals == [(Goal.THROUGHPUT, 0.1), (Goal.HEADROOM, 0.1), (Goal.BYTES, 0.0), (Goal.LATENCY, 0.0)]
    named = Objective.parse("throughput,latency,headroom")
    assert named.levels == named.priorities
    assert [level.goal for level in Objective.parse("latency").levels] == [Goal.LATENCY]


def test_headroom_is_the_period_were_the_links_faster() -> None:
    slow = plan("d:A", "fp32", "e")  # 4 s on the device, 4 s on the link (40 bytes), 4 s on the edge
    sure, unsure = LinkEstimate(8.0), LinkEstimate(8.0, uncertainty=0.25)
    for link, share in ((sure, 1.0), (unsure, math.exp(-0.5))):
        cost = evaluate(world(links={DEVICE_EDGE: link}), slow)
        assert cost.period_s == 40.0
        assert cost.headroom_s == pytest.approx(40.0 * share)
    certain_to_be_fast = LinkEstimate(8.0, uncertainty=5.0)
    assert evaluate(world(links={DEVICE_EDGE: certain_to_be_fast}), slow).headroom_s == 4.0, "the device's own time"


def test_of_plans_that_wait_for_one_link_the_one_with_more_in_hand_is_best() -> None:
    """Five bytes on the slow link either way; behind it the cloud computes three blocks, or the edge one of them."""
    sure, unsure = (
        world(links={DEVICE_EDGE: LinkEstimate(8.0, 0.1, uncertainty), EDGE_CLOUD: LinkEstimate(1e6, 0.2)})
        for uncertainty in (0.0, 2.0)
    )
    quick, ready = Joint().plan(sure).plan, Joint().plan(unsure).plan
    costs = evaluate(unsure, quick), evaluate(unsure, ready)
    assert costs[0].period_s == costs[1].period_s
    assert costs[0].latency_s < costs[1].latency_s
    assert costs[0].headroom_s > costs[1].headroom_s
