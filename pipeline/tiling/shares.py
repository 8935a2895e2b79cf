"""Tile shares for workers that are not equally fast: strips such that all finish together.

A strip's time is not proportional to its rows: it has the halo of one or two inner edges, and the transfers come on
top. Since the cost of rows [a, b) is exactly last[b-1] - first[a] (`halo.Terms.strips`), the least common finishing
time is found by bisection: for a time T, hand each worker in turn as many rows as it can do by then.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable

from pipeline.errors import PlanError
from pipeline.tiling.crew import Crew
from pipeline.tiling.halo import StackCosts
from pipeline.tiling.regions import Interval

Cost = Callable[[int, int, int], float]
"""Seconds of a worker for rows [start, stop): `cost(worker, start, stop)`; grows with `stop`, falls with `start`."""

ROUNDS = 24
"""Bisection steps: the bracket shrinks to a ten-millionth, far below one row."""


def balanced_strips(cost: Cost, workers: int, size: int) -> tuple[Interval, ...]:
    """Cut an axis into one strip for each worker so that the slowest is done as early as can be.

    Args:
        cost: seconds of a strip.
        workers: number of strips.
        size: positions of the axis.

    Raises:
        PlanError: there are more workers than positions.
    """
    if workers > size:
        raise PlanError(f"{workers} tiles", f"the axis has {size} positions only", "use fewer tiles on this axis")
    low, high = 0.0, max(cost(worker, 0, size) for worker in range(workers))
    best = _fill(cost, workers, size, high)
    for _ in range(ROUNDS):
        middle = (low + high) / 2
        found = _fill(cost, workers, size, middle)
        if found is None:
            low = middle
        else:
            best, high = found, middle
    if best is None:
        raise PlanError(f"{workers} tiles", "no strips found for them")
    return best


def _fill(cost: Cost, workers: int, size: int, limit_s: float) -> tuple[Interval, ...] | None:
    """Strips that all take at most `limit_s`; None where the axis is not covered (each strip has at least one row)."""
    strips, start = [], 0
    for worker in range(workers):
        most = size - (workers - worker - 1)
        reached = bisect.bisect_right(range(start + 1, most + 1), limit_s, key=_until(cost, worker, start))
        if reached == 0:
            return None
        strips.append(Interval(start, start + reached))
        start += reached
    return tuple(strips) if start == size else None


def _until(cost: Cost, worker: int, start: int) -> Callable[[int], float]:
    return lambda stop: cost(worker, start, stop)


def strips_for(costs: StackCosts, crew: Crew, count: int) -> tuple[Interval, ...]:
    """Strips of the output's rows for the first `count` workers of a crew, transfers included.

    Raises:
        PlanError: there are more workers than rows.
    """
    height, width = costs.size
    work_first, work_last = costs.seconds.strips(width)
    in_first, in_last = costs.bytes_in.strips(width)
    out_first, out_last = costs.bytes_out.strips(width)
    per_byte_s, per_message_s = 8 / crew.goodput_bps, 2 * (crew.message_s + crew.latency_s)

    def cost(worker: int, begin: int, stop: int) -> float:
        seconds = (work_last[stop - 1] - work_first[begin]) / crew.speeds[worker]
        if worker == 0:
            return seconds
        nbytes = in_last[stop - 1] - in_first[begin] + out_last[stop - 1] - out_first[begin]
        # The interface is shared: the k-th worker waits for those before it.
        return seconds + nbytes * per_byte_s * (count - 1) + per_message_s

    return balanced_strips(cost, count, height)
