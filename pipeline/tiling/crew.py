"""The machines that share a tiled part, and how long a fused stack takes them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from pipeline.errors import PlanError
from pipeline.tiling.halo import Floats, StackCosts
from pipeline.tiling.regions import Interval

MEETING_S = 1e-3
"""What it takes, beyond crossing, that workers meet: on this project's machine, from the slowest strip's end to the
next strip's beginning. Of a crew that has not been seen at work."""


@dataclass(frozen=True)
class Crew:
    """Tile workers, the edge node (which splits and merges) first.

    Raises:
        PlanError: no worker, or a speed or rate that is not positive.
    """

    speeds: tuple[float, ...]
    """Of each worker, relative to the node that `block_s` was measured on; the edge node's own comes first."""
    block_s: Mapping[str, float]
    """Seconds of each block, untiled, on a node of speed 1."""
    goodput_bps: float = 1e9
    """Of the edge node's network interface, each way; all workers share it."""
    latency_s: float = 2e-4
    """One way, for each message."""
    message_s: float = 1e-4
    """What a message costs the sender and receiver together, besides its bytes."""
    copy_bytes_s: float = 4e9
    """Bytes per second at which the edge node crops, packs and merges."""
    start_s: float = 5e-5
    """What starting a tile's program costs."""
    again_s: float = 2.5e-4
    """What it costs to run a block a second time, for some rows of its map alone, beside its `fixed_s`, which were
    measured with warm caches. Within a quarter of what was seen: 0.8 ms for one block of VGG-16 and its pooling, 0.2 of
    them fixed, and 1.8 ms for nine of Darknet-53."""
    weights_bytes_s: float = 1.2e10
    """Bytes per second at which their weights are read again then, where that takes longer: the 9.4 MB of that block of
    VGG-16 take 0.8 ms."""
    fixed_s: Mapping[str, float] = field(default_factory=dict)
    """The part of `block_s` that does not shrink with the tile; blocks that are not in here have none."""

    meeting_s: float = 0.0
    """What every meeting (rows exchanged, inputs scattered, outputs merged) takes beyond its messages."""

    def __post_init__(self) -> None:
        rates = (*self.speeds, self.goodput_bps, self.copy_bytes_s)
        if not self.speeds or any(rate <= 0 for rate in rates):
            raise PlanError("tile workers", "none, or a speed or rate that is not positive")

    def untiled_s(self, names: Sequence[str]) -> float:
        """Seconds of whole blocks on the edge node alone."""
        return sum(self.block_s[name] for name in names) / self.speeds[0]


def seats(tiles: int, workers: int) -> tuple[int, ...]:
    """Who computes which tile: positions in the crew, for each tile in grid order.

    Of strips, the edge node (position 0) has one in the middle: what a strip lacks, its neighbour has, and whatever
    crosses, crosses by way of the edge node.
    """
    if tiles > workers:
        return tuple(tile % workers for tile in range(tiles))
    others = list(range(1, tiles))
    middle = (tiles - 1) // 2
    return (*others[:middle], 0, *others[middle:])


@dataclass(frozen=True)
class StackTime:
    """How long a fused stack takes, from its inputs on the edge node to its merged outputs there."""

    total_s: float
    worker_s: tuple[float, ...]
    """When each worker's last tile is back at the edge node."""
    merge_s: float


def stack_time(costs: StackCosts, crew: Crew, rows: Sequence[Interval], columns: Sequence[Interval]) -> StackTime:
    """The schedule of one frame through one stack.

    The edge node sends the others' tiles one after the other in grid order, while it computes its own; a worker
    computes its tiles in the order in which they come; outputs return over the one interface in the order in which
    they are done.
    """
    work = costs.seconds.of(rows, columns).ravel() + costs.fixed_s
    bytes_in = costs.bytes_in.of(rows, columns).ravel()
    bytes_out = costs.bytes_out.of(rows, columns).ravel()
    count, tiles = len(crew.speeds), range(len(work))
    sent_s, free_s = 0.0, [0.0] * count
    done: list[tuple[float, int, float]] = []
    for tile, worker in zip(tiles, seats(len(work), count), strict=True):
        ready_s = 0.0
        if worker:
            sent_s += bytes_in[tile] * (8 / crew.goodput_bps + 1 / crew.copy_bytes_s) + crew.message_s
            ready_s = sent_s + crew.latency_s
        free_s[worker] = max(free_s[worker], ready_s) + work[tile] / crew.speeds[worker] + crew.start_s
        done.append((free_s[worker], worker, bytes_out[tile]))
    back_s, worker_s = 0.0, [0.0] * count
    for at_s, worker, nbytes in sorted(done):
        if worker:
            back_s = max(back_s, at_s) + nbytes * 8 / crew.goodput_bps + crew.message_s
            at_s = back_s + crew.latency_s
        worker_s[worker] = max(worker_s[worker], at_s)
    merge_s = float(bytes_out.sum()) / crew.copy_bytes_s
    return StackTime(float(max(worker_s) + merge_s + 2 * crew.meeting_s), tuple(worker_s), merge_s)


@dataclass(frozen=True)
class Exchange:
    """Between two stacks of a chain: from the strips of the first until every worker has that of the second."""

    work_s: float
    """The slowest strip of the second stack, and copying what it needs together."""
    waiting_s: float
    """If the strips of the first are computed in one go: what is lacked crosses, while nobody computes."""
    split_s: float
    """If the rows that others lack are computed before the others, and cross meanwhile: what that takes more."""

    @property
    def is_early(self) -> bool:
        """Whether these rows had better be computed first."""
        return bool(self.split_s < self.waiting_s)

    @property
    def next_s(self) -> float:
        """The better way."""
        return self.taken_s(self.is_early)

    def taken_s(self, early: bool) -> float:
        """One way or the other."""
        return self.work_s + (self.split_s if early else self.waiting_s)


@dataclass(frozen=True)
class ChainTime:
    """How long one stack in the middle of a chain takes, whose strips stay with the workers."""

    crew: Crew
    costs: StackCosts

    def first_s(self, rows: Sequence[Interval]) -> float:
        """From the inputs on the edge node until every worker has its strip."""
        bytes_in, work_s = self.costs.bytes_in.of(rows, [self._across])[:, 0], self.work_s(rows)
        byte_s, done_s, sent_s = 8 / self.crew.goodput_bps + 1 / self.crew.copy_bytes_s, [], 0.0
        for tile, worker in enumerate(self._seats(rows)):
            ready_s = 0.0
            if worker:
                sent_s += bytes_in[tile] * byte_s + self.crew.message_s
                ready_s = sent_s + self.crew.latency_s
            done_s.append(ready_s + work_s[tile])
        return float(max(done_s)) + self.crew.meeting_s

    def exchange(self, held: Sequence[Interval], rows: Sequence[Interval], split_s: float) -> Exchange:
        """From the strips of the stack before until every worker has the next one.

        Args:
            held: strips of the stack before, as many as there are of this one.
            rows: strips of this stack.
            split_s: of those before, see there.
        """
        crew, terms = self.crew, self.costs.bytes_in
        weight = terms.weight * terms.columns.sizes([self._across])[:, 0]
        first = terms.rows.first[:, [part.start for part in rows]]
        stop = terms.rows.last[:, [part.stop - 1 for part in rows]] + 1
        scale = self.costs.heights[:, None] / held[-1].stop
        above = np.maximum(np.rint(scale * [part.start for part in held]) - first, 0)
        below = np.maximum(stop - np.rint(scale * [part.stop for part in held]), 0)
        lacked = weight @ np.minimum(above + below, stop - first)
        # What lies with the neighbour above or below is there, or has to come by way of the edge node.
        away = np.array(self._seats(rows)) > 0
        relayed = away & ((above.any(axis=0) & np.roll(away, 1)) | (below.any(axis=0) & np.roll(away, -1)))
        crossing = max(lacked[away].sum(), lacked[~away | relayed].sum())
        hops = 2 if relayed.any() else 1
        crossing_s = crossing * 8 / crew.goodput_bps + hops * crew.latency_s + (len(rows) - 1) * crew.message_s
        copied_s = weight @ (stop - first) / crew.copy_bytes_s
        return Exchange(float((self.work_s(rows) + copied_s).max()), float(crossing_s + crew.meeting_s), split_s)

    def split_s(self, rows: Sequence[Interval]) -> float:
        """What the slowest strip takes more if the rows at its edges are computed by themselves.

        Every block is started and its weights are read once more, and the halo between the pieces is computed twice.
        Infinite where nothing would be left of a strip.
        """
        costs, height = self.costs, self.costs.size[0]
        edges = [[part.start + 1] * (part.start > 0) + [part.stop - 1] * (part.stop < height) for part in rows]
        if any(len(cut) >= part.size for cut, part in zip(edges, rows, strict=True)):
            return np.inf
        cuts = sorted({0, height, *(at for cut in edges for at in cut), *(part.stop for part in rows)})
        pieces_s = costs.seconds.of([Interval(*each) for each in itertools.pairwise(cuts)], [self._across])[:, 0]
        starts = np.searchsorted(cuts, [part.start for part in rows])
        seams_s = np.add.reduceat(pieces_s, starts) - costs.seconds.of(rows, [self._across])[:, 0]
        read_s = costs.weight_bytes / self.crew.weights_bytes_s
        once_s = max(self.crew.again_s * costs.blocks + costs.fixed_s, read_s)
        again_s = once_s * np.array([len(cut) for cut in edges])
        return float(((seams_s + again_s) / self._speeds(rows)).max())

    def last_s(self, rows: Sequence[Interval], nbytes: float) -> float:
        """From the strips of the last stack to merged maps of `nbytes` on the edge node."""
        own = sum(part.size for part, worker in zip(rows, self._seats(rows), strict=True) if not worker)
        crossing_s = (1 - own / self.costs.size[0]) * nbytes * 8 / self.crew.goodput_bps + self.crew.latency_s
        told_s = (len(rows) - 1) * self.crew.message_s + self.crew.meeting_s
        return crossing_s + told_s + nbytes / self.crew.copy_bytes_s

    def work_s(self, rows: Sequence[Interval]) -> Floats:
        """Seconds of each strip's computation, by whoever has it."""
        work: Floats = self.costs.seconds.of(rows, [self._across])[:, 0] + self.costs.fixed_s
        return work / self._speeds(rows) + self.crew.start_s

    def _speeds(self, rows: Sequence[Interval]) -> Floats:
        return np.array([self.crew.speeds[worker] for worker in self._seats(rows)])

    @property
    def _across(self) -> Interval:
        return Interval(0, self.costs.size[1])

    def _seats(self, rows: Sequence[Interval]) -> tuple[int, ...]:
        return seats(len(rows), len(self.crew.speeds))
