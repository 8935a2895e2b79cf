"""Branch and bound over groups of halves: exact minimum of any monotone measure under any bounds.

Every measure and bounded figure grows with each column of the halves, so the minima of two groups' columns give a
lower bound for all pairs of the two. Pairs of groups are visited in the order of their bounds, until the next bound is
no better than the best plan found; inside a pair of groups, rows that cannot win against the other group's minima are
left out, and only what is left is paired. Nestedness is tested last, on the few pairs that would win.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from pipeline.plan import Tier
from scheduler.bounds import Bound, Figures
from scheduler.planners.halves import Direct, Heads, PairFigures, Tails, direct, heads, least, pick, tails
from scheduler.planners.prepared import Choice, Prepared
from scheduler.problem import DEVICE_EDGE, Problem
from scheduler.tables import Bools, Floats, Ints

Measure = Callable[[Figures], Floats]


@dataclass(frozen=True)
class Found:
    """The best plan of a search: its value, and its cuts and codecs (-1 for a link or stage that is not there)."""

    value: float
    choice: Choice
    """(first cut, codec, second cut, codec). Second cut -1: straight to the cloud, or codec -1: device alone."""


Cuts = tuple[int, int]
"""Where a plan divides the network, whatever the codecs."""


@dataclass
class Search:
    """One problem's candidates, at its present links and loads."""

    problem: Problem
    prepared: Prepared
    banned: set[Cuts] = field(default_factory=set)
    """Divisions that may not be answered (they were, before)."""

    def __post_init__(self) -> None:
        self._direct: Direct = direct(self.problem, self.prepared)
        self._pairs: _Pairs | None = None
        if self.problem.has(DEVICE_EDGE) and self.prepared.may_leave_device.any():
            self._pairs = _Pairs(self.problem, self.prepared, self.banned)

    @property
    def considered(self) -> int:
        """Number of combinations that the search decides between (nested or not)."""
        return len(self._direct.cut) + (0 if self._pairs is None else self._pairs.count)

    def minimise(self, measure: Measure, bounds: Sequence[Bound]) -> Found | None:
        """The plan of least `measure` among those that keep all bounds; None where none does."""
        best = self._minimise_direct(measure, bounds)
        if self._pairs is not None:
            better = self._pairs.minimise(measure, bounds, math.inf if best is None else best.value)
            best = better or best
        return best

    def _minimise_direct(self, measure: Measure, bounds: Sequence[Bound]) -> Found | None:
        found = self._direct
        value = np.where(_kept(bounds, found.figures), measure(found.figures), np.inf)
        for cut, _ in (cuts for cuts in self.banned if cuts[1] == -1):
            value[found.cut == cut] = np.inf
        row = int(np.argmin(value))
        if value[row] == np.inf:
            return None
        return Found(float(value[row]), (int(found.cut[row]), int(found.codec[row]), -1, -1))


class _Pairs:
    """Heads, tails, and their groups."""

    def __init__(self, problem: Problem, prepared: Prepared, banned: set[Cuts]) -> None:
        self._problem, self._prepared, self._banned = problem, prepared, banned
        self._heads, self._tails = heads(problem, prepared), tails(problem, prepared)
        self._gain_s = prepared.gain_s * problem.load_of(Tier.EDGE)
        self._codecs = len(problem.packing.codecs) + 1
        self._measured = self._measured_rows()
        self._group()

    @property
    def count(self) -> int:
        return len(self._heads.cut) * len(self._tails.cut)

    def minimise(self, measure: Measure, bounds: Sequence[Bound], best: float) -> Found | None:
        """The best pair that is better than `best`."""
        found = self._minimise_measured(measure, bounds, best)
        lowest = np.where(self._disorder | ~_kept(bounds, self._lower), np.inf, measure(self._lower))
        for number in self._visits(lowest):
            limit = best if found is None else found.value
            if lowest.flat[number] >= limit:
                break
            i, j = divmod(number, lowest.shape[1])
            found = self._block(_Block(i, j, limit), measure, bounds) or found
        return found

    def _visits(self, lowest: Floats) -> Iterator[int]:
        """Pairs of groups in the order of their bounds; sorts only where the first few do not settle it."""
        first = int(np.argmin(lowest))
        yield first
        order = np.argsort(lowest, axis=None)
        yield from (int(number) for number in order if number != first)

    def _group(self) -> None:
        self._head_rows, self._tail_rows = _runs(self._heads.group), _runs(self._tails.group)
        self._least_heads = least(self._heads, self._head_rows[:-1])
        self._least_tails = least(self._tails, self._tail_rows[:-1])
        self._lower = self._join(self._least_heads, self._least_tails, lower=True)
        self._disorder = self._least_heads.group[:, None] > self._least_tails.group[None, :]

    def _join(self, heads: Heads, tails: Tails, lower: bool = False) -> PairFigures:
        return PairFigures(self._problem, self._gain_s, heads, tails, lower)

    def _block(self, block: _Block, measure: Measure, bounds: Sequence[Bound]) -> Found | None:
        """The best pair of two groups that is better than the limit."""
        i, j, limit = block.heads, block.tails, block.limit
        heads = pick(self._heads, slice(self._head_rows[i], self._head_rows[i + 1]))
        tails = pick(self._tails, slice(self._tail_rows[j], self._tail_rows[j + 1]))
        lower = self._join(heads, pick(self._least_tails, slice(j, j + 1)), lower=True)
        heads = pick(heads, np.flatnonzero(_wins(lower, measure, bounds, limit)))
        if not len(heads.cut):
            return None
        lower = self._join(least(heads, np.zeros(1, dtype=np.intp)), tails, lower=True)
        tails = pick(tails, np.flatnonzero(_wins(lower, measure, bounds, limit)))
        if not len(tails.cut):
            return None
        return self._paired(self._join(heads, tails), measure, bounds, limit)

    def _paired(self, exact: PairFigures, measure: Measure, bounds: Sequence[Bound], limit: float) -> Found | None:
        heads, tails = exact.heads, exact.tails
        value = np.broadcast_to(measure(exact), (len(heads.cut), len(tails.cut)))
        row, column = np.nonzero(_kept(bounds, exact) & (value < limit))
        if not len(row):
            return None
        keep = self._allowed(heads, tails, row, column)
        row, column = row[keep], column[keep]
        if not len(row):
            return None
        values = value[row, column]
        first = int(np.argmin(values))
        r, c = row[first], column[first]
        choice = int(heads.cut[r]), int(heads.codec[r]), int(tails.cut[c]), int(tails.codec[c])
        return Found(float(values[first]), choice)

    def _allowed(self, heads: Heads, tails: Tails, row: Ints, column: Ints) -> Bools:
        """Nested, not banned, and not measured as a pair (those are looked at by themselves)."""
        keep = self._prepared.lattice.nested(heads.cut[row], tails.cut[column])
        for first, second in self._banned:
            keep &= (heads.cut[row] != first) | (tails.cut[column] != second)
        if self._measured is not None:
            keys = self._keys(heads.cut[row], heads.codec[row], tails.cut[column], tails.codec[column])
            keep &= ~np.isin(keys, self._measured.keys)
        return keep

    def _keys(self, first_cut: Ints, first: Ints, second_cut: Ints, second: Ints) -> Ints:
        cuts = len(self._prepared.lattice.group)
        return np.asarray(((first_cut * self._codecs + first) * cuts + second_cut) * self._codecs + second + 1)

    def _measured_rows(self) -> _Measured | None:
        """The pairs whose drop was measured, with the rows of their halves."""
        pairs = self._prepared.pairs
        if not len(pairs):
            return None
        first, has_first = _rows(self._heads, pairs[:, 0], pairs[:, 1])
        second, has_second = _rows(self._tails, pairs[:, 2], pairs[:, 3])
        keep = has_first & has_second
        drop, keys = self._prepared.pair_drop[keep], self._keys(*pairs.T)
        if not len(drop):
            return None
        heads, tails = pick(self._heads, first[keep]), pick(self._tails, second[keep])
        figures = PairFigures(self._problem, self._gain_s, heads, tails, aligned=True, measured_drop=drop)
        return _Measured(keys, figures)

    def _minimise_measured(self, measure: Measure, bounds: Sequence[Bound], best: float) -> Found | None:
        if self._measured is None:
            return None
        figures = self._measured.figures
        heads, tails = figures.heads, figures.tails
        keep = _kept(bounds, figures)
        for first, second in self._banned:
            keep = keep & ((heads.cut != first) | (tails.cut != second))
        value = np.where(keep, measure(figures), np.inf)
        row = int(np.argmin(value))
        if value[row] >= best:
            return None
        choice = int(heads.cut[row]), int(heads.codec[row]), int(tails.cut[row]), int(tails.codec[row])
        return Found(float(value[row]), choice)


@dataclass(frozen=True)
class _Block:
    heads: int
    tails: int
    limit: float


@dataclass(frozen=True)
class _Measured:
    keys: Ints
    figures: PairFigures


def _kept(bounds: Sequence[Bound], figures: Figures) -> Bools:
    keep = np.ones((), dtype=np.bool_)
    for bound in bounds:
        keep = np.asarray(keep & bound.keeps(figures))
    return keep


def _wins(lower: PairFigures, measure: Measure, bounds: Sequence[Bound], limit: float) -> Bools:
    shape = len(lower.heads.cut), len(lower.tails.cut)
    return np.broadcast_to((measure(lower) < limit) & _kept(bounds, lower), shape).ravel()


def _runs(group: Ints) -> Ints:
    """Where runs of equal numbers begin, and the end."""
    new = np.flatnonzero(np.diff(group)) + 1
    return np.concatenate(([0], new, [len(group)])).astype(np.intp)


def _rows(half: Heads | Tails, cut: Ints, codec: Ints) -> tuple[Ints, Bools]:
    """The rows of (cut, codec), and whether there is one; a half is sorted by both."""
    width = 2 + int(max(half.codec.max(), codec.max()))
    own, wanted = half.cut * width + half.codec + 1, cut * width + codec + 1
    row = np.minimum(np.searchsorted(own, wanted), len(own) - 1)
    return row, np.asarray(own[row] == wanted)
