"""The edge node: a stage between the device and the cloud."""

from __future__ import annotations

from nodes.node import Node, NodeSettings
from pipeline.model.spec import LoadedModel
from pipeline.plan import Tier


class EdgeNode(Node):
    """Runs the middle of the network."""

    def __init__(self, settings: NodeSettings, model: LoadedModel) -> None:
        super().__init__(settings, model, Tier.EDGE)
