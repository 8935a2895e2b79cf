"""A plan that leaves everything to the device needs no building: the whole network is there from the start."""

from __future__ import annotations

from pipeline.plan import Tier, device_only
from tests.nodes.tiny import NAMES, Deployment


def test_a_device_only_plan_runs_on_what_epoch_0_has_built() -> None:
    deployment = Deployment(needs_plan=False)
    device = deployment.device(None)
    try:
        first = device.epochs.get("camera", 0)
        later = device.build(device_only("camera", NAMES[Tier.DEVICE], deployment.model.captured.graph, epoch=7))
    finally:
        deployment.stop()
    assert first is not None
    assert later is not None
    assert later.plan.epoch == 7
    assert later.compute == first.compute
