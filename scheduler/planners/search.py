"""Branch and bound over groups of plan parts: the exact minimum of any monotone measure under any bounds.

Every measure and bounded figure grows with each column of the parts, so the minima of two groups' columns give a lower
bound for all plans made of the two, at any bandwidth. Groups are visited in the order of their bounds, until the next
bound is no better than the best plan found; only the rows of visited groups are ever looked at. Nestedness is tested
last, on the few pairs that would win.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from scheduler.bounds import Bound, Figures
from scheduler.planners.figures import OneLink, TwoLinks, Wire
from scheduler.planners.halves import Grouped, Halves, Rows, pick
from scheduler.planners.prepared import Choice
from scheduler.problem import DEVICE_CLOUD, DEVICE_EDGE, EDGE_CLOUD, Problem
from scheduler.tables import Bools, Floats, Ints

Measure = Callable[[Figures], Floats]

SMALL = 4096
"""Pairs of rows up to which looking at all of them at once costs less than choosing between them."""


@dataclass(frozen=True)
class Found:
    """The best plan of a search."""

    value: float
    choice: Choice
    at: Callable[[Measure], float]
    """Any measure of the same plan."""


@dataclass(frozen=True)
class Query:
    """What is minimised, and what has to be kept."""

    measure: Measure
    bounds: Sequence[Bound]

    def values(self, figures: Figures) -> Floats:
        """The measure, infinite where a bound is broken."""
        value = self.measure(figures)
        if not self.bounds:
            return value
        keep = self.bounds[0].keeps(figures)
        for bound in self.bounds[1:]:
            keep = keep & bound.keeps(figures)
        return np.where(keep, value, np.inf)

    def below(self, figures: Figures, limit: float, among: Bools) -> tuple[Ints, Floats]:
        """Flat positions with a measure below the limit and no bound broken, and the measure there."""
        value = _spread(self.measure(figures), among.shape)
        keep = among & (value < limit)
        for bound in self.bounds:
            keep &= bound.keeps(figures)
        positions = np.flatnonzero(keep)
        return positions, value.ravel()[positions]


class Search:
    """One problem's candidates, at its present links and loads."""

    def __init__(self, problem: Problem, halves: Halves) -> None:
        self.banned: set[tuple[int, int]] = set()
        """Divisions (first cut, second cut) that may not be answered, whatever the codecs: they were, before."""
        self._problem, self._halves = problem, halves
        none = Wire()
        self._alone = OneLink(problem, halves.alone, none)
        self._straight = self._pairs = None
        if halves.straight is not None:
            self._straight = _Straight(problem, halves.straight, Wire.of(problem, DEVICE_CLOUD), self.banned)
        if halves.heads is not None and halves.tails is not None:
            second = Wire.of(problem, EDGE_CLOUD) if problem.has(EDGE_CLOUD) else none
            both = Wire.of(problem, DEVICE_EDGE), second
            self._pairs = _Pairs(problem, halves, both, self.banned)

    @property
    def considered(self) -> int:
        """Number of combinations that the search decides between, nested or not."""
        halves = self._halves
        straight = 0 if halves.straight is None else halves.straight.rows.count
        if halves.heads is None or halves.tails is None:
            return 1 + straight
        return 1 + straight + halves.heads.rows.count * halves.tails.rows.count

    def recall(self, choice: Choice) -> Found | None:
        """A plan by its choice, of whatever value; None where its figures are not the sum of its halves'."""
        _, first_codec, second, _ = choice
        if first_codec < 0:
            return Found(math.inf, choice, _At(self._alone, (1,), (0,)))
        if second < 0:
            return None if self._straight is None else self._straight.recall(choice)
        return None if self._pairs is None else self._pairs.recall(choice)

    def minimise(self, query: Query, known: Found | None = None) -> Found | None:
        """The plan of least measure among those that keep all bounds; None where none does.

        Args:
            query: measure and bounds.
            known: a plan, if there is one already; where it keeps the bounds, only better ones are looked for.
        """
        best = None if known is None else Found(known.at(query.values), known.choice, known.at)
        if best is not None and best.value == math.inf:
            best = None
        last = int(self._halves.alone.cut[0])
        value = float(query.values(self._alone)[0])
        if value < (math.inf if best is None else best.value) and (last, -1) not in self.banned:
            best = Found(value, (last, -1, -1, -1), _At(self._alone, (1,), (0,)))
        for route in (self._straight, self._pairs):
            if route is not None:
                best = route.minimise(query, math.inf if best is None else best.value) or best
        return best


@dataclass(frozen=True)
class _At:
    """Measures of one of many plans."""

    figures: Figures
    shape: tuple[int, ...]
    position: tuple[int, ...]

    def __call__(self, measure: Measure) -> float:
        return float(_spread(measure(self.figures), self.shape)[self.position])


def _spread(values: Floats, shape: tuple[int, ...]) -> Floats:
    """`np.broadcast_to`, which takes longer than many a search's arithmetic where there is nothing to do."""
    return values if values.shape == shape else np.broadcast_to(values, shape)


def _visits(lowest: Floats, limit: Callable[[], float]) -> Iterator[int]:
    """Flat positions in the order of their bounds, while these are below the limit (which falls meanwhile)."""
    first = int(lowest.argmin())
    if lowest.flat[first] < limit():
        yield first
        left = np.flatnonzero(lowest < limit())
        for number in left[np.argsort(lowest.flat[left], kind="stable")]:
            if lowest.flat[number] >= limit():
                return
            if number != first:
                yield int(number)


@dataclass
class _Straight:
    """Plans from the device straight to the cloud."""

    problem: Problem
    grouped: Grouped
    wire: Wire
    banned: set[tuple[int, int]]

    def __post_init__(self) -> None:
        self._lower = OneLink(self.problem, self.grouped.least, self.wire, lower=True)

    def recall(self, choice: Choice) -> Found | None:
        """See `Search.recall`."""
        row, there = self.grouped.find(np.array(choice[:1]), np.array(choice[1:2]))
        if not there[0]:
            return None
        return Found(math.inf, choice, _At(OneLink(self.problem, pick(self.grouped.rows, row), self.wire), (1,), (0,)))

    def minimise(self, query: Query, limit: float) -> Found | None:
        """The best of these plans, if better than `limit`."""
        best: list[Found] = []
        for group in _visits(query.values(self._lower), lambda: best[-1].value if best else limit):
            rows = self.grouped.members(np.array([group]))
            exact = OneLink(self.problem, rows, self.wire)
            value = query.values(exact)
            if self.banned:
                value = np.where(
                    np.isin(rows.cut, [first for first, second in self.banned if second == -1]), np.inf, value
                )
            row = int(np.argmin(value))
            if value[row] < (best[-1].value if best else limit):
                choice = int(rows.cut[row]), int(rows.codec[row]), -1, -1
                best.append(Found(float(value[row]), choice, _At(exact, value.shape, (row,))))
        return best[-1] if best else None


@dataclass
class _Pairs:
    """Plans over the edge: heads joined with tails."""

    problem: Problem
    halves: Halves
    wires: tuple[Wire, Wire]
    banned: set[tuple[int, int]]
    _measured: _Measured | None = field(init=False)

    def __post_init__(self) -> None:
        if self.halves.heads is None or self.halves.tails is None:
            raise ValueError("pairs need heads and tails")
        self._heads, self._tails = self.halves.heads, self.halves.tails
        least = self._heads.least, self._tails.least
        known = self.halves.least_edge_s
        self._lower = TwoLinks(self.problem, self.halves.gain_s, *least, self.wires, lower=True, known_edge_s=known)
        self._hopeful = self.halves.hopeful
        self._measured = self._measured_pairs()

    def recall(self, choice: Choice) -> Found | None:
        """See `Search.recall`."""
        first, second = np.array(choice).reshape(2, 2)
        row, has_row = self._heads.find(first[:1], first[1:])
        column, has_column = self._tails.find(second[:1], second[1:])
        if not (has_row[0] and has_column[0]):
            return None
        heads, tails = pick(self._heads.rows, row), pick(self._tails.rows, column)
        if self._measured is not None and self._keys(*np.array(choice)) in self._measured.keys:
            return None
        return Found(math.inf, choice, _At(self._join(heads, tails), (1, 1), (0, 0)))

    def minimise(self, query: Query, limit: float) -> Found | None:
        """The best of these plans, if better than `limit`."""
        best = self._minimise_measured(query, limit)
        left, lowest = self._coarse(query).below(self._lower, limit if best is None else best.value, self._hopeful)
        while len(left):
            heads, tails = _ends(left, self._hopeful.shape[1])
            if self._heads.count(heads) * self._tails.count(tails) > SMALL:
                # Too many to look at together: the most promising first, then those that it leaves.
                first = int(lowest.argmin())
                heads, tails = (np.array([each]) for each in divmod(left[first], self._hopeful.shape[1]))
                left, lowest = np.delete(left, first), np.delete(lowest, first)
            else:
                left = left[:0]
            best = self._block(query, (heads, tails), limit if best is None else best.value) or best
            if best is not None and len(left):
                better = lowest < best.value
                left, lowest = left[better], lowest[better]
        return best

    def _coarse(self, query: Query) -> Query:
        """The query without the bound that `hopeful` has looked after."""
        if self.halves.prepared.most_drop == math.inf:
            return query
        return Query(query.measure, [bound for bound in query.bounds if bound.name != "max_drop"])

    def _join(self, heads: Rows, tails: Rows, lower: bool = False) -> TwoLinks:
        return TwoLinks(self.problem, self.halves.gain_s, heads, tails, self.wires, lower)

    def _block(self, query: Query, groups: tuple[Ints, Ints], limit: float) -> Found | None:
        """The best pair of some groups of heads with some of tails that is better than `limit`."""
        heads, tails = self._heads.members(groups[0]), self._tails.members(groups[1])
        if heads.count * tails.count > SMALL:
            lower = self._join(heads, pick(self._tails.least, groups[1]), lower=True)
            heads = pick(heads, (query.values(lower) < limit)[:, 0])
            lower = self._join(pick(self._heads.least, groups[0]), tails, lower=True)
            tails = pick(tails, (query.values(lower) < limit)[0])
        if not (heads.count and tails.count):
            return None
        exact = self._join(heads, tails)
        value = _spread(query.values(exact), (heads.count, tails.count))
        first, second = divmod(int(value.argmin()), tails.count)
        if value[first, second] >= limit:
            return None
        row, column = np.array([first]), np.array([second])
        if not self._allowed(heads, tails, row, column)[0]:
            row, column = np.nonzero(value < limit)
            keep = self._allowed(heads, tails, row, column)
            if not keep.any():
                return None
            row, column = row[keep], column[keep]
        values = value[row, column]
        best = int(np.argmin(values))
        r, c = int(row[best]), int(column[best])
        choice = int(heads.cut[r]), int(heads.codec[r]), int(tails.cut[c]), int(tails.codec[c])
        return Found(float(values[best]), choice, _At(exact, value.shape, (r, c)))

    def _allowed(self, heads: Rows, tails: Rows, row: Ints, column: Ints) -> Bools:
        """Nested, not banned, and not measured as a pair (those are looked at by themselves)."""
        keep = self.halves.prepared.lattice.nested(heads.cut[row], tails.cut[column])
        for first, second in self.banned:
            keep &= (heads.cut[row] != first) | (tails.cut[column] != second)
        if self._measured is not None:
            keys = self._keys(heads.cut[row], heads.codec[row], tails.cut[column], tails.codec[column])
            keep &= ~np.isin(keys, self._measured.keys)
        return keep

    def _keys(self, first_cut: Ints, first: Ints, second_cut: Ints, second: Ints) -> Ints:
        cuts, codecs = len(self.halves.prepared.lattice.group), len(self.problem.packing.codecs) + 1
        return np.asarray(((first_cut * codecs + first) * cuts + second_cut) * codecs + second + 1)

    def _measured_pairs(self) -> _Measured | None:
        """The pairs whose drop was measured, with the rows of their halves."""
        pairs = self.halves.prepared.pairs
        if not len(pairs):
            return None
        first, has_first = self._heads.find(pairs[:, 0], pairs[:, 1])
        second, has_second = self._tails.find(pairs[:, 2], pairs[:, 3])
        keep = has_first & has_second
        if not keep.any():
            return None
        heads, tails = pick(self._heads.rows, first[keep]), pick(self._tails.rows, second[keep])
        drop = self.halves.prepared.pair_drop[keep]
        figures = TwoLinks(self.problem, self.halves.gain_s, heads, tails, self.wires, aligned=True, measured_drop=drop)
        return _Measured(self._keys(*pairs.T), figures)

    def _minimise_measured(self, query: Query, limit: float) -> Found | None:
        if self._measured is None:
            return None
        figures = self._measured.figures
        heads, tails = figures.heads, figures.tails
        value = query.values(figures)
        for first, second in self.banned:
            value = np.where((heads.cut == first) & (tails.cut == second), np.inf, value)
        row = int(np.argmin(value))
        if value[row] >= limit:
            return None
        choice = int(heads.cut[row]), int(heads.codec[row]), int(tails.cut[row]), int(tails.codec[row])
        return Found(float(value[row]), choice, _At(figures, value.shape, (row,)))


def _ends(positions: Ints, width: int) -> tuple[Ints, Ints]:
    """Rows and columns of flat positions, each once, ascending."""
    if len(positions) == 1:
        return positions // width, positions % width
    return np.unique(positions // width), np.unique(positions % width)


@dataclass(frozen=True)
class _Measured:
    keys: Ints
    figures: TwoLinks
