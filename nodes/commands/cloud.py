"""`anabranch cloud`."""

from __future__ import annotations

from nodes.batches import Batches
from nodes.cloud import CloudNode
from nodes.commands import options as opt
from nodes.commands.serving import Launch, serve


def cloud(
    name: opt.Name = "cloud-1",
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
    keys: opt.Keys = None,
    insecure: opt.Insecure = False,
    batches: opt.Together = Batches.EXACT,
    layout: opt.Pinned = None,
    child: opt.Child = False,
) -> None:
    """Start a cloud node: it runs the end of the network.

    Example: anabranch cloud --name cloud-1 --model builtin --scheduler tcp://10.0.0.1:5700,tcp://10.0.0.1:5701
    """
    launch = Launch(
        "cloud", name, model, weights, scheduler, listen, advertise, torch_device, torch_threads, emulate_speed,
        insecure, config, tuple(peer or ()), layout, batches, keys,
    ).resolved()  # fmt: skip
    serve(CloudNode(launch.settings(), launch.load()), child)
