"""Which cuts and codecs a calibration measures: those that a plan may choose."""

from __future__ import annotations

from pipeline.model.graph import INPUT, OUTPUT, Cut, ModelGraph
from pipeline.packing.catalogue import offered

NEAR = 0.05
"""Cuts whose compute differs by no more than this share of the network's are rivals."""

EXPANSION = 2
"""A cut with more than this many times the picture's elements is not worth a thought: a codec that keeps the answers
takes two bits of an element and more, where JPEG takes one or two of a sample."""

STAGES = ("-lz4", "-zstd")
"""Lossless stages: what they bring back is what the codec without them brings back."""

FLOAT_FAMILIES = (
    "fp32", "fp16", "q8", "q6", "q5", "q4", "q3", "q4c", "q3c", "q4a", "q3a", "q3ca", "q2ca", "q4z", "l3",
    "e40", "e35", "e30", "e25", "e20", "e15",
)  # fmt: skip
"""Codecs measured at a cut of float maps; linear ones also with each lossless stage."""

TEMPORAL = ("t-q6", "t-q4", "t-q3", "t-e35", "t-e30", "t-e25", "t-e20", "t-e15")
"""Measured besides where frames follow each other in time."""


def family(codec: str) -> str:
    """The codec that brings the same values back without a lossless stage."""
    for stage in STAGES:
        codec = codec.removesuffix(stage)
    return codec


def select_cuts(graph: ModelGraph) -> tuple[list[Cut], dict[str, str]]:
    """Cuts worth measuring, and why the others are not.

    A cut is left out where far more elements cross than the picture has (see `EXPANSION`), and where a rival at almost
    the same compute has fewer.

    Returns:
        The cuts in graph order, `input` among them and `output` not; and for each other cut a reason.
    """
    before = {cut.name: sum(block.flops for block in graph.between(graph.cuts[0], cut)) for cut in graph.cuts}
    elements = {cut.name: sum(graph.tensors[name].numel for name in cut.tensors) for cut in graph.cuts}
    near = NEAR * graph.flops
    kept: list[Cut] = []
    skipped: dict[str, str] = {}
    inner = [cut for cut in graph.cuts if cut.name not in (INPUT, OUTPUT)]
    for cut in inner:
        rivals = [o for o in inner if abs(before[o.name] - before[cut.name]) <= near and _nested(cut, o)]
        best = min(rivals, key=lambda o: (elements[o.name], before[o.name], o.index))
        if elements[cut.name] > EXPANSION * elements[INPUT]:
            skipped[cut.name] = f"{elements[cut.name]} elements cross, the picture has {elements[INPUT]}"
        elif elements[best.name] < elements[cut.name]:
            skipped[cut.name] = f"cut {best.name} at almost the same compute has fewer elements"
        else:
            kept.append(cut)
    return [graph.cuts[0], *kept], skipped


def _nested(cut: Cut, other: Cut) -> bool:
    return cut.before(other) or other.before(cut)


def select_codecs(graph: ModelGraph, cut: Cut, ordered: bool, every: bool = False) -> tuple[str, ...]:
    """Codecs to measure at `cut`, all of which every tensor that crosses it can be sent in.

    Args:
        graph: the network.
        cut: one of its cuts.
        ordered: whether frames follow each other in time, so that temporal codecs make sense.
        every: all codecs instead of a choice.
    """
    common = [set(offered(graph.tensors[name])) for name in cut.tensors]
    names = offered(graph.tensors[cut.tensors[0]])
    wanted = [name for name in names if all(name in each for each in common)]
    if every or graph.tensors[cut.tensors[0]].dtype != "float32":
        return tuple(wanted)
    chosen = set(FLOAT_FAMILIES) | (set(TEMPORAL) if ordered else set())
    return tuple(name for name in wanted if family(name) in chosen)
