"""Which blocks of a captured network can be tiled, and the reverse tile calculation over its graph."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence

from torch import fx

from pipeline.errors import PlanError
from pipeline.model.capture import CapturedModel
from pipeline.model.graph import Block, Cut
from pipeline.tiling.operators import Layout, Operator
from pipeline.tiling.program import UNIT
from pipeline.tiling.regions import Region
from pipeline.tiling.rules import describe

_STORE = ("tiling",)
"""Key under which an analysis is kept in `CapturedModel.prepared`."""


class TileAnalysis:
    """What tiling knows of a captured network; made once for each (`analysis_of`)."""

    def __init__(self, captured: CapturedModel) -> None:
        self.captured = captured
        self.operators: dict[fx.Node, Operator] = {}
        layouts: dict[fx.Node, Layout | None] = {}
        for node in captured.module.graph.nodes:
            if node.op != "output":
                self.operators[node] = describe(node, layouts)
                layouts[node] = self.operators[node].layout
        self.members = {block.name: captured.operators(block) for block in captured.graph.blocks}
        self._why = {block.name: self._reason(block) for block in captured.graph.blocks}

    def why_untileable(self, block: Block) -> str | None:
        """Why a block cannot be computed in tiles; None where it can."""
        return self._why[block.name]

    def _reason(self, block: Block) -> str | None:
        for node in self.members[block.name]:
            if self.operators[node].barrier:
                return self.operators[node].barrier
        layouts = [self.layout(name) for name in block.outputs]
        if not any(layout is not None and layout.spatial for layout in layouts):
            return "its output has no rows or columns to cut"
        return None

    def node(self, tensor: str) -> fx.Node:
        """The graph node of a tensor of the block graph."""
        return self.captured.nodes[tensor]

    def layout(self, tensor: str) -> Layout | None:
        """Where a tensor's rows and columns are; None where it has none."""
        return self.operators[self.node(tensor)].layout

    def nodes(self, blocks: Iterable[Block]) -> list[fx.Node]:
        """The operators of several blocks, in the order of the captured graph."""
        inside = {node for block in blocks for node in self.members[block.name]}
        return [node for node in self.operators if node in inside]

    def makes(self, start: Cut, end: Cut) -> tuple[str, ...]:
        """Tensors of the end cut that are made behind the start cut."""
        return tuple(name for name in end.tensors if name not in start.tensors)

    def why_no_stack(self, start: Cut, end: Cut) -> str | None:
        """Why the blocks between two cuts cannot be one fused stack; None where they can."""
        if not start.before(end) or start.mask == end.mask:
            return f"no block between {start.name} and {end.name}"
        for block in self.captured.graph.between(start, end):
            why = self.why_untileable(block)
            if why is not None:
                return f"{block.name}: {why}"
        sizes = {
            (layout.height, layout.width) if layout else None for layout in map(self.layout, self.makes(start, end))
        }
        if len(sizes) != 1 or None in sizes:
            return f"what {end.name} makes has maps of {len(sizes)} sizes; a stack must end with one"
        return None

    def tileable_spans(self) -> list[tuple[int, int]]:
        """Runs [first, last] of indices of tileable blocks, in graph order, as long as they can be."""
        spans = []
        blocks = self.captured.graph.blocks
        for tileable, run in itertools.groupby(blocks, key=lambda block: self.why_untileable(block) is None):
            if tileable:
                indices = [block.index for block in run]
                spans.append((indices[0], indices[-1]))
        return spans


def demand(
    operators: Mapping[fx.Node, Operator], members: Sequence[fx.Node], wanted: Mapping[fx.Node, Region]
) -> dict[fx.Node, Region]:
    """Carry the wanted regions back over `members` (reverse tile calculation).

    A map that several operators read gets the smallest rectangle that holds what all of them need.

    Args:
        operators: what is known of each node.
        members: operators of the stack, in order.
        wanted: regions of results.

    Returns:
        For each member that is needed, the region of its result; for each map from outside, the region needed.
    """
    regions = dict(wanted)
    for node in reversed(members):
        if node not in regions:
            continue
        operator = operators[node]
        for read in operator.reads:
            if read.node.op != "get_attr":
                needed = read.needed(regions[node])
                regions[read.node] = regions[read.node].union(needed) if read.node in regions else needed
        mapped = {read.node for read in operator.reads}
        for source in node.all_input_nodes:
            if source not in mapped and source.op != "get_attr":
                regions.setdefault(source, UNIT)
    return regions


def analysis_of(captured: CapturedModel) -> TileAnalysis:
    """The analysis of a captured network, made at the first call and kept with it."""
    with captured.lock:
        if _STORE not in captured.prepared:
            captured.prepared[_STORE] = TileAnalysis(captured)
        found: TileAnalysis = captured.prepared[_STORE]
        return found


def why_untileable(captured: CapturedModel, block: Block) -> str | None:
    """Why a block cannot be computed in tiles, in words for people; None where it can."""
    return analysis_of(captured).why_untileable(block)


def require_stack(captured: CapturedModel, start: Cut, end: Cut) -> TileAnalysis:
    """The analysis, where the blocks between two cuts can be one fused stack.

    Raises:
        PlanError: they cannot; the message says why.
    """
    analysis = analysis_of(captured)
    why = analysis.why_no_stack(start, end)
    if why is not None:
        raise PlanError(f"tile stack {start.name}..{end.name}", why, "`anabranch model show` lists what can be tiled")
    return analysis
