"""What a tile worker holds of chains: a frame's strips, from one task to the next."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from pipeline.errors import AnabranchError, WireError
from pipeline.frames.wire import Tile
from pipeline.model.graph import TensorSpec
from pipeline.tiling.execute import TiledStack
from pipeline.tiling.regions import Region
from pipeline.tiling.resident import Gets, Rows, Strips, given, in_turns

logger = logging.getLogger(__name__)

MAX_CHAINS = 16
"""Chains begun and not ended, over all edge nodes, of each of which the strips that are of use still are held; the one
used longest ago is forgotten first. A stage of an edge node has one at a time."""

Run = Callable[[TiledStack, Region, dict[str, Tensor]], dict[str, Tensor]]
"""Computes a tile."""


@dataclass(frozen=True)
class Task:
    """One tile that can be computed at once."""

    stack: TiledStack
    region: Region
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    codec: str
    gets: Gets | None = None
    """Of a strip in a chain, the rows that come; None for the tile of a stack by itself."""
    gives: Rows = ()
    """Rows of each output that go back."""
    chained: bool = False
    """Whether it goes on with what is held of the task before."""
    kept: frozenset[str] = frozenset()
    """Tensors that later tasks of the chain need; none at its end."""
    early: bool = False
    """Whether the rows that it gives are computed and sent before the others."""

    @property
    def turns(self) -> tuple[tuple[Region, ...], tuple[Region, ...]]:
        """What is computed before the answer, and what behind it."""
        return in_turns(self.region, self.gives) if self.early else ((self.region,), ())


@dataclass
class Held:
    """A chain of one frame, between two of its tasks."""

    order: int
    chain: int
    next_task: int
    strips: Strips = field(default_factory=Strips)
    answered: Task | None = None
    """Its last task, while there is something left to do for it behind its answer."""
    rest_s: float = 0.0
    """What computing that took; it is said with the next answer."""


@dataclass(frozen=True)
class Made:
    """What comes of a task."""

    tensors: dict[str, Tensor]
    """What its answer gives."""
    compute_s: float
    rest_s: float = 0.0
    """What the rest of the strip before it took."""


class HeldChains:
    """The chains that a worker is in the middle of, by edge node, stream and epoch. For one thread alone."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._chains: OrderedDict[tuple[str, str, int], Held] = OrderedDict()

    def __len__(self) -> int:
        return len(self._chains)

    def __contains__(self, key: tuple[str, str, int]) -> bool:
        return key in self._chains

    def clear(self) -> None:
        """Forget all of them."""
        self._chains.clear()

    def strip(self, header: Tile, task: Task, tensors: dict[str, Tensor]) -> Made:
        """Compute a strip, or those rows of it that others lack; keep what later tasks need.

        Args:
            header: of the tile.
            task: what it is.
            tensors: the rows of `task.gets`.

        Returns:
            The rows of `task.gives`.

        Raises:
            WireError: the chain is not known, or was left at another task.
        """
        key, stack, gets = _key(header), task.stack, task.gets or {}
        held = self._chains.pop(key, None) if task.chained else Held(header.order, header.chain, header.task)
        if held is None or (held.order, held.chain, held.next_task) != (header.order, header.chain, header.task):
            raise WireError(f"tile {header.ticket}", "goes on with a chain that is not held")
        self._finish(held)
        rest_s, held.rest_s, begin = held.rest_s, 0.0, time.monotonic()
        for name, tensor in tensors.items():
            held.strips.put(stack, name, gets[name], tensor)
        self._advance(held, task, task.turns[0])
        made = {name: held.strips.rows(stack, name, rows) for name, rows in given(stack, task.gives).items()}
        compute_s = time.monotonic() - begin
        held.next_task += 1
        held.answered = task
        if task.kept:
            self._chains[key] = held
            while len(self._chains) > MAX_CHAINS:
                self._chains.popitem(last=False)
        return Made(made, compute_s, rest_s)

    def settle(self, header: Tile, tasks: Sequence[Task]) -> None:
        """Finish the strip that was just answered for, and make room for the next one: nobody waits for that."""
        held = self._chains.get(_key(header))
        if held is None or held.order != header.order or held.next_task >= len(tasks):
            return
        try:
            self._finish(held)
            held.strips.make_room(tasks[held.next_task].stack, tasks[held.next_task].region)
        except (AnabranchError, RuntimeError) as error:  # RuntimeError: what torch's operators raise
            logger.warning("chain of %s given up: %s", header.node, error)
            del self._chains[_key(header)]

    def _finish(self, held: Held) -> None:
        """Compute the rest of a strip that was answered for; then let go of what no later task needs."""
        if held.answered is None:
            return
        task, begin, held.answered = held.answered, time.monotonic(), None
        self._advance(held, task, task.turns[1])
        held.rest_s = time.monotonic() - begin
        held.strips.keep(task.kept)

    def _advance(self, held: Held, task: Task, regions: Sequence[Region]) -> None:
        """Compute pieces of a strip, and put them to what is held."""
        for region in regions:
            made = self._run(task.stack, region, held.strips.tile(task.stack, region))
            for name, tensor in made.items():
                held.strips.put(task.stack, name, (region.rows,), tensor)


def _key(header: Tile) -> tuple[str, str, int]:
    return header.node, header.stream, header.epoch
