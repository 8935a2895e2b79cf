"""One frame's way through a chain: what the edge node computes, asks for, and passes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from nodes.tiles.layout import Chain, Part
from nodes.tiles.post import Post, Request
from pipeline.tiling.execute import TiledStack
from pipeline.tiling.regions import Interval, Region
from pipeline.tiling.resident import Gets, Strips, given

Ask = Callable[[Part, dict[str, Tensor], int], Request]
"""Sends a part's inputs to its worker; the last argument is the chain's number."""

Compute = Callable[[Part, TiledStack, Region, dict[str, Tensor]], dict[str, Tensor]]
"""Runs a tile of a part, or a piece of it, on the edge node, and times it."""


class ChainRun:
    """The edge node's side of a chain, for one frame.

    It holds the chain's inputs, its own strips, and the rows that others lack, which it passes on. Where a worker is
    late, gone, or talks nonsense, the chain is given up: the caller has its inputs still.

    Args:
        chain: what to compute.
        inputs: tensors that cross the chain's first cut.
        here: which workers' parts the edge node computes: its own, and those of workers that are out.
        post: sends and receives.
        ask: see `Ask`.
        compute: see `Compute`.
    """

    def __init__(
        self,
        chain: Chain,
        inputs: Mapping[str, Tensor],
        here: frozenset[str],
        post: Post,
        ask: Ask,
        compute: Compute,
    ) -> None:
        self._chain, self._inputs, self._here, self._post = chain, inputs, here, post
        self._ask, self._compute = ask, compute
        self._number = post.ticket()
        self._strips = Strips()
        self._requests: dict[tuple[int, int], Request] = {}
        """By link and part: asked for, and not collected."""
        self._left: dict[int, set[int]] = {}
        """By link: parts that are still to be asked for."""
        self.done: list[Request] = []
        """Those that were answered."""

    def run(self) -> dict[str, Tensor] | None:
        """The tensors of the chain's end; None where a worker failed."""
        first = self._chain.links[0].stack
        for name, tensor in self._inputs.items():
            self._strips.put(first, name, (_rows_of(self._chain, name),), tensor)
        try:
            return self._run()
        finally:
            for request in self._requests.values():
                self._post.abandon(request)

    def _run(self) -> dict[str, Tensor] | None:
        self._ask_for(0)
        for number, link in enumerate(self._chain.links):
            here = [(part, self._turns(part)) for part in link.parts if part.worker in self._here]
            for turn in range(2):
                for part, turns in here:
                    self._advance(number, part, turns[turn])
                if any(turns[turn] for _, turns in here):
                    self._ask_for(number + 1)
            self._make_room(number + 1)
            for index, part in enumerate(link.parts):
                if part.worker in self._here:
                    continue
                request = self._requests.pop((number, index))
                outputs = self._post.collect(request)
                if outputs is None:
                    return None
                self.done.append(request)
                assert part.seat is not None
                for name, rows in given(link.stack, part.seat.gives).items():
                    self._strips.put(link.stack, name, rows, outputs[name])
                self._ask_for(number + 1)
            self._strips.keep(self._chain.kept[number])
        return self._merged()

    def _ask_for(self, number: int) -> None:
        """Ask the workers for their strips of a link, as far as all that these lack is here."""
        if number == len(self._chain.links):
            return
        link = self._chain.links[number]
        if number not in self._left:
            self._left[number] = {index for index, part in enumerate(link.parts) if part.worker not in self._here}
        left = self._left[number]
        for index in sorted(left):
            part = link.parts[index]
            assert part.seat is not None
            tensors = self._found(link.stack, part.seat.gets)
            if tensors is not None:
                self._requests[number, index] = self._ask(part, tensors, self._number)
                left.remove(index)

    def _found(self, stack: TiledStack, gets: Gets) -> dict[str, Tensor] | None:
        """What a worker lacks; None while some of it is not here."""
        tensors = {}
        for name, rows in gets.items():
            tensor = self._strips.find(stack, name, rows)
            if tensor is None:
                return None
            tensors[name] = tensor
        return tensors

    def _make_room(self, number: int) -> None:
        """Copy what is here already of the own strips' inputs, while others are waited for."""
        if number < len(self._chain.links):
            link = self._chain.links[number]
            for part in link.parts:
                if part.worker in self._here:
                    self._strips.make_room(link.stack, part.region)

    def _turns(self, part: Part) -> tuple[tuple[Region, ...], tuple[Region, ...]]:
        """Of strips whose worker is out there are programs for the whole alone."""
        return part.turns if part.worker == self._post.name else ((part.region,), ())

    def _advance(self, number: int, part: Part, regions: Sequence[Region]) -> None:
        stack = self._chain.links[number].stack
        for region in regions:
            made = self._compute(part, stack, region, self._strips.tile(stack, region))
            for name, tensor in made.items():
                self._strips.put(stack, name, (region.rows,), tensor)

    def _merged(self) -> dict[str, Tensor]:
        stack, found = self._chain.links[-1].stack, {}
        for name in self._chain.end.tensors:
            if name in self._inputs:
                found[name] = self._inputs[name]
            else:
                found[name] = self._strips.rows(stack, name, (_rows_of(self._chain, name),))
        return found


def _rows_of(chain: Chain, name: str) -> Interval:
    """All rows of a tensor."""
    layout = chain.links[0].stack.analysis.layout(name)
    return Interval(0, layout.height if layout is not None else 1)
