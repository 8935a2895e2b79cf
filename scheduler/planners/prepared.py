"""What the exact search prepares once per network and packing table: all that no link and no load changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.model.graph import ModelGraph
from scheduler.bounds import SLACK, leaves_device, leaves_edge
from scheduler.cost import Packed
from scheduler.problem import Problem
from scheduler.tables import Bools, Floats, Ints, PackingTable
from scheduler.tiles import TileTable, mask_words, waists

GROUP_CUTS = 40
"""Cuts per group of the search: finer groups bound tighter, coarser ones are fewer."""

Choice = tuple[int, int, int, int]
"""A plan of up to three tiers: first cut, its codec, second cut, its codec (indices; see `build.build` for -1)."""


@dataclass(frozen=True)
class Lattice:
    """The cuts of a network, ready for nestedness tests and grouping."""

    words: NDArray[np.uint64]
    """See `mask_words`."""
    group: Ints
    """Shape (cuts,): runs of cuts between waists, at most `GROUP_CUTS` each; ascending with the cut index."""

    @classmethod
    def of(cls, graph: ModelGraph) -> Lattice:
        """Prepare a network's cuts."""
        words = mask_words(graph)
        return cls(words, _groups(waists(words), len(words)))

    def nested(self, first: Ints, second: Ints) -> Bools:
        """Whether each first cut lies before its second one (equality counts)."""
        return np.asarray(~np.any(self.words[first] & ~self.words[second], axis=1))


def _groups(waist: Ints, count: int) -> Ints:
    index = np.arange(count)
    run = np.searchsorted(waist, index, "right")
    first = np.searchsorted(run, run, "left")
    part = (index - first) // GROUP_CUTS
    new = np.ones(count, dtype=np.intp)
    new[1:] = (np.diff(run) != 0) | (np.diff(part) != 0)
    return np.asarray(np.cumsum(new) - 1, dtype=np.intp)


@dataclass(frozen=True)
class Entries:
    """The (cut, codec) that a link may carry, by cut."""

    cut: Ints
    codec: Ints
    packed: Packed
    drop: Floats
    """Infinite where unknown."""


def _entries(problem: Problem, strict: bool) -> Entries:
    packing, max_drop = problem.packing, problem.objective.max_drop
    offered = np.isfinite(packing.bytes)
    offered[-1] = False
    drop = np.where(np.isnan(packing.drop), np.inf, packing.drop)
    figures, paired = [packing.bytes, packing.encode_s, packing.decode_s], None
    if max_drop is not None:
        figures, paired = [*figures, drop], _paired(packing)
        if strict:
            within = drop <= _most_drop(problem)
            offered &= within if paired is None else within | paired
    # Picture codecs are offered at the input alone, so the input's row goes by itself: fewer columns for the others.
    for rows in (slice(0, 1), slice(1, None)):
        columns = np.flatnonzero(offered[rows].any(axis=0))
        worth = _undominated(
            [np.ascontiguousarray(each[rows, columns].T) for each in figures],
            np.ascontiguousarray(offered[rows, columns].T),
            None if paired is None else paired[rows, columns].T,
        )
        offered[rows, columns] = worth.T
    cut, codec = np.nonzero(offered)
    return Entries(cut, codec, Packed.of(packing, cut, codec), drop[cut, codec])


def _undominated(figures: Sequence[Floats], offered: Bools, paired: Bools | None) -> Bools:
    """Where no other codec of the same cut is as good in every figure (the first of equal ones stays).

    Args:
        figures: each of shape (codecs, cuts).
        offered: same shape.
        paired: same shape; such entries dominate none and are dominated by none.
    """
    left = offered.copy()
    for other in range(len(offered)):
        better = offered & left[other]
        if paired is not None:
            better &= ~paired & ~paired[other]
        for figure in figures:
            better &= figure[other] <= figure
        better[other] = False
        left &= ~better
    return left


def _paired(packing: PackingTable) -> Bools | None:
    """Where a measured pair may make a codec better or worse than its own figures say; None for nowhere."""
    if not packing.pair_drop:
        return None
    found = np.zeros(packing.bytes.shape, dtype=np.bool_)
    for first_cut, first, second_cut, second in packing.pair_drop:
        found[first_cut, first] = found[second_cut, second] = True
    return found


@dataclass(frozen=True)
class Prepared:
    """Constant parts of a problem, as the search wants them."""

    lattice: Lattice
    entries: Entries
    may_leave_device: Bools
    """By entry."""
    may_leave_edge: Bools
    behind: Ints
    """By cut: position of the first waist at or behind it, in the tile table (0 without one)."""
    ahead: Ints
    gain_s: Floats
    """Savings of tiling by (behind, ahead); the last row and column, for no waist, are zero."""
    pairs: NDArray[np.intp]
    """Shape (pairs, 4): `PackingTable.pair_drop` where a drop counts, nested and finite ones only."""
    pair_drop: Floats
    most_drop: float
    """No plan with a larger sum of drops is wanted; infinite without a bound, or where it may be broken."""

    @classmethod
    def of(cls, problem: Problem, strict: bool, lattice: Lattice | None = None) -> Prepared:
        """Prepare what no link and no load changes.

        Args:
            problem: with the network, tables and objective.
            strict: leave out codecs that break the bound on the accuracy drop by themselves.
            lattice: of the same network, if there is one already.
        """
        asked, packing, graph = problem.objective, problem.packing, problem.graph
        lattice = lattice or Lattice.of(graph)
        found = _entries(problem, strict)
        behind, ahead, gain_s = _tiling(problem.tiles, len(graph.cuts))
        pairs, pair_drop = _measured_pairs(packing, lattice) if asked.max_drop is not None else _no_pairs()
        return cls(
            lattice=lattice,
            entries=found,
            may_leave_device=leaves_device(graph, asked.private_until)[found.cut],
            may_leave_edge=leaves_edge(graph, asked.pictures_stay_at_edge)[found.cut],
            behind=behind,
            ahead=ahead,
            gain_s=gain_s,
            pairs=pairs,
            pair_drop=pair_drop,
            most_drop=_most_drop(problem) if strict else np.inf,
        )


def _most_drop(problem: Problem) -> float:
    bound = problem.objective.max_drop
    return np.inf if bound is None else bound * (1 + SLACK) + 1e-15


def constant_parts(problem: Problem) -> tuple[object, ...]:
    """What `Prepared.of` depends on: by identity for tables, by value for the rest."""
    asked = problem.objective
    privacy = asked.private_until, asked.pictures_stay_at_edge
    return problem.graph.fingerprint, id(problem.packing), id(problem.tiles), *privacy, asked.max_drop


def _tiling(tiles: TileTable | None, count: int) -> tuple[Ints, Ints, Floats]:
    if tiles is None:
        nowhere = np.zeros(count, dtype=np.intp)
        return nowhere, nowhere, np.zeros((1, 1))
    index = np.arange(count)
    return tiles.behind(index), tiles.ahead(index), tiles.padded_s


def _measured_pairs(packing: PackingTable, lattice: Lattice) -> tuple[NDArray[np.intp], Floats]:
    if not packing.pair_drop:
        return _no_pairs()
    keys = np.array(list(packing.pair_drop), dtype=np.intp)
    drop = np.array(list(packing.pair_drop.values()))
    finite = np.isfinite(packing.bytes[keys[:, 0], keys[:, 1]]) & np.isfinite(packing.bytes[keys[:, 2], keys[:, 3]])
    keep = finite & lattice.nested(keys[:, 0], keys[:, 2])
    return keys[keep], drop[keep]


def _no_pairs() -> tuple[NDArray[np.intp], Floats]:
    return np.zeros((0, 4), dtype=np.intp), np.zeros(0)
