"""The networks that planners are compared on, and the figures that they are compared with."""

from __future__ import annotations

import functools
import importlib
from dataclasses import dataclass

from torch import nn

from pipeline.frames.preprocess import Preprocess
from pipeline.model.capture import CapturedModel
from pipeline.model.spec import load_model
from pipeline.plan import Tier
from pipeline.tiling.crew import Crew
from scheduler.objective import Objective
from scheduler.problem import DEVICE_CLOUD, DEVICE_EDGE, EDGE_CLOUD, Hop, LinkEstimate, Problem
from scheduler.simulate.figures import Machine, assumed_packing
from scheduler.tables import PackingTable
from scheduler.tiles import TileTable
from scheduler.tiling import tile_table

NETWORKS = {
    "alexnet": "pytorchcv.models.alexnet:alexnet",
    "vgg16": "pytorchcv.models.vgg:vgg16",
    "resnet18": "pytorchcv.models.resnet:resnet18",
    "darknet53": "pytorchcv.models.darknet53:darknet53",
    "inceptionv4": "pytorchcv.models.inceptionv4:inceptionv4",
    "mobilenetv2": "pytorchcv.models.mobilenetv2:mobilenetv2_w1",
    "resnet50": "pytorchcv.models.resnet:resnet50",
}

SIZES = {"inceptionv4": 299}
"""Pixels a side where it is not 224."""


def darknet53_416() -> nn.Module:
    """Darknet-53 at the smaller of the sizes at which YOLOv3 runs its convolutional part."""
    return _darknet53(416)


def darknet53_608() -> nn.Module:
    """Darknet-53 at the larger one."""
    return _darknet53(608)


def _darknet53(side: int) -> nn.Module:
    """For pictures of `side` pixels a side."""
    network: nn.Module = importlib.import_module("pytorchcv.models.darknet53").darknet53(in_size=(side, side))
    network.features.final_pool = nn.AdaptiveAvgPool2d(1)  # type: ignore[union-attr]
    network.preprocess = Preprocess(size=(side, side), resize=None)  # type: ignore[assignment]
    return network


LINKS: dict[str, dict[Hop, LinkEstimate]] = {
    name: {
        DEVICE_EDGE: LinkEstimate(80e6, 0.003),
        EDGE_CLOUD: LinkEstimate(rate, rtt_s),
        DEVICE_CLOUD: LinkEstimate(min(rate, 80e6), rtt_s + 0.003),
    }
    for name, rate, rtt_s in (
        ("wifi", 40e6, 0.010),
        ("4g", 10e6, 0.050),
        ("5g", 60e6, 0.020),
        ("optical", 200e6, 0.005),
    )
}
"""Between the site and the cloud; device and edge share a wireless LAN. Round numbers, stated assumptions."""

DEVICES = {"5G": 5e9, "20G": 20e9, "80G": 80e9}
"""Effective FLOP/s: a small single-board computer, a large one, an embedded accelerator at batch 1."""

EDGE, CLOUD = 200e9, 2e12

WORKERS = 4
"""Machines of the edge, as fast as each other, on a gigabit network."""

NODES = {Tier.DEVICE: "device-1", Tier.EDGE: "edge-1", Tier.CLOUD: "cloud-1"}


@dataclass(frozen=True)
class Network:
    """A network with its tables."""

    captured: CapturedModel
    packing: PackingTable
    tiles: TileTable | None

    def problem(self, link: str, device: str, objective: Objective) -> Problem:
        """One cell of the comparison."""
        speeds = {Tier.DEVICE: DEVICES[device], Tier.EDGE: EDGE, Tier.CLOUD: CLOUD}
        graph = self.captured.graph
        times = {NODES[tier]: Machine(speed).times(graph, NODES[tier]) for tier, speed in speeds.items()}
        return Problem(graph, "s", NODES, times, self.packing, LINKS[link], objective=objective, tiles=self.tiles)


@functools.cache
def capture(name: str) -> CapturedModel:
    """A network by its name here, with random weights."""
    size = SIZES.get(name, 224)
    return load_model(NETWORKS[name], preprocess=Preprocess(size=(size, size), resize=size)).captured


@functools.cache
def network(name: str, workers: int = WORKERS) -> Network:
    """A network with its packing and tile tables."""
    captured = capture(name)
    machine = Machine(EDGE)
    block_s = {block.name: machine.block_s(captured.graph, block) for block in captured.graph.blocks}
    tiles = None
    if workers > 1:
        names = (NODES[Tier.EDGE], *(f"tile-{number}" for number in range(1, workers)))
        tiles = tile_table(captured, Crew((1.0,) * workers, block_s), names)
    return Network(captured, assumed_packing(captured.graph), tiles)
