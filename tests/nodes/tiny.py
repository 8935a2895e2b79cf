"""A network that computes in a millisecond, pictures for it, and a deployment of it inside this process."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import zmq
from PIL import Image
from torch import Tensor, nn

from nodes.admission import Outcome, Waiting
from nodes.agent import SchedulerAddress
from nodes.cloud import CloudNode
from nodes.device import DeviceNode, StreamSettings
from nodes.edge import EdgeNode
from nodes.keys import Keyring, Role
from nodes.local.ports import Ports
from nodes.node import Node, NodeSettings
from nodes.sockets import SocketFactory
from pipeline.frames.preprocess import Preprocess
from pipeline.frames.source import Frame
from pipeline.model.spec import LoadedModel, load_model
from pipeline.plan import Plan, Tier
from scheduler.advisor import NoAdvisor
from scheduler.core import CoreConfig, SchedulerCore
from scheduler.events import StreamConfigured
from scheduler.events import StreamSettings as Wanted
from scheduler.handmade import plan_of
from scheduler.service import SchedulerService

SPEC = "tests.nodes.tiny:net"
NAMES = {Tier.DEVICE: "device-1", Tier.EDGE: "edge-1", Tier.CLOUD: "cloud-1"}
BEAT_S = 0.1
"""Heartbeat of the deployments of the tests."""


class Net(nn.Module):
    """Two convolutions, a pooling and a linear layer, on 16x16 pictures."""

    preprocess = Preprocess(size=(16, 16), resize=None, mean=(128.0,) * 3, std=(64.0,) * 3)

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, stride=2, padding=1)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, 16, 16) to (N, 4)."""
        x = torch.relu(self.second(torch.relu(self.first(x))))
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


def net() -> Net:
    """The network with weights that every process agrees on."""
    torch.manual_seed(0)
    return Net().eval()


def other_net() -> Net:
    """The same structure with other weights."""
    torch.manual_seed(1)
    return Net().eval()


def picture(number: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """A small picture that depends on its number alone."""
    return np.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=np.uint8)


def picture_folder(path: Path, count: int) -> Path:
    """A folder of `count` pictures."""
    path.mkdir()
    for number in range(count):
        Image.fromarray(picture(number)).save(path / f"{number:05}.png")
    return path


def waiting(number: int, model: LoadedModel) -> Waiting:
    """A frame as the device's source gives it."""
    rgb = picture(number)
    return Waiting(Frame(number, number / 25, rgb), model.preprocess.picture(rgb))


def reference(model: LoadedModel, number: int) -> Tensor:
    """What the whole network gives for a picture."""
    with torch.inference_mode():
        return net()((waiting(number, model).picture.float() - 128.0) / 64.0)  # type: ignore[no-any-return]


@dataclass
class Deployment:
    """Scheduler, device, edge and cloud in this process, on real sockets with random ports."""

    model: LoadedModel = field(default_factory=lambda: load_model(SPEC))
    plan: Plan | None = None
    plans: dict[str, Plan] = field(default_factory=dict)
    """Of streams that have one of their own."""
    outcomes: list[Outcome] = field(default_factory=list)
    nodes: dict[str, Node] = field(default_factory=dict)
    needs_plan: bool = True
    keys: Path | None = None
    """Folder with the keys of all names."""
    ports: Ports = field(default_factory=Ports)
    via: Callable[[str], str] = lambda endpoint: endpoint
    """Puts something in front of a bound socket; returns where peers reach it then."""

    def keyring(self, name: str, role: Role) -> Keyring | None:
        """A node's keys, where there are any."""
        return Keyring(self.keys, name, role) if self.keys else None

    @contextlib.contextmanager
    def scheduler(self) -> Iterator[SchedulerAddress]:
        """A scheduler with a fixed plan."""
        graph = self.model.captured.graph
        plan = self.plan or plan_of(graph, "*", NAMES)
        core = SchedulerCore(
            NoAdvisor(), CoreConfig("test", settings=Wanted(planner="fixed", plan=plan), heartbeat_s=BEAT_S)
        )
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        factory = SocketFactory(context, keyring=self.keyring("scheduler", Role.SCHEDULER))
        inbox, reports = factory.subscriber("tcp://127.0.0.1:*", bind=True)
        outbox, plans = factory.publisher("tcp://127.0.0.1:*", bind=True)
        stop = threading.Event()
        service = SchedulerService(core, inbox, outbox)
        for stream, own in self.plans.items():
            service.inject(StreamConfigured(stream, Wanted(planner="fixed", plan=own)))
        thread = threading.Thread(target=service.run, args=(stop, BEAT_S))
        thread.start()
        try:
            yield SchedulerAddress(self.via(reports), self.via(plans))
        finally:
            stop.set()
            thread.join()
            context.term()
            self.ports.close()

    def settings(self, name: str, role: Role, address: SchedulerAddress | None) -> NodeSettings:
        """How a node is started."""
        listen = f"tcp://127.0.0.1:{self.ports.reserve()}"
        advertise = self.via(listen) if address is not None else ""
        keys = self.keyring(name, role)
        return NodeSettings(name, address, listen, advertise, report_interval_s=BEAT_S, keys=keys)

    def node(self, tier: Tier, address: SchedulerAddress, model: LoadedModel | None = None) -> Node:
        """Start an edge or cloud node."""
        settings = self.settings(NAMES[tier], Role(tier), address)
        kind = {Tier.EDGE: EdgeNode, Tier.CLOUD: CloudNode}[tier]
        node: Node = kind(settings, model or self.model)
        node.start()
        self.nodes[node.name] = node
        return node

    def device(self, address: SchedulerAddress | None, timeout_s: float = 20.0) -> DeviceNode:
        """Start the device."""
        settings = self.settings(NAMES[Tier.DEVICE], Role.DEVICE, address)
        stream = StreamSettings("camera", first_plan_timeout_s=timeout_s, needs_plan=self.needs_plan)
        device = DeviceNode(settings, self.model, stream, self.outcomes.append)
        device.start()
        self.nodes[device.name] = device
        return device

    def run(self, device: DeviceNode, frames: int) -> None:
        """Process `frames` pictures to the end."""

        def feed(offer) -> None:  # type: ignore[no-untyped-def]
            for number in range(frames):
                if not offer(waiting(number, self.model)):
                    return

        device.run(feed)

    def stop(self) -> None:
        """Stop what is still running."""
        for node in self.nodes.values():
            node.stop()
        self.ports.close()

    def check(self, frames: int) -> None:
        """Every frame has one result, in order, equal to the whole network's."""
        assert [outcome.waiting.frame.number for outcome in self.outcomes] == list(range(frames))
        for outcome in self.outcomes:
            (output,) = outcome.outputs.values()
            expected = reference(self.model, outcome.waiting.frame.number)
            assert float((output - expected).abs().max()) <= 1e-5 * float(expected.abs().max())


def epochs_of(outcomes: list[Outcome]) -> Mapping[int, int]:
    """Results per epoch."""
    counts: dict[int, int] = {}
    for outcome in outcomes:
        counts[outcome.header.epoch] = counts.get(outcome.header.epoch, 0) + 1
    return counts
