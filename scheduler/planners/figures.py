"""The figures of many plans at once, at given links, out of their parts (`halves`)."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from scheduler.planners.halves import Rows, edge_seconds
from scheduler.problem import Hop, Problem, WayHome
from scheduler.tables import Floats, Ints

Arrays = TypeVar("Arrays", Floats, Ints)


NO_WAY = WayHome()


@dataclass(frozen=True)
class Wire:
    """A link as the search sees it."""

    s_per_byte: float = 0.0
    delay_s: float = 0.0
    """Half of the round trip."""
    home: WayHome = NO_WAY
    """Of the results of plans that end behind this link."""

    @classmethod
    def of(cls, problem: Problem, hop: Hop) -> Wire:
        """The link at the objective's quantile."""
        link = problem.links[hop]
        return cls(8.0 / link.bps_at(problem.objective.quantile), link.rtt_s / 2, problem.way_home(hop[1]))


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
        way_s = self.wire.delay_s + self.wire.home.seconds
        return np.asarray(self.rows.fixed_s + self.rows.bytes * self.wire.s_per_byte + way_s)

    @functools.cached_property
    def period_s(self) -> Floats:
        link_s = np.maximum(self.rows.bytes * self.wire.s_per_byte, self.wire.home.transfer_s)
        return np.asarray(np.maximum(self.rows.busy_s, link_s))

    @property
    def busy_s(self) -> Floats:
        return self.rows.busy_s

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

    @property
    def device_s(self) -> Floats:
        return self.rows.device_s


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
        down = heads.fixed_s + heads.bytes * first.s_per_byte + first.delay_s
        way_s = self._behind_edge(first.home.seconds, second.delay_s + second.home.seconds)
        across = tails.fixed_s + tails.bytes * second.s_per_byte + way_s
        return np.asarray(self.edge_s + self._down(down) + self._across(across))

    @functools.cached_property
    def period_s(self) -> Floats:
        first, second = self.wires
        down = np.maximum(self.heads.busy_s, self.heads.bytes * first.s_per_byte)
        home_s = self._behind_edge(first.home.transfer_s, second.home.transfer_s)
        across = np.maximum(self.tails.busy_s, np.maximum(self.tails.bytes * second.s_per_byte, home_s))
        return np.asarray(np.maximum(np.maximum(self.edge_s, self._down(down)), self._across(across)))

    @functools.cached_property
    def busy_s(self) -> Floats:
        slowest = np.maximum(self._down(self.heads.busy_s), self._across(self.tails.busy_s))
        return np.asarray(np.maximum(self.edge_s, slowest))

    def _behind_edge(self, ending_s: float, going_on_s: float) -> Floats:
        """By tail: of plans that end at the edge (codec -1), and of the others; of a group, the best may be either."""
        return np.where(self.tails.codec < 0, min(ending_s, going_on_s) if self.lower else ending_s, going_on_s)

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

    @property
    def device_s(self) -> Floats:
        return self._down(self.heads.device_s)


def _energy(problem: Problem, rows: Rows, wire: Wire) -> Floats:
    if problem.power is None:
        return rows.busy_j
    return np.asarray(rows.busy_j + rows.bytes * (wire.s_per_byte * problem.power.transmit_w))
