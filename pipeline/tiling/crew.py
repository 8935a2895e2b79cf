"""The machines that share a tiled part, and how long a fused stack takes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.errors import PlanError
from pipeline.tiling.halo import StackCosts
from pipeline.tiling.regions import Interval


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
    fixed_s: Mapping[str, float] = field(default_factory=dict)
    """The part of `block_s` that does not shrink with the tile; blocks that are not in here have none."""

    def __post_init__(self) -> None:
        rates = (*self.speeds, self.goodput_bps, self.copy_bytes_s)
        if not self.speeds or any(rate <= 0 for rate in rates):
            raise PlanError("tile workers", "none, or a speed or rate that is not positive")

    def untiled_s(self, names: Sequence[str]) -> float:
        """Seconds of whole blocks on the edge node alone."""
        return sum(self.block_s[name] for name in names) / self.speeds[0]


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
    for tile in tiles:
        worker = tile % count
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
    return StackTime(max(worker_s) + merge_s, tuple(worker_s), merge_s)
