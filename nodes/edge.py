"""The edge node: a stage between the device and the cloud, computed alone or with tile workers."""

from __future__ import annotations

import re

from nodes.keys import Purpose
from nodes.links import LinkMeter
from nodes.node import ANY_PORT, Node, NodeSettings
from nodes.tiles.coordinator import Coordinator
from nodes.tiles.maker import Running
from pipeline.model.spec import LoadedModel
from pipeline.plan import Plan, Tier
from pipeline.stage import StageProgram
from scheduler.commands import Announcement, Command
from scheduler.reports import Endpoints, QueueReport


class EdgeNode(Node):
    """Runs the middle of the network."""

    def __init__(self, settings: NodeSettings, model: LoadedModel) -> None:
        super().__init__(settings, model, Tier.EDGE)
        self.tiles = Coordinator(settings.name, model.captured, self.factory, self.directory)
        self.tiles.speed = self.speed

    def start(self) -> Endpoints:
        """Bind both inboxes and start the threads."""
        inbox, endpoint = self.factory.pull(self.settings.listen)
        answers, answers_endpoint = self.factory.pull(beside(self.settings.listen), Purpose.ANSWERS)
        endpoints = Endpoints(
            frames=self.settings.advertise or endpoint,
            tiles=moved(answers_endpoint, self.settings.advertise),
        )
        self.tiles.start(answers)
        self.loop.start(inbox)
        self.report_as(endpoints)
        return endpoints

    def close(self) -> None:
        """Stop the threads of the tiles."""
        self.tiles.stop()

    def build(self, plan: Plan) -> StageProgram | None:
        """As for any node; a tiled stage is shared with the workers that there are."""
        if plan.tiles is None or self.name not in plan.nodes:
            return super().build(plan)
        how = Running(self.settings.torch_device, self.settings.layout)
        return self.tiles.build(plan, plan.tiles, plan.hop_of(self.name), how)

    def hear(self, command: Command) -> None:
        """Learn of workers before plans are built for them."""
        if isinstance(command, Announcement):
            self.directory.learn(command.stream, command.current.stages[0].node, command.peers)
            self.tiles.hear(command)
        super().hear(command)

    @property
    def meters(self) -> tuple[LinkMeter, ...]:
        """The links from devices, and those from tile workers."""
        return (*super().meters, self.tiles.post.links)

    def queues(self) -> tuple[QueueReport, ...]:
        """As for any node, and what became of tiles that did not come back."""
        lost = {**self.tiles.post.counts, **{f"missed by {k}": v for k, v in self.tiles.roster.misses().items()}}
        return (*super().queues(), QueueReport("tiles", *self.tiles.post.queue, lost))


def beside(listen: str) -> str:
    """An address on the same interface with a free port."""
    return re.sub(r":(\d+|\*)$", ":*", listen) if listen.startswith("tcp://") else ANY_PORT


def moved(endpoint: str, advertised: str) -> str:
    """The endpoint as peers reach it who reach another one of the same host at `advertised`."""
    port = endpoint.rpartition(":")[2]
    return f"{advertised.rpartition(':')[0]}:{port}" if advertised else endpoint
