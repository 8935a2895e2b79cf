"""Which stages of an edge node are still fitted to its workers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import zmq

from nodes.outlet import Directory
from nodes.sockets import SocketFactory
from nodes.tiles.coordinator import Coordinator
from nodes.tiles.layout import Conditions
from nodes.tiles.maker import LayoutMaker, Running
from nodes.tiles.stage import JUDGED_FRAMES, TiledStage
from nodes.tiles.wire import Wire
from pipeline.frames.wire import Message, TileOrder, decode, encode
from pipeline.model.spec import load_model
from pipeline.plan import Link, Plan, Stage, Tier, TilePlan, TileStack
from pipeline.tiling.measure import BlockTimes
from scheduler.commands import Announcement
from tests.nodes.tiny import SPEC

EDGE = "edge-1"
TILES = TilePlan((TileStack("second", (0.5, 0.5)),), (EDGE,), open=True)


def plan(stream: str, epoch: int, model: str) -> Plan:
    stages = (Stage(Tier.DEVICE, "device-1", "input"), Stage(Tier.EDGE, EDGE, "output"))
    return Plan(epoch, stream, model, stages, (Link("fp32"),), TILES)


@pytest.mark.timeout(60)
def test_a_stage_that_a_later_plan_has_left_is_laid_out_no_more() -> None:
    """Its last frames would wait for the work; the stages of the plan that takes over, and of others, go on."""
    captured = load_model(SPEC).captured
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    factory = SocketFactory(context)
    coordinator = Coordinator(EDGE, captured, factory, Directory())
    inbox, _ = factory.pull("tcp://127.0.0.1:*")
    coordinator.start(inbox)
    try:
        plans = [plan(*each, captured.graph.fingerprint) for each in (("one", 1), ("one", 2), ("other", 1))]
        programs = [coordinator.build(each, TILES, 1, Running()) for each in plans]
        coordinator.hear(Announcement("one", "scheduler", 1, plans[0], plans[1], 2))
        left = {(each.plan.stream, each.plan.epoch): each.is_left for each in coordinator.stages}
        assert left == {("one", 1): True, ("one", 2): False, ("other", 1): False}
        assert all(stage.settled.is_set() for stage in coordinator.stages)
        assert len(programs) == len(left)
    finally:
        coordinator.stop()
        context.term()


@pytest.mark.parametrize(("open_to_all", "gives_up"), [(True, False), (False, True)])
def test_stacks_of_a_planner_are_given_up_where_they_cost_time_and_those_of_a_user_are_not(
    open_to_all: bool, gives_up: bool
) -> None:
    captured = load_model(SPEC).captured
    tiles = TilePlan(TILES.stacks, (EDGE,), open=open_to_all)
    made = plan("one", 1, captured.graph.fingerprint)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    site = Coordinator(EDGE, captured, SocketFactory(context), Directory()).site
    start, end = made.span(1, captured.graph)
    stage = TiledStage(made, tiles, LayoutMaker(captured, start, end, tiles, Running()), site)
    untiled_s = sum(stage.maker.times.block_s.values())
    for _ in range(JUDGED_FRAMES):
        stage.record.add(True, 2.0 * untiled_s)
    assert stage.loses(1.0) is gives_up
    for _ in range(2 * JUDGED_FRAMES):
        stage.record.add(True, 0.5 * untiled_s)
    assert not stage.loses(1.0)
    context.term()


@pytest.mark.timeout(60)
def test_edges_come_first_once_crossing_takes_longer_and_the_same_stacks_are_kept() -> None:
    captured = load_model(SPEC).captured
    tiles = TilePlan(
        (TileStack("first", (0.5, 0.5)), TileStack("second", (0.5, 0.5), chained=True)), (EDGE,), open=True
    )
    start, end = captured.graph.cuts[0], captured.graph.cut("second")
    maker = LayoutMaker(captured, start, end, tiles, Running())
    maker.times = BlockTimes(dict.fromkeys(maker.times.block_s, 0.01), {})
    crew = (EDGE, "tile-1")
    near, far = (Conditions(crew, dict.fromkeys(crew, 1.0), Wire(1e11, fixed_s, fixed_s)) for fixed_s in (1e-5, 0.1))
    here, there = maker.choose(near), maker.choose(far)
    assert here.pieces == there.pieces
    assert not here.early and there.early == {"first"}
    assert [task.early for task in there.tasks["tile-1"]] == [True, False]
    assert there.meetings == here.meetings - 1, "nobody waits for what crosses meanwhile"
    measured = replace(far, wire=Wire(1e11, 0.1, np.float64(0.1)))  # as a median of numpy's numbers is
    order = TileOrder(EDGE, "model", 1, "fp32", maker.choose(measured).tasks["tile-1"])
    assert decode(encode(Message(order))).header == order, "what numpy says goes over the wire as well"
    assert maker.gains(there, here)
    assert not maker.gains(there, there) and not maker.gains(here, here)
