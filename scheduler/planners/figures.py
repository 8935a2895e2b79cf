"""The figures of many plans at once, at given links, out of their parts (`halves`)."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from scheduler.planners.halves import Rows, edge_seconds
from scheduler.problem import Hop, Problem
from scheduler.tables import Floats, Ints

Arrays = TypeVar("Arrays", Floats, Ints)


@dataclass(frozen=True)
class Wire:
    """A link as the search sees it."""

    s_per_byte: float
    rtt_s: float

    @classmethod
    def of(cls, problem: Problem, hop: Hop) -> Wire:
        """The link at the objective's quantile."""
        link = problem.links[hop]
        return cls(8.0 / link.bps_at(problem.objective.quantile), link.rtt_s)


@dataclass(frozen=True)
class OneLink:
    """The figures of plans with at most one link: rows of `Halves.straight` or `Halves.alone`.

    With `lower`, rows are minima over groups, and every figure is a lower bound of those of the group.
    """

    problem: Problem
    rows: Rows
    wire: Wire
    lower: bool = False

    @functools.cached_property
    def latency_s(self) -> Floats:
        return np.asarray(self.rows.fixed_s + self.rows.bytes * self.wire.s_per_byte + self.wire.rtt_s)

    @functools.cached_property
    def period_s(self) -> Floats:
        return np.asarray(np.maximum(self.rows.busy_s, self.rows.bytes * self.wire.s_per_byte))

    @property
    def bytes(self) -> Floats:
        return self.rows.bytes

    @property
    def drop(self) -> Floats:
        return self.rows.drop

    @property
    def cloud_s(self) -> Floats:
        return self.rows.cloud_s

    @property
    def energy_j(self) -> Floats:
        return _energy(self.problem, self.rows, self.wire)

    @property
    def memory_bytes(self) -> Floats:
        return self.rows.memory_bytes


@dataclass(frozen=True)
class TwoLinks:
    """The figures of heads joined with tails; each is computed when it is looked at.

    Heads go down and tails across, unless `aligned`: then row n of one belongs to row n of the other. With `lower`,
    rows may be minima over groups, and every figure is a lower bound of those of the groups' pairs.
    """

    problem: Problem
    gain_s: Floats
    """See `Halves`."""
    heads: Rows
    tails: Rows
    wires: tuple[Wire, Wire]
    lower: bool = False
    aligned: bool = False
    measured_drop: Floats | None = None
    """Instead of the sum of both drops."""
    known_edge_s: Floats | None = None
    """`edge_s`, where it was worked out before (no link has a say in it)."""

    def _down(self, column: Arrays) -> Arrays:
        return column if self.aligned else column[:, None]

    def _across(self, column: Arrays) -> Arrays:
        return column if self.aligned else column[None, :]

    @functools.cached_property
    def edge_s(self) -> Floats:
        """The edge's compute, slowed by the packing beside it."""
        if self.known_edge_s is not None:
            return self.known_edge_s
        return edge_seconds(self.heads, self.tails, self.gain_s, lower=self.lower, aligned=self.aligned)

    @functools.cached_property
    def latency_s(self) -> Floats:
        heads, tails, (first, second) = self.heads, self.tails, self.wires
        down = heads.fixed_s + heads.bytes * first.s_per_byte + first.rtt_s
        # A plan that ends at the edge (codec -1) has no second round trip; of a group of tails, the best may be it.
        rtt = np.where(tails.codec < 0, 0.0, second.rtt_s)
        across = tails.fixed_s + tails.bytes * second.s_per_byte + rtt
        return np.asarray(self.edge_s + self._down(down) + self._across(across))

    @functools.cached_property
    def period_s(self) -> Floats:
        down = np.maximum(self.heads.busy_s, self.heads.bytes * self.wires[0].s_per_byte)
        across = np.maximum(self.tails.busy_s, self.tails.bytes * self.wires[1].s_per_byte)
        return np.asarray(np.maximum(np.maximum(self.edge_s, self._down(down)), self._across(across)))

    @property
    def bytes(self) -> Floats:
        return np.asarray(self._down(self.heads.bytes) + self._across(self.tails.bytes))

    @property
    def drop(self) -> Floats:
        if self.measured_drop is not None:
            return self.measured_drop
        return np.asarray(self._down(self.heads.drop) + self._across(self.tails.drop))

    @property
    def cloud_s(self) -> Floats:
        return self._across(self.tails.cloud_s)

    @property
    def energy_j(self) -> Floats:
        return self._down(_energy(self.problem, self.heads, self.wires[0]))

    @property
    def memory_bytes(self) -> Floats:
        return self._down(self.heads.memory_bytes)


def _energy(problem: Problem, rows: Rows, wire: Wire) -> Floats:
    if problem.power is None:
        return rows.busy_j
    return np.asarray(rows.busy_j + rows.bytes * (wire.s_per_byte * problem.power.transmit_w))
