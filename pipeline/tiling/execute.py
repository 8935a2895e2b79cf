"""Fused stacks: cut the inputs into tiles, compute a tile, merge the outputs."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from pipeline.errors import PlanError
from pipeline.model import layouts
from pipeline.model.capture import CapturedModel
from pipeline.model.function import Run, function_of, inference
from pipeline.model.graph import Cut
from pipeline.model.layouts import Layout as MemoryLayout
from pipeline.model.segment import Segment, fastest_layout
from pipeline.plan import TilePlan
from pipeline.tiling.analysis import demand, require_stack
from pipeline.tiling.operators import Layout
from pipeline.tiling.program import TileProgram
from pipeline.tiling.regions import Region, boundaries, grid
from pipeline.tiling.writers import write_tile

PROGRAMS_KEPT = 8
"""Compiled tiles that a stack keeps; the one unused for longest goes first. A node computes one tile of a layout, and
those of workers that have just left; each takes some 0.3 MiB."""

REGIONS_KEPT = 2 * PROGRAMS_KEPT
"""Regions of which is known what they need: those of all workers' strips, and of the pieces of the node's own."""

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class _Compiled:
    """What runs a tile, and the inputs that it takes."""

    run: Run
    needed: dict[str, Region]


class TiledStack:
    """The blocks between two cuts, computed tile by tile.

    Safe to run from several threads at once. The weights are those of the model's segments, not copies of them.

    Args:
        captured: the model.
        start: where the stack begins.
        end: where it ends; all maps that the stack makes there have the same height and width.
        layout: how to run it; None takes what is fastest for the whole model (see `Segment`).

    Raises:
        PlanError: a block between the cuts cannot be tiled, or the maps at the end differ in size.
    """

    def __init__(self, captured: CapturedModel, start: Cut, end: Cut, *, layout: MemoryLayout | None = None) -> None:
        self.captured, self.start, self.end = captured, start, end
        self.analysis = require_stack(captured, start, end)
        self.layout = layout or fastest_layout(captured, torch.device("cpu"))
        blocks = captured.graph.between(start, end)
        self.members = self.analysis.nodes(blocks)
        self.makes = self.analysis.makes(start, end)
        """Tensors that tiles give; what else crosses `end` crosses `start` too, and is not touched."""
        self.reads = tuple(name for name in start.tensors if any(name in block.inputs for block in blocks))
        """Tensors that tiles need."""
        self._programs: OrderedDict[Region, _Compiled] = OrderedDict()
        self._needed: OrderedDict[Region, dict[str, Region]] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def label(self) -> str:
        """How messages name it."""
        return f"tile stack {self.start.name}..{self.end.name}"

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the maps at the end."""
        layout = self._layout(self.makes[0])
        if layout is None:
            raise PlanError(self.label, "makes no map")
        return layout.height, layout.width

    def regions(self, rows: Sequence[float], columns: Sequence[float]) -> tuple[Region, ...]:
        """The tiles of a grid given by shares of height and width, row-major.

        Raises:
            PlanError: the shares are not positive numbers that sum to 1, or are more than there are rows or columns.
        """
        height, width = self.size
        return grid(boundaries(rows, height), boundaries(columns, width))

    def needed(self, region: Region) -> dict[str, Region]:
        """The region of each tensor of `reads` that a tile needs; one without rows and columns is needed whole.

        Raises:
            PlanError: the region is not inside of the maps at the end.
        """
        with self._lock:
            if region in self._needed:
                return self._needed[region]
        demanded = self._demand(region)
        found = {name: demanded[self.analysis.node(name)] for name in self.reads if self._is_needed(name, demanded)}
        with self._lock:
            self._needed[region] = found
            while len(self._needed) > REGIONS_KEPT:
                self._needed.popitem(last=False)
        return found

    def split(self, inputs: Mapping[str, Tensor], regions: Sequence[Region]) -> list[dict[str, Tensor]]:
        """Inputs of each tile, as views of the tensors that cross `start`: nothing is copied."""
        return [{name: self.crop(name, inputs[name], part) for name, part in self.needed(r).items()} for r in regions]

    def crop(self, name: str, tensor: Tensor, region: Region) -> Tensor:
        """The region of a tensor, as a view."""
        layout = self._layout(name)
        if layout is None:
            return tensor
        rows = tensor.narrow(layout.row_axis, region.rows.start, region.rows.size)
        return rows.narrow(layout.column_axis, region.columns.start, region.columns.size)

    def run_tile(self, region: Region, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Compute one tile.

        Args:
            region: of the maps at the end.
            inputs: the regions of `needed(region)`, each a tensor (N, ...) of just that size.

        Returns:
            The region of every tensor of `makes`.

        Raises:
            PlanError: an input is missing, or has another size than the region needs.
        """
        compiled = self._program(region)
        with inference():
            given = [self._placed(name, inputs, part) for name, part in compiled.needed.items()]
            return dict(zip(self.makes, compiled.run(*given), strict=True))

    def merge(self, regions: Sequence[Region], tiles: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Put tiles together that cover the maps: the tensors of `makes`, complete."""
        return {name: self._merge_one(name, regions, [tile[name] for tile in tiles]) for name in self.makes}

    def run(self, inputs: Mapping[str, Tensor], regions: Sequence[Region]) -> dict[str, Tensor]:
        """Split, compute all tiles one after the other here, merge; the tensors of `end`."""
        parts = self.split(inputs, regions)
        made = self.merge(regions, [self.run_tile(r, part) for r, part in zip(regions, parts, strict=True)])
        return self.complete(inputs, made)

    def complete(self, inputs: Mapping[str, Tensor], made: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Every tensor of `end`: what the tiles made, and what crosses both cuts."""
        return {name: made[name] if name in made else inputs[name] for name in self.end.tensors}

    def format_of(self, tensor: Tensor) -> torch.memory_format:
        """The memory format in which this stack wants a tensor; another one costs a copy."""
        return self.layout.memory_format if tensor.dim() == 4 else torch.contiguous_format

    def warm(self, region: Region, runs: int = 2) -> None:
        """Write the program of a tile and run it on zeros, so that its first frame finds everything ready."""
        zeros = self.zeros(region)
        for _ in range(runs):
            self.run_tile(region, zeros)

    def zeros(self, region: Region) -> dict[str, Tensor]:
        """Inputs of a tile, of the sizes and in the format that it wants."""
        found, tensors = {}, self.captured.graph.tensors
        for name, part in self.needed(region).items():
            dtype = getattr(torch, tensors[name].dtype)
            cropped = self.crop(name, torch.empty(tensors[name].shape, dtype=dtype, device="meta"), part)
            found[name] = torch.empty(cropped.shape, dtype=dtype, memory_format=self.format_of(cropped)).zero_()
        return found

    def _merge_one(self, name: str, regions: Sequence[Region], parts: Sequence[Tensor]) -> Tensor:
        layout = self._layout(name)
        if layout is None:
            return parts[0]
        shape = list(parts[0].shape)
        shape[layout.row_axis], shape[layout.column_axis] = layout.height, layout.width
        whole = torch.empty(shape, dtype=parts[0].dtype, memory_format=self.format_of(parts[0]))
        for region, part in zip(regions, parts, strict=True):
            self.crop(name, whole, region).copy_(part)
        return whole

    def _layout(self, name: str) -> Layout | None:
        return self.analysis.layout(name)

    def _is_needed(self, name: str, demanded: Mapping[fx.Node, Region]) -> bool:
        return self.analysis.node(name) in demanded

    def _demand(self, region: Region) -> dict[fx.Node, Region]:
        height, width = self.size
        if (
            region.rows.start < 0
            or region.columns.start < 0
            or region.rows.stop > height
            or region.columns.stop > width
        ):
            raise PlanError(self.label, f"tile {region} is not inside of {height}x{width}")
        wanted = {self.analysis.node(name): region for name in self.makes}
        return demand(self.analysis.operators, self.members, wanted)

    def _placed(self, name: str, inputs: Mapping[str, Tensor], needed: Region) -> Tensor:
        if name not in inputs:
            raise PlanError(self.label, f"not given {name}", f"it needs {', '.join(self.reads)}")
        tensor, layout = inputs[name], self._layout(name)
        sizes = (needed.rows.size, needed.columns.size)
        if layout is not None and (tensor.shape[layout.row_axis], tensor.shape[layout.column_axis]) != sizes:
            got = "x".join(str(size) for size in tensor.shape)
            raise PlanError(self.label, f"given {name} of {got}, where the tile needs {sizes[0]}x{sizes[1]}")
        return tensor.contiguous(memory_format=self.format_of(tensor))

    def _program(self, region: Region) -> _Compiled:
        with self._lock:
            if region in self._programs:
                self._programs.move_to_end(region)
                return self._programs[region]
        built = self._build(region)
        with self._lock:
            self._programs[region] = built
            while len(self._programs) > PROGRAMS_KEPT:
                self._programs.popitem(last=False)
        return built

    def _build(self, region: Region) -> _Compiled:
        program = TileProgram(self.analysis.operators, self.captured.weight)
        wanted = {self.analysis.node(name): region for name in self.makes}
        outputs = write_tile(program, self.members, self._demand(region), wanted)
        needed = self.needed(region)
        placeholders = {name: program.values[self.analysis.node(name)].node for name in needed}
        return _Compiled(self._lower(program, placeholders, list(outputs.values())), needed)

    def _lower(self, program: TileProgram, inputs: Mapping[str, fx.Node], outputs: Sequence[fx.Node]) -> Run:
        """Turn a tile's operators into what runs, with the prepared weights of the model's segments."""
        graph, constants = fx.Graph(), {}  # type: tuple[fx.Graph, dict[str, object]]
        nodes = [node for node in program.graph.nodes if node.op == "call_function"]
        kept = frozenset([*outputs, *(source for node in nodes for source in node.all_input_nodes if _is_view(node))])

        def weight(node: fx.Node, purpose: str) -> tuple[str, Tensor]:
            target = str(node.target)
            if target in program.tensors:
                return target, program.tensors[target]
            return self._weight(node, purpose)

        lowering = layouts.Lowering(self.layout, graph, weight, constants, kept)
        for name, node in inputs.items():
            lowering.env[node] = graph.placeholder(name)
        lowering.emit_all(nodes)
        graph.output(tuple(lowering.env[node] for node in outputs))
        return function_of(graph, constants, self.label)

    def _weight(self, node: fx.Node, purpose: str) -> tuple[str, Tensor]:
        """A prepared weight, held once for all tiles, and by the model's segments too."""
        origin, target = node.meta["origin"], str(node.target)
        if purpose == "plain":
            return target, self._prepared(target, purpose)
        return f"{target}_{origin.name}", self._packed(target, purpose, layouts.packing(origin))

    def _prepared(self, target: str, purpose: str) -> Tensor:
        captured, layout = self.captured, self.layout if purpose == "plain" else MemoryLayout.ONEDNN
        key = (_CPU, layout, target, purpose)
        with captured.lock:
            if key not in captured.prepared:
                captured.prepared[key] = layouts.prepare(getattr(captured.module, target), purpose, self.layout, _CPU)
            found: Tensor = captured.prepared[key]
            return found

    def _packed(self, target: str, purpose: str, of_map: str) -> Tensor:
        """A convolution's weight: as packed for the complete map, unless the kernel of a tile this small wants another
        form. It would rearrange the weight in every call, which takes a hundred times what the tile does: 18 ms for
        512x1024x1x1 on four rows of 13."""
        captured, whole = self.captured, self._prepared(target, of_map)
        key = (_CPU, MemoryLayout.ONEDNN, target, purpose)
        with captured.lock:
            if key not in captured.prepared:
                own = layouts.prepare(getattr(captured.module, target), purpose, self.layout, _CPU)
                form = layouts.form_of(own)
                if form == layouts.form_of(whole):
                    captured.prepared[key] = whole
                else:
                    shared = captured.prepared.setdefault((_CPU, MemoryLayout.ONEDNN, target, form), own)
                    captured.prepared[key] = shared
            found: Tensor = captured.prepared[key]
            return found


def _is_view(node: fx.Node) -> bool:
    return node.target in (torch.ops.aten.slice.Tensor, torch.ops.aten.reshape.default)


@dataclass(frozen=True)
class PlannedStack:
    """One stack of a tile plan, ready to run."""

    start: Cut
    end: Cut
    tiled: TiledStack | None
    """None where the plan has one tile only: the edge node runs `segment` by itself."""
    segment: Segment | None
    regions: tuple[Region, ...] = ()
    """Tiles, row-major; tile i goes to worker i modulo their number."""

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Compute all of it here, one tile after the other."""
        if self.tiled is not None:
            return self.tiled.run(inputs, self.regions)
        if self.segment is not None:
            return self.segment.run(dict(inputs))
        return dict(inputs)


def stacks_of(
    captured: CapturedModel, tiles: TilePlan, start: Cut, *, layout: MemoryLayout | None = None
) -> tuple[PlannedStack, ...]:
    """The stacks of a tile plan, from where the edge stage starts. What is behind the last one runs untiled.

    Raises:
        PlanError: a stack of more than one tile cannot be tiled, or its shares do not fit.
        UnknownCut: the plan names a cut that the model does not have.
    """
    found = []
    for stack in tiles.stacks:
        end = captured.graph.cut(stack.until)
        if len(stack.rows) * len(stack.columns) == 1:
            found.append(PlannedStack(start, end, None, Segment(captured, start, end, layout=layout)))
        else:
            tiled = TiledStack(captured, start, end, layout=layout)
            found.append(PlannedStack(start, end, tiled, None, tiled.regions(stack.rows, stack.columns)))
        start = end
    return tuple(found)
