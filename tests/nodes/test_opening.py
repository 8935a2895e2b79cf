"""A node connects to where its frames will go as soon as their plan is built."""

from __future__ import annotations

import msgspec
import pytest
import zmq

from nodes.cloud import CloudNode
from nodes.keys import Purpose
from nodes.node import NodeSettings
from nodes.sockets import SocketFactory
from pipeline.model.spec import load_model
from pipeline.plan import Tier
from scheduler.commands import Announcement
from scheduler.handmade import plan_of
from scheduler.reports import Endpoints
from tests.nodes.processes import eventually
from tests.nodes.tiny import NAMES, SPEC


@pytest.mark.timeout(60)
def test_the_way_home_is_open_before_the_first_result() -> None:
    """Three round trips, which the first result waited for: 0.15 s of a replay."""
    model, context = load_model(SPEC), zmq.Context[zmq.Socket[bytes]]()
    cloud = CloudNode(NodeSettings(NAMES[Tier.CLOUD]), model)
    results, endpoint = SocketFactory(context).pull("tcp://127.0.0.1:*", Purpose.RESULTS)
    try:
        cloud.start()
        plan = msgspec.structs.replace(plan_of(model.captured.graph, "camera", NAMES), epoch=1)
        peers = {NAMES[Tier.DEVICE]: Endpoints(results=endpoint)}
        cloud.hear(Announcement("camera", "test", 1, plan, prepared=plan, peers=peers))
        eventually(lambda: cloud.factory.is_open(endpoint), "a connection to the device", 20.0)
        assert not results.poll(0), "nothing is sent by it"
    finally:
        cloud.stop()
        results.close()
        context.term()
