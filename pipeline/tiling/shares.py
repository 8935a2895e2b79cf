"""Tile shares for workers that are not equally fast: strips such that all finish together.

A strip's time is not proportional to its rows: it has the halo of one or two inner edges, and the transfers come on
top. Since the cost of rows [a, b) is exactly last[b-1] - first[a] (`halo.Terms.strips`), a table of all strips is
one outer difference, and the strips of the earliest common finish follow from it by dynamic programming.
"""

from __future__ import annotations

import numpy as np

from pipeline.errors import PlanError
from pipeline.tiling.crew import Crew, seats, stack_time
from pipeline.tiling.halo import Floats, StackCosts, Terms
from pipeline.tiling.regions import Interval, boundaries, equal_shares


def balanced_strips(seconds: Floats) -> tuple[Interval, ...]:
    """Cut an axis into one strip for each worker so that the slowest is done as early as can be.

    With f(k, b) the least time in which the first k workers do the rows before b:
    f(k, b) = min over a < b of max(f(k-1, a), seconds of worker k for rows [a, b)).

    Args:
        seconds: shape (workers, size, size): `seconds[k, a, b - 1]` is what worker k takes for the rows [a, b).

    Raises:
        PlanError: there are more workers than positions.
    """
    workers, size = seconds.shape[:2]
    if workers > size:
        raise PlanError(f"{workers} tiles", f"the axis has {size} positions only", "use fewer tiles on this axis")
    backward = np.tril(np.ones((size, size), dtype=bool), -1)
    before = np.full(size, np.inf)
    before[0] = 0.0
    choices = []
    for worker in range(workers):
        times = np.where(backward, np.inf, np.maximum(before[:, None], seconds[worker]))
        choices.append(np.argmin(times, axis=0))
        before = np.concatenate([[np.inf], np.min(times, axis=0)[:-1]])
    strips, stop = [], size
    for chosen in reversed(choices):
        start = int(chosen[stop - 1])
        strips.append(Interval(start, stop))
        stop = start
    return tuple(reversed(strips))


def strips_for(costs: StackCosts, crew: Crew, count: int) -> tuple[Interval, ...]:
    """Strips of the output's rows for the first `count` workers of a crew, by `seats`, transfers included.

    Raises:
        PlanError: there are more workers than rows.
    """
    work = _table(costs.seconds, costs.size[1]) + costs.fixed_s
    # The interface is shared: where all finish together, the last has waited for the bytes of all others.
    nbytes = _table(costs.bytes_in, costs.size[1]) + _table(costs.bytes_out, costs.size[1])
    away = nbytes * (8 / crew.goodput_bps) * (count - 1) + 2 * (crew.message_s + crew.latency_s)
    order = seats(count, len(crew.speeds))
    seconds = [work / crew.speeds[worker] + (away if worker else 0.0) for worker in order]
    # The finish of all together is a bound on the schedule, so equal strips may do better where rows are few.
    found = balanced_strips(np.array(seconds)), boundaries(equal_shares(count), costs.size[0])
    across = (Interval(0, costs.size[1]),)
    return min(found, key=lambda rows: stack_time(costs, crew, rows, across).total_s)


def resident_strips(height: int, times: tuple[float, float], crew: Crew, count: int) -> tuple[Interval, ...]:
    """Strips for the first `count` workers that stay where they are: nothing crosses, and no halo is computed.

    Args:
        height: rows of the maps.
        times: seconds, on a node of speed 1, of what shrinks with the strip, and of what every strip takes.
        crew: the workers.
        count: how many of them.

    Raises:
        PlanError: there are more workers than rows.
    """
    shrinking_s, fixed_s = times
    edges = np.arange(height + 1)
    work = (edges[None, 1:] - edges[:-1, None]) * (shrinking_s / height) + fixed_s
    # Where rows cannot be shared evenly, the edge node has one more: it waits for nobody to tell it to begin.
    late = 1e-6 * (shrinking_s + fixed_s)
    order = seats(count, len(crew.speeds))
    return balanced_strips(np.array([work / crew.speeds[worker] + (late if worker else 0.0) for worker in order]))


def _table(terms: Terms, width: int) -> Floats:
    """The cost of each strip [a, b) at [a, b - 1]."""
    first, last = terms.strips(width)
    found: Floats = np.asarray(last)[None, :] - np.asarray(first)[:, None]
    return found
