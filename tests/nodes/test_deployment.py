"""Device, edge and cloud on real sockets in this process: every frame has one right result, in order."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pipeline.errors import NodeError
from pipeline.model.spec import load_model
from pipeline.plan import Plan, Tier
from scheduler.handmade import plan_of
from tests.nodes.tiny import NAMES, Deployment, epochs_of


@pytest.fixture
def deployment() -> Iterator[Deployment]:
    """A deployment whose nodes are stopped whatever happens."""
    one = Deployment()
    yield one
    one.stop()


def _plans(deployment: Deployment) -> list[Plan]:
    graph = deployment.model.captured.graph
    device, edge, cloud = Tier.DEVICE, Tier.EDGE, Tier.CLOUD
    three = plan_of(graph, "*", NAMES)
    picture_first = plan_of(graph, "*", NAMES, "input,second")
    straight = plan_of(graph, "*", {device: NAMES[device], cloud: NAMES[cloud]}, "first")
    edge_only = plan_of(graph, "*", {device: NAMES[device], edge: NAMES[edge]}, "input")
    return [three, picture_first, straight, edge_only]


@pytest.mark.parametrize("which", range(4), ids=["three tiers", "picture first", "device to cloud", "edge only"])
def test_every_frame_has_one_right_result(deployment: Deployment, which: int) -> None:
    deployment.plan = _plans(deployment)[which]
    with deployment.scheduler() as address:
        deployment.node(Tier.EDGE, address)
        deployment.node(Tier.CLOUD, address)
        device = deployment.device(address)
        deployment.run(device, 40)
        deployment.stop()
    deployment.check(40)
    assert epochs_of(deployment.outcomes) == {1: 40}
    nodes = [stage.node for stage in deployment.plan.stages]
    assert all([hop.node for hop in outcome.header.hops] == nodes for outcome in deployment.outcomes)


def test_a_device_without_a_scheduler_computes_alone(deployment: Deployment) -> None:
    deployment.needs_plan = False
    device = deployment.device(None)
    deployment.run(device, 10)
    deployment.check(10)
    assert epochs_of(deployment.outcomes) == {0: 10}


def test_a_needed_plan_that_does_not_come_is_an_error_that_says_what_to_check(deployment: Deployment) -> None:
    with deployment.scheduler() as address:
        device = deployment.device(address, timeout_s=0.5)
        with pytest.raises(NodeError, match="check that every node of the plan runs"):
            deployment.run(device, 10)
        deployment.stop()


def test_nodes_with_other_weights_are_refused_and_told_why(deployment: Deployment) -> None:
    other = load_model("tests.nodes.tiny:other_net")
    with deployment.scheduler() as address:
        edge = deployment.node(Tier.EDGE, address, other)
        deployment.node(Tier.CLOUD, address)
        device = deployment.device(address, timeout_s=1.5)
        with pytest.raises(NodeError, match="no plan that can run"):
            deployment.run(device, 10)
        assert edge.agent is not None
        assert "same model and weights" in edge.agent.refusal
        deployment.stop()


def test_frames_of_a_node_that_stops_are_admitted_again(deployment: Deployment) -> None:
    with deployment.scheduler() as address:
        edge = deployment.node(Tier.EDGE, address)
        deployment.node(Tier.CLOUD, address)
        device = deployment.device(address)
        killed = []

        def kill_after_ten(outcome) -> None:  # type: ignore[no-untyped-def]
            deployment.outcomes.append(outcome)
            if len(deployment.outcomes) == 10:
                edge.stop()
                killed.append(True)

        device._emit = kill_after_ten
        deployment.run(device, 60)
        deployment.stop()
    assert killed
    deployment.check(60)
    assert len(epochs_of(deployment.outcomes)) > 1
    assert device.admission.ledger.readmissions


def test_the_scheduler_may_die_and_the_last_plan_goes_on(deployment: Deployment) -> None:
    with deployment.scheduler() as address:
        deployment.node(Tier.EDGE, address)
        deployment.node(Tier.CLOUD, address)
        device = deployment.device(address)
        deployment.run(device, 5)
    device.admission._source_ended = False
    taken = len(deployment.outcomes)

    def feed(offer) -> None:  # type: ignore[no-untyped-def]
        from tests.nodes.tiny import waiting

        for number in range(taken, taken + 20):
            offer(waiting(number, deployment.model))

    device.run(feed)
    deployment.check(taken + 20)
    assert epochs_of(deployment.outcomes) == {1: taken + 20}
