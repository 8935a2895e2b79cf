"""What the launchers of edge, cloud and tile nodes have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from nodes.batches import Batches
from nodes.commands import options as opt
from nodes.commands.options import from_file, peer_endpoints, scheduler_address
from nodes.keys import Keyring, Role
from nodes.launch import stop_on_signals, stop_with_parent, tell_ready
from nodes.node import Node, NodeSettings
from pipeline.errors import ConfigError
from pipeline.model import memory
from pipeline.model.layouts import Layout
from pipeline.model.spec import LoadedModel, load_model


@dataclass(frozen=True)
class Launch:
    """The options of one node."""

    tier: str
    name: str
    model: str = "builtin"
    weights: Path | None = None
    scheduler: str = ""
    listen: str = "tcp://127.0.0.1:*"
    advertise: str = ""
    torch_device: str = "cpu"
    torch_threads: int = 0
    emulate_speed: float = 1.0
    insecure: bool = False
    config: Path | None = None
    peers: tuple[str, ...] = ()
    layout: Layout | None = None
    batches: Batches = Batches.EXACT
    keys: Path | None = None
    emulate_profile: Path | None = None

    def resolved(self) -> Launch:
        """With what the deployment file says, where one is given."""
        found = from_file(self.config, self.name, self.tier)
        if found is None:
            return self
        deployment, node = found
        address = deployment.scheduler
        return Launch(
            self.tier, self.name, deployment.model, deployment.weights, f"{address.reports},{address.plans}",
            node.listen, node.advertise, node.torch_device, node.torch_threads, node.emulate_speed, deployment.insecure,
            batches=self.batches, keys=deployment.keys,
        )  # fmt: skip

    def settings(self) -> NodeSettings:
        """What the node itself is given.

        Raises:
            ConfigError: an address that is none, or keys that are not as they should be.
        """
        scheduler = scheduler_address(self.scheduler)
        keys = Keyring(self.keys, self.name, Role(self.tier)) if self.keys is not None else None
        if keys is not None and scheduler is not None:
            keys.server_key(keys.scheduler)
        return NodeSettings(
            self.name, scheduler, self.listen, self.advertise,
            peer_endpoints(self.peers), torch_device=self.torch_device, emulate_speed=self.emulate_speed,
            insecure=self.insecure, layout=self.layout, batches=self.batches, keys=keys,
            emulate_profile=self.emulate_profile,
        )  # fmt: skip

    def load(self) -> LoadedModel:
        """The model, after torch is set up.

        Raises:
            ConfigError: a torch device that this machine does not have.
            ModelError: see `load_model`.
        """
        if self.torch_threads:
            torch.set_num_threads(self.torch_threads)
        if self.torch_device.startswith("cuda") and not torch.cuda.is_available():
            raise ConfigError(f"--torch-device {self.torch_device}", "this machine has none", "use cpu")
        return load_model(self.model, weights=self.weights)


def stage_command(tier: str, node: Callable[[NodeSettings, LoadedModel], Node]) -> Callable[..., None]:
    """The command that starts a node of a tier; its help is its docstring, which the caller gives it."""

    def command(
        name: opt.Name = f"{tier}-1",
        model: opt.Model = "builtin",
        weights: opt.Weights = None,
        scheduler: opt.Scheduler = "",
        listen: opt.Listen = "tcp://127.0.0.1:*",
        advertise: opt.Advertise = "",
        config: opt.Config = None,
        peer: opt.Peer = None,
        torch_device: opt.TorchDevice = "cpu",
        torch_threads: opt.TorchThreads = 0,
        emulate_speed: opt.EmulateSpeed = 1.0,
        emulate_profile: opt.EmulateProfile = None,
        keys: opt.Keys = None,
        insecure: opt.Insecure = False,
        batches: opt.Together = Batches.EXACT,
        layout: opt.Pinned = None,
        child: opt.Child = False,
    ) -> None:
        launch = Launch(
            tier, name, model, weights, scheduler, listen, advertise, torch_device, torch_threads, emulate_speed,
            insecure, config, tuple(peer or ()), layout, batches, keys, emulate_profile,
        ).resolved()  # fmt: skip
        serve(node(launch.settings(), launch.load()), child)

    return command


def serve(node: Node, child: bool) -> None:
    """Run a node until it is told to stop."""
    stop_on_signals(node.stopping.set)
    if child:
        stop_with_parent(node.stopping.set)
    endpoints = node.start()
    memory.settle()
    tell_ready({"frames": endpoints.frames, "tiles": endpoints.tiles})
    try:
        node.wait()
    finally:
        node.stop()
