"""Frames of several streams computed together: only where it is faster, and never with other bits."""

from __future__ import annotations

import itertools
import threading
from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from nodes.admission import Outcome
from nodes.batches import ROUNDING_ERROR, SIZES, Batches, Sizes, compute_together
from nodes.bench._alone import Alone
from nodes.cloud import CloudNode
from nodes.device import DeviceNode, StreamSettings
from nodes.node import NodeSettings
from pipeline.model.layouts import Layout
from pipeline.plan import Plan, Tier
from scheduler.handmade import plan_of
from tests.nodes.tiny import BEAT_S, Deployment, waiting

FRAMES = 30
LAYOUT = Layout.CONTIGUOUS


@given(st.lists(st.sampled_from([0.5, 0.8, 1.0, 2.0]), min_size=len(SIZES), max_size=len(SIZES)), st.integers(1, 20))
def test_the_fastest_size_that_waits_is_used(factors: list[float], count: int) -> None:
    sizes, frame_s = Sizes(), dict(zip(SIZES, factors, strict=True))
    used = []
    for _ in range(60):
        used.append(sizes.choose(count))
        sizes.timed(used[-1], used[-1] * frame_s[used[-1]])
    possible = [size for size in SIZES if size <= count]
    assert set(used) <= set(possible)
    assert frame_s[used[-1]] == min(frame_s[size] for size in possible)


@given(st.integers(1, 8), st.data())
def test_a_size_with_other_bits_is_never_used_again(count: int, data: st.DataObject) -> None:
    wrong = data.draw(st.sets(st.sampled_from(SIZES[1:])))
    sizes, clock = Sizes(), itertools.count()
    frames = [{"x": torch.tensor([[float(number)]])} for number in range(8)]

    def compute(given: dict[str, Tensor]) -> dict[str, Tensor]:
        size = len(given["x"])
        return {"y": given["x"] * 2.0 + (1e-6 if size in wrong else 0.0)}

    used: list[int] = []
    for _ in range(60):
        used.append(sizes.choose(count))
        made, _ = compute_together(compute, frames[: used[-1]], sizes, lambda: float(next(clock)))
        assert [float(each["y"]) for each in made] == [2.0 * number for number in range(used[-1])]
    for size in wrong:
        assert used.count(size) <= 1


@dataclass
class Camera:
    """A device of its own with a stream of its own."""

    number: int
    plan: Plan
    outcomes: list[Outcome] = field(default_factory=list)

    def start(self, deployment: Deployment, settings: NodeSettings) -> DeviceNode:
        stream = StreamSettings(self.plan.stream, first_plan_timeout_s=20.0, needs_plan=True)
        device = DeviceNode(settings, deployment.model, stream, self.outcomes.append)
        device.start()
        deployment.nodes[device.name] = device
        return device


@pytest.mark.parametrize(("clouds", "batches"), [(1, Batches.EXACT), (2, Batches.EXACT), (1, Batches.ROUNDING)])
def test_two_cameras_share_the_cloud_and_keep_their_results(clouds: int, batches: Batches) -> None:
    deployment = Deployment()
    graph = deployment.model.captured.graph
    cameras = []
    for number in range(2):
        names = {Tier.DEVICE: f"device-{number}", Tier.CLOUD: f"cloud-{number % clouds}"}
        cameras.append(Camera(number, plan_of(graph, f"camera-{number}", names)))
        deployment.plans[f"camera-{number}"] = cameras[-1].plan
    with deployment.scheduler() as address:
        loops = []
        for number in range(clouds):
            # So slow that frames wait in front of it.
            slow = NodeSettings(
                f"cloud-{number}", address, layout=LAYOUT, report_interval_s=BEAT_S, emulate_speed=0.01, batches=batches
            )
            cloud = CloudNode(slow, deployment.model)
            cloud.start()
            deployment.nodes[cloud.name] = cloud
            loops.append(cloud.loop)
        devices = [
            camera.start(
                deployment, NodeSettings(f"device-{camera.number}", address, layout=LAYOUT, report_interval_s=BEAT_S)
            )
            for camera in cameras
        ]
        threads = [threading.Thread(target=deployment.run, args=(device, FRAMES)) for device in devices]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        deployment.stop()
    alone = Alone(deployment.model, LAYOUT)
    pictures = [waiting(number, deployment.model).picture for number in range(FRAMES)]
    for camera in cameras:
        assert [outcome.waiting.frame.number for outcome in camera.outcomes] == list(range(FRAMES))
        for outcome in camera.outcomes:
            expected = alone.outputs(camera.plan, outcome.waiting.frame.number, pictures)
            for name, tensor in expected.items():
                error = float((outcome.outputs[name] - tensor).abs().max())
                allowed = ROUNDING_ERROR * float(tensor.abs().max()) if batches is Batches.ROUNDING else 0.0
                assert error <= allowed
        assert {outcome.header.hops[-1].node for outcome in camera.outcomes} == {camera.plan.nodes[1]}
    computed = [sum(size * count for size, count in loop.batches.counts.items()) for loop in loops]
    assert min(computed) >= 2 * FRAMES // clouds
    largest = max(max(loop.batches.counts) for loop in loops)
    assert largest > 1 if clouds == 1 else largest == 1, (
        "frames of two streams are computed together, of one they are not"
    )
