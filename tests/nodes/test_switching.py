"""Plans change under a running stream; an edge that answers the scheduler but takes no frames; many switches."""

from __future__ import annotations

import time

import pytest

from nodes.bench.switch import SwitchCase, run
from nodes.device import DeviceNode
from nodes.edge import EdgeNode
from nodes.node import NodeSettings
from pipeline.plan import Tier
from tests.nodes.tiny import BEAT_S, NAMES, SPEC, Deployment, epochs_of, waiting

IN_TIME = "first frames in time"


def test_switches_lose_and_change_nothing() -> None:
    report = run(SwitchCase(switches=25, model=SPEC, pictures=20, plans=8))
    # Lateness is `bench switch`'s to judge: 25 switches on a busy machine are too few for a hundredth.
    assert [bar for bar in report.bars if bar.name != IN_TIME and not bar.ok] == []


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_thousand_switches_are_free() -> None:
    report = run()
    assert [bar for bar in report.bars if not bar.ok] == []


def test_a_data_side_that_is_dead_is_tried_ever_less_often() -> None:
    deployment = Deployment(needs_plan=False)
    with deployment.scheduler() as address:
        settings = NodeSettings(NAMES[Tier.EDGE], address, report_interval_s=BEAT_S, advertise="tcp://127.0.0.1:1")
        edge = EdgeNode(settings, deployment.model)
        edge.start()
        deployment.nodes[edge.name] = edge
        deployment.node(Tier.CLOUD, address)
        device = deployment.device(address)
        count = _run_for(deployment, device, 12.0)
        deployment.stop()
    deployment.check(count)
    tried = {epoch for epoch, plan in device.admission._announced.items() if len(plan.stages) > 1}
    assert 1 <= len(tried) <= 4, "at 0 s, 5 s, 13 s: a send time-out and a rest, doubled each time"
    assert epochs_of(deployment.outcomes)[0] == count


def _run_for(deployment: Deployment, device: DeviceNode, seconds: float) -> int:
    """Feed a hundred frames a second for some time; returns their number."""
    fed: list[bool] = []
    until_s = time.monotonic() + seconds

    def feed(offer) -> None:  # type: ignore[no-untyped-def]
        while time.monotonic() < until_s and offer(waiting(len(fed), deployment.model)):
            fed.append(True)
            device.stopping.wait(0.01)

    device.run(feed)
    return len(fed)
