"""The cloud node: the last stage of most plans."""

from __future__ import annotations

from nodes.node import Node, NodeSettings
from pipeline.model.spec import LoadedModel
from pipeline.plan import Tier


class CloudNode(Node):
    """Runs the end of the network."""

    def __init__(self, settings: NodeSettings, model: LoadedModel) -> None:
        super().__init__(settings, model, Tier.CLOUD)
