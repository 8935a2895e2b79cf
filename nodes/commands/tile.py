"""`anabranch tile`."""

from __future__ import annotations

from nodes.commands import options as opt
from nodes.commands.serving import Launch, serve
from nodes.tile import TileNode


def tile(
    name: opt.Name = "tile-1",
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
    layout: opt.Pinned = None,
    child: opt.Child = False,
) -> None:
    """Start a tile worker: it computes a part of an edge node's maps. Any number may join or leave at any time.

    Example: anabranch tile --name tile-1 --model builtin --scheduler tcp://10.0.0.1:5700,tcp://10.0.0.1:5701
    """
    launch = Launch(
        "tile", name, model, weights, scheduler, listen, advertise, torch_device, torch_threads, emulate_speed,
        insecure, config, tuple(peer or ()), layout, keys=keys,
    ).resolved()  # fmt: skip
    serve(TileNode(launch.settings(), launch.load()), child)
