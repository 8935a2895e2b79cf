"""A small network and scenarios around it."""

from __future__ import annotations

from pipeline.model.graph import INPUT, Block, ModelGraph, TensorSpec
from pipeline.plan import Link, Plan, Stage, Tier
from scheduler.objective import Objective
from scheduler.problem import DEVICE_EDGE, EDGE_CLOUD
from scheduler.simulate import Channel, Scenario
from scheduler.simulate.figures import MAX_DROP, Machine, assumed_packing
from scheduler.simulate.scenario import node_name
from traces.trace import Trace

CHANNELS = (64, 128, 128, 256, 256)


def network() -> ModelGraph:
    """A chain of five convolutions with shrinking maps, about 1 GFLOP, and ten classes."""
    tensors = {INPUT: TensorSpec(INPUT, (1, 3, 128, 128), "uint8")}
    blocks = []
    for index, channels in enumerate(CHANNELS):
        size, before = 128 >> index, list(tensors)[-1]
        tensors[f"t{index}"] = TensorSpec(f"t{index}", (1, channels, size, size), unsigned=True)
        blocks.append(
            Block(index, f"conv{index}", "conv", (f"o{index}",), (before,), (f"t{index}",), 200_000_000, 40_000)
        )
    last = len(CHANNELS)
    tensors["y"] = TensorSpec("y", (1, 10))
    blocks.append(Block(last, "fc", "linear", ("fc",), (f"t{last - 1}",), ("y",), 100_000, 400_000))
    return ModelGraph("small", "f00d" * 16, tuple(blocks), tensors, ("y",))


GRAPH = network()


def scenario(access: Trace | float = 20e6, **changes: object) -> Scenario:
    """Device, edge and cloud; the device's link is given, the other is 100 Mbit/s."""
    trace = access if isinstance(access, Trace) else Trace.constant(access)
    speeds = {Tier.DEVICE: 10e9, Tier.EDGE: 100e9, Tier.CLOUD: 1e12}
    made = Scenario(
        graph=GRAPH,
        packing=assumed_packing(GRAPH),
        times={tier: Machine(speed).times(GRAPH) for tier, speed in speeds.items()},
        channels={DEVICE_EDGE: Channel(trace, 0.004), EDGE_CLOUD: Channel(Trace.constant(100e6), 0.010)},
        objective=Objective(max_drop=MAX_DROP),
        seconds=20.0,
    )
    return made.alike(**changes)


def split_plan(cut: str = "conv2", codec: str = "q8") -> Plan:
    """Device up to a cut, the rest on the edge."""
    stages = (Stage(Tier.DEVICE, node_name(Tier.DEVICE), cut), Stage(Tier.EDGE, node_name(Tier.EDGE), "output"))
    return Plan(1, "stream-1", GRAPH.fingerprint, stages, (Link(codec),))
