"""A device alone: the whole network is there from the start, and computes what is stuck in an outage."""

from __future__ import annotations

import time

import msgspec

from nodes.admission import Attempt
from pipeline.frames.wire import FrameHeader
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


def test_frames_that_no_result_comes_of_are_computed_on_the_device_one_by_one() -> None:
    """Two frames go by a plan whose link is dead; the source has ended, and the device has nothing else to do."""
    deployment, frames = Deployment(needs_plan=False), 2
    device = deployment.device(None)
    try:
        admission, graph = device.admission, deployment.model.captured.graph
        plan = msgspec.structs.replace(plan_of(graph, "camera", NAMES), epoch=1)
        program = device.build(plan)
        assert program is not None
        device.epochs.add(program)
        admission.hear(Announcement("camera", "test", 1, plan, commit=1, detour=True))
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
