"""D3's regression [recalled]: block times on a node without a profile, from layer type and configuration.

Per layer type, seconds = a + b * floating-point operations + c * bytes moved, with non-negative coefficients, fitted to
the block times of the profiles that exist, of whatever networks, on relative errors. Our reading: layers of one
type that differ in how well they use the machine (depthwise or pointwise convolutions) count as types of their own, and
"hardware state" is the load that scales all times of a node, which is estimated live.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from pipeline.errors import ConfigError
from pipeline.model.graph import Block, ModelGraph
from scheduler.profile import HeldOut, Profile, Timing
from scheduler.tables import Floats

TYPES = ("conv", "pointwise", "depthwise", "linear", "pool", "elementwise")
"""Layer types with coefficients of their own."""


def layer_type(block: Block) -> str:
    """The type that a block counts as."""
    attributes = block.attributes
    if block.kind.startswith("conv"):
        groups = attributes.get("groups", 1)
        if isinstance(groups, int) and groups > 1 and groups == attributes.get("in_channels", groups):
            return "depthwise"
        kernel = attributes.get("kernel", attributes.get("kernel_size", 0))
        return "pointwise" if kernel in {1, (1, 1)} else "conv"
    if block.kind == "linear":
        return "linear"
    return "pool" if "pool" in block.kind else "elementwise"


def moved_bytes(graph: ModelGraph, block: Block) -> int:
    """Bytes that a block reads and writes: activations and weights."""
    names = (*block.inputs, *block.outputs)
    return block.weight_bytes + sum(graph.tensors[name].nbytes for name in names)


def block_features(graph: ModelGraph) -> Floats:
    """Shape (blocks, 3 * types): for a block's own type 1e-5, and its GFLOPs and gigabytes moved; 0 elsewhere."""
    found = np.zeros((len(graph.blocks), 3 * len(TYPES)))
    for block in graph.blocks:
        column = 3 * TYPES.index(layer_type(block))
        found[block.index, column : column + 3] = 1e-5, block.flops / 1e9, moved_bytes(graph, block) / 1e9
    return found


@dataclass(frozen=True)
class Regression:
    """Coefficients for all layer types, and how well they predict whole networks."""

    coefficients: Floats
    """Shape (3 * types,), for `block_features`."""
    ends: Timing
    """Mean costs of starting and ending a segment."""
    error: HeldOut
    """Relative error of a whole network's time, each predicted without it (or of its blocks, where there is one)."""

    def predict(self, graph: ModelGraph, node: str, speed: float = 1.0) -> Profile:
        """A profile of a network on a node.

        Args:
            graph: the network.
            node: name of the node.
            speed: of the node, over the nodes of the profiles.
        """
        seconds = block_features(graph) @ self.coefficients / speed
        ends = self.ends
        timing = Timing(
            tuple(float(s) for s in seconds),
            ends.run_s / speed,
            ends.enter_s_per_byte / speed,
            ends.leave_s_per_byte / speed,
        )
        return Profile(graph.fingerprint, graph.name, node, timing, self.error)


def regress(known: Sequence[tuple[ModelGraph, Profile]]) -> Regression:
    """Fit the regression to profiles, all of one kind of node.

    Args:
        known: networks with their profiles.

    Raises:
        ConfigError: no profile.
        ModelMismatch: a profile is another network's.
    """
    if not known:
        raise ConfigError("regression of block times", "no profile to learn from", "make one with `anabranch profile`")
    for graph, profile in known:
        profile.check(graph)
    timings = [profile.timing for _, profile in known]
    ends = Timing(
        (),
        float(np.mean([timing.run_s for timing in timings])),
        float(np.mean([timing.enter_s_per_byte for timing in timings])),
        float(np.mean([timing.leave_s_per_byte for timing in timings])),
    )
    return Regression(_fit(known), ends, _error(known))


def _fit(known: Iterable[tuple[ModelGraph, Profile]]) -> Floats:
    features, seconds = [], []
    for graph, profile in known:
        features.append(block_features(graph))
        seconds.append(np.asarray(profile.timing.block_s))
    design, target = np.vstack(features), np.concatenate(seconds)
    # Blocks count by the square root of their time: relative errors of tiny ones must not rule.
    weight = 1.0 / np.sqrt(np.maximum(target, float(np.mean(target)) * 0.01))
    found, _ = nnls(design * weight[:, None], target * weight)
    return np.asarray(found, dtype=np.float64)


def _error(known: Sequence[tuple[ModelGraph, Profile]]) -> HeldOut:
    """Leave one network out; with a single one, leave out every other block."""
    if len(known) == 1:
        return _block_error(*known[0])
    errors = []
    for left_out, (graph, profile) in enumerate(known):
        others = [pair for number, pair in enumerate(known) if number != left_out]
        predicted, real = float(np.sum(block_features(graph) @ _fit(others))), float(sum(profile.timing.block_s))
        errors.append(abs(predicted - real) / real)
    return HeldOut(len(errors), float(np.median(errors)), float(np.quantile(errors, 0.95)))


def _block_error(graph: ModelGraph, profile: Profile) -> HeldOut:
    features, seconds = block_features(graph), np.asarray(profile.timing.block_s)
    errors = []
    for out in (np.arange(len(seconds)) % 2 == 0, np.arange(len(seconds)) % 2 == 1):
        found, _ = nnls(features[~out], seconds[~out])
        predicted, real = float(np.sum(features[out] @ found)), float(np.sum(seconds[out]))
        errors.append(abs(predicted - real) / max(real, 1e-12))
    return HeldOut(len(errors), float(np.median(errors)), float(np.max(errors)))
