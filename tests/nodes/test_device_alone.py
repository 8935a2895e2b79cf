"""A device alone: the whole network is there from the start, and computes what is stuck in an outage."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from functools import partial

import msgspec
import torch
from torch import Tensor

from nodes.admission import Attempt
from nodes.device import DeviceNode
from nodes.stage import Aside, StageLoop
from pipeline.frames.wire import FrameHeader, Hop
from pipeline.model.graph import INPUT
from pipeline.plan import Tier, device_only
from scheduler.commands import Announcement
from scheduler.handmade import plan_of
from tests.nodes.tiny import NAMES, Deployment, waiting


def test_a_device_only_plan_runs_on_what_epoch_0_has_built() -> None:
    deployment = Deployment(needs_plan=False)
    device = deployment.device(None)
    try:
        first = device.epochs.get("camera", 0)
        later = device.build(
            device_only("camera", NAMES[Tier.DEVICE], deployment.model.captured.graph.fingerprint, epoch=7)
        )
    finally:
        deployment.stop()
    assert first is not None
    assert later is not None
    assert later.plan.epoch == 7
    assert later.compute == first.compute


def test_a_plan_that_is_committed_before_it_is_built_runs_as_soon_as_it_is() -> None:
    """As one for the device alone is, when its links fail: the next announcement comes a second later."""
    deployment = Deployment(needs_plan=False)
    device = deployment.device(None)
    try:
        plan = device_only("camera", NAMES[Tier.DEVICE], deployment.model.captured.graph.fingerprint, epoch=7)
        device.hear(Announcement("camera", "test", 1, plan, commit=7))
        assert any(device.admission.wait_for_plan(10.0) for _ in range(100)), "a call waits for 0.1 s"
        assert device.admission.plan == plan
    finally:
        deployment.stop()


def hear_of_a_split_plan(
    deployment: Deployment, device: DeviceNode, *, detour: bool = False, fills_up: bool = False, hedges: bool = False
) -> None:
    """Epoch 1, which is built and committed."""
    plan = msgspec.structs.replace(plan_of(deployment.model.captured.graph, "camera", NAMES), epoch=1)
    program = device.build(plan)
    assert program is not None
    device.epochs.add(program)
    device.admission.hear(
        Announcement("camera", "test", 1, plan, commit=1, detour=detour, fills_up=fills_up, hedges=hedges)
    )


def test_frames_that_no_result_comes_of_are_computed_on_the_device_one_by_one() -> None:
    """Two frames go by a plan whose link is dead; the source has ended, and the device has nothing else to do."""
    deployment, frames = Deployment(needs_plan=False), 2
    device = deployment.device(None)
    try:
        admission, graph = device.admission, deployment.model.captured.graph
        hear_of_a_split_plan(deployment, device, detour=True)
        attempts = admission.attempts()
        sent: list[Attempt] = []
        for number in range(frames):
            assert admission.offer(waiting(number, deployment.model))
            sent.append(next(attempts))
        admission.source_ended()
        again = []
        for attempt in attempts:
            entry = attempt.entry
            again.append((entry.frame, attempt.plan.epoch))
            assert admission.expects(entry.frame, sent[entry.frame].entry.attempt), "the other result counts as well"
            own = FrameHeader("camera", graph.fingerprint, 0, entry.frame, entry.attempt, 1, 0, ())
            admission.complete(own, {}, time.monotonic())
    finally:
        deployment.stop()
    assert [attempt.plan.epoch for attempt in sent] == [1] * frames
    assert again == [(number, 0) for number in range(frames)]
    assert admission.ledger.readmissions == {"stuck": frames}


def test_a_device_whose_plan_is_full_computes_the_next_frame_alone() -> None:
    """Ten results a second, of a plan that takes nothing of the device's time; then none comes for a moment."""
    deployment = Deployment(needs_plan=False)
    device = deployment.device(None)
    try:
        admission, graph = device.admission, deployment.model.captured.graph
        admission.flow.detour.alone_s = 0.05
        hear_of_a_split_plan(deployment, device, fills_up=True)
        attempts, now = admission.attempts(), time.monotonic()
        for number in range(200):
            assert admission.offer(waiting(number, deployment.model))
            attempt = next(attempts)
            entry = attempt.entry
            assert attempt.plan.epoch == 1
            hops = (Hop("device-1"),)
            own = FrameHeader("camera", graph.fingerprint, 1, entry.frame, entry.attempt, 1, 0, (), hops)
            admission.complete(own, {}, now + 0.1 * (number + 1))
        epochs = []
        for number in range(200, 201 + admission.ledger.window):
            assert admission.offer(waiting(number, deployment.model))
            epochs.append(next(attempts).plan.epoch)
    finally:
        deployment.stop()
    assert epochs == [1] * (len(epochs) - 1) + [0]


def test_a_device_computes_the_frame_that_it_has_just_sent_as_well_where_latency_counts() -> None:
    """Its own result is there first; the other one gives back the credit."""
    deployment = Deployment(needs_plan=False)
    device = deployment.device(None)
    try:
        admission, graph = device.admission, deployment.model.captured.graph
        hear_of_a_split_plan(deployment, device, hedges=True)
        admission.flow.result((1000, 0), 1, 0.0, 1.0)
        attempts = admission.attempts()
        assert admission.offer(waiting(0, deployment.model))
        sent, again = next(attempts), next(attempts)
        frame, credit = sent.entry.frame, admission.ledger.window
        own = FrameHeader("camera", graph.fingerprint, 0, frame, again.entry.attempt, 1, 0, ())
        assert len(admission.complete(own, {}, time.monotonic())) == 1
        taken = [
            admission.ledger.admit(number, 1, waiting(number, deployment.model), 0.0) for number in range(1, credit)
        ]
        assert not admission.ledger.has_credit, "the frame fills its link still"
        assert not admission.expects(frame, sent.entry.attempt)
        admission.count_unasked(frame, sent.entry.attempt)
        assert admission.ledger.has_credit
    finally:
        deployment.stop()
    assert (sent.plan.epoch, again.plan.epoch) == (1, 0)
    assert again.entry.frame == frame
    assert len(taken) == credit - 1


def test_a_frame_that_the_device_computes_alone_lets_others_go_first_and_stops_once_it_has_its_result() -> None:
    """One frame that waits goes between two of its pieces; what is left of it is not computed where nobody wants it."""
    deployment = Deployment(needs_plan=False)
    device = deployment.device(None)
    order: list[str] = []
    wanted, begun, come = [True], threading.Event(), threading.Event()
    loop = StageLoop("device-1", "model", device.epochs, device.loop.outlet)
    loop.handoffs["computed"].bound = 8
    try:
        program = device.epochs.get("camera", 0)
        assert program is not None

        def piece(number: int, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            order.append(f"piece {number}")
            begun.set()
            assert come.wait(10.0)
            wanted[0] = number < 1
            return tensors

        def frame(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            order.append("frame")
            done.set()
            return tensors

        done = threading.Event()
        header = FrameHeader("camera", "model", 0, 0, 0, 0, 0, ())
        thread = threading.Thread(target=loop._compute, daemon=True)
        thread.start()
        pieces = [partial(piece, number) for number in range(4)]
        loop.submit(header, program, {}, Aside(pieces, lambda: wanted[0]))
        assert begun.wait(10.0)
        loop.submit(msgspec.structs.replace(header, frame=1), replace(program, compute=frame), {})
        come.set()
        assert done.wait(10.0)
        loop.submit(msgspec.structs.replace(header, frame=2), replace(program, compute=frame), {})
        loop.handoffs["unpacked"].close()
        thread.join(10.0)
    finally:
        loop.handoffs["computed"].close()
        deployment.stop()
    assert not thread.is_alive()
    assert order[:3] == ["piece 0", "frame", "piece 1"]
    assert "piece 2" not in order


def test_the_pieces_of_the_network_give_what_the_network_gives() -> None:
    deployment = Deployment(needs_plan=False)
    device = deployment.device(None)
    try:
        program = device.epochs.get("camera", 0)
        assert program is not None
        tensors = {INPUT: waiting(3, deployment.model).picture}
        whole = program.compute(dict(tensors))
        for piece in device.pieces(16):
            tensors = piece(tensors)
    finally:
        deployment.stop()
    assert whole.keys() == tensors.keys()
    assert all(torch.allclose(whole[name], tensors[name], rtol=1e-5, atol=1e-6) for name in whole)
