"""The two halves of a three-tier plan, as arrays: everything up to the edge's compute, and everything behind it.

Most figures of a plan are a sum or a maximum of one number of each half; only the edge's compute joins them. That is
what makes the exact search fast: bounds over groups of halves come from the minima of the same arrays.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, fields
from typing import TypeVar

import numpy as np

from pipeline.plan import Tier
from scheduler.bounds import PlanFigures, rate
from scheduler.cost import Crossing, crossing
from scheduler.planners.prepared import Prepared
from scheduler.problem import DEVICE_CLOUD, DEVICE_EDGE, EDGE_CLOUD, Hop, Problem
from scheduler.tables import Bools, Floats, Ints

T = TypeVar("T", "Heads", "Tails")
Arrays = TypeVar("Arrays", Floats, Ints)


@dataclass(frozen=True)
class Heads:
    """Device stage, first link, decoding on the edge: one row per (cut, codec)."""

    cut: Ints
    codec: Ints
    group: Ints
    latency_s: Floats
    period_s: Floats
    bytes: Floats
    drop: Floats
    energy_j: Floats
    memory_bytes: Floats
    start_s: Floats
    """What the edge's compute time owes to its start (negative: the potential of the cut)."""
    drag_s: Floats
    """By which decoding slows the edge's compute."""
    behind: Ints
    """First waist at or behind the cut (tile table)."""


@dataclass(frozen=True)
class Tails:
    """Encoding on the edge, second link, cloud stage: one row per (cut, codec); one row for ending at the edge."""

    cut: Ints
    codec: Ints
    group: Ints
    latency_s: Floats
    period_s: Floats
    bytes: Floats
    drop: Floats
    cloud_s: Floats
    leave_s: Floats
    drag_s: Floats
    ahead: Ints


def pick(half: T, rows: Bools | Ints | slice) -> T:
    """Some rows of a half."""
    return type(half)(*[getattr(half, field.name)[rows] for field in fields(half)])


def least(half: T, starts: Ints) -> T:
    """The column-wise minima of runs of rows that begin at `starts` (the last waist ahead: the maximum)."""
    columns = []
    for field in fields(half):
        reduce = np.maximum if field.name == "ahead" else np.minimum
        columns.append(reduce.reduceat(getattr(half, field.name), starts))
    return type(half)(*columns)


@dataclass(frozen=True)
class Sender:
    """The device's stage and the link that it sends on, by entry."""

    link: Crossing
    latency_s: Floats
    """Device stage and link, decoding included."""
    period_s: Floats
    energy_j: Floats
    memory_bytes: Floats


def sender(problem: Problem, prepared: Prepared, hop: Hop) -> Sender:
    """What every entry costs on the device and on the link `hop`."""
    found, times = prepared.entries, problem.times_of(Tier.DEVICE)
    link = crossing(problem, hop, found.packed)
    prefix = times.segment_s(0, np.arange(len(times.leave_s))) * problem.load_of(Tier.DEVICE)
    compute = prefix[found.cut] + link.encode_drag_s
    energy = np.zeros(1)
    if problem.power is not None:
        energy = problem.power.compute_w * (compute + link.encode_s) + problem.power.transmit_w * link.transfer_s
    return Sender(
        link=link,
        latency_s=compute + link.encode_s + link.transfer_s + link.decode_s + link.rtt_s,
        period_s=np.maximum(np.maximum(compute, link.encode_s), np.maximum(link.transfer_s, link.decode_s)),
        energy_j=np.broadcast_to(energy, found.cut.shape),
        memory_bytes=times.memory_bytes[found.cut],
    )


def heads(problem: Problem, prepared: Prepared) -> Heads:
    """All first halves that privacy allows."""
    found, times = prepared.entries, problem.times_of(Tier.EDGE)
    sent = sender(problem, prepared, DEVICE_EDGE)
    every = Heads(
        cut=found.cut,
        codec=found.codec,
        group=found.group,
        latency_s=sent.latency_s,
        period_s=sent.period_s,
        bytes=found.packed.bytes,
        drop=found.drop,
        energy_j=sent.energy_j,
        memory_bytes=sent.memory_bytes,
        start_s=(times.enter_s * -problem.load_of(Tier.EDGE))[found.cut],
        drag_s=sent.link.decode_drag_s,
        behind=prepared.behind[found.cut],
    )
    return every if prepared.may_leave_device.all() else pick(every, prepared.may_leave_device)


def tails(problem: Problem, prepared: Prepared) -> Tails:
    """All second halves that privacy allows, ending at the edge among them (the last row)."""
    stop = _stop(problem, prepared)
    if not problem.has(EDGE_CLOUD):
        return stop
    found, edge, cloud = prepared.entries, problem.times_of(Tier.EDGE), problem.times_of(Tier.CLOUD)
    link = crossing(problem, EDGE_CLOUD, found.packed)
    last = len(cloud.leave_s) - 1
    rest = cloud.segment_s(np.arange(last + 1), last) * problem.load_of(Tier.CLOUD)
    compute = rest[found.cut] + link.decode_drag_s
    every = Tails(
        cut=found.cut,
        codec=found.codec,
        group=found.group,
        latency_s=link.encode_s + link.transfer_s + link.decode_s + compute + link.rtt_s,
        period_s=np.maximum(np.maximum(link.encode_s, link.transfer_s), np.maximum(link.decode_s, compute)),
        bytes=found.packed.bytes,
        drop=found.drop,
        cloud_s=link.decode_s + compute,
        leave_s=(edge.leave_s * problem.load_of(Tier.EDGE))[found.cut],
        drag_s=link.encode_drag_s,
        ahead=prepared.ahead[found.cut],
    )
    if not prepared.may_leave_edge.all():
        every = pick(every, prepared.may_leave_edge)
    return Tails(*[np.append(getattr(every, field.name), getattr(stop, field.name)) for field in fields(Tails)])


def _stop(problem: Problem, prepared: Prepared) -> Tails:
    edge = problem.times_of(Tier.EDGE)
    last, none = np.array([len(edge.leave_s) - 1]), np.zeros(1)
    leave = edge.leave_s[last] * problem.load_of(Tier.EDGE)
    group = prepared.lattice.group[last]
    return Tails(last, -np.ones_like(last), group, none, none, none, none, none, leave, none, prepared.ahead[last])


@dataclass(frozen=True)
class PairFigures:
    """The figures of heads joined with tails; each is computed when it is looked at.

    Heads go down and tails across, unless `aligned`: then row n of one belongs to row n of the other. With `lower`,
    rows are minima over groups, and every figure is a lower bound of those of the groups' pairs.
    """

    problem: Problem
    gain_s: Floats
    """Savings of tiling by (behind, ahead), at the edge's load."""
    heads: Heads
    tails: Tails
    lower: bool = False
    aligned: bool = False
    measured_drop: Floats | None = None
    """Instead of the sum of both drops."""

    def _down(self, column: Arrays) -> Arrays:
        return column if self.aligned else column[:, None]

    def _across(self, column: Arrays) -> Arrays:
        return column if self.aligned else column[None, :]

    @functools.cached_property
    def edge_s(self) -> Floats:
        """The edge's compute, slowed by the packing beside it."""
        heads, tails = self.heads, self.tails
        seconds = self._down(heads.start_s) + self._across(tails.leave_s)
        if self.gain_s.size > 1:
            seconds -= self.gain_s[self._down(heads.behind), self._across(tails.ahead)]
        np.maximum(seconds, 0.0, out=seconds)
        # An empty segment takes no time; a group that meets itself may hold one.
        key = (heads.group, tails.group) if self.lower else (heads.cut, tails.cut)
        seconds[self._down(key[0]) == self._across(key[1])] = 0.0
        return np.asarray(seconds + (self._down(heads.drag_s) + self._across(tails.drag_s)))

    @functools.cached_property
    def latency_s(self) -> Floats:
        """See `Cost`; the other figures likewise."""
        sides = self._down(self.heads.latency_s) + self._across(self.tails.latency_s)
        return np.asarray(self.edge_s + sides)

    @functools.cached_property
    def period_s(self) -> Floats:
        sides = np.maximum(self._down(self.heads.period_s), self._across(self.tails.period_s))
        return np.asarray(np.maximum(self.edge_s, sides))

    @property
    def bytes(self) -> Floats:
        return np.asarray(self._down(self.heads.bytes) + self._across(self.tails.bytes))

    @property
    def bytes_per_s(self) -> Floats:
        if self.lower and self.problem.fps is None:
            return np.zeros((1, 1))
        return rate(self.problem, self.bytes, self.period_s)

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
        return self._down(self.heads.energy_j)

    @property
    def memory_bytes(self) -> Floats:
        return self._down(self.heads.memory_bytes)


@dataclass(frozen=True)
class Direct:
    """Plans that do not need the pair search: on the device alone (row 0), or straight to the cloud."""

    cut: Ints
    codec: Ints
    """-1 for the device alone."""
    figures: PlanFigures


def direct(problem: Problem, prepared: Prepared) -> Direct:
    """Everything on the device, and every (cut, codec) straight to the cloud."""
    alone = _alone(problem)
    last = np.array([len(problem.graph.cuts) - 1])
    if not problem.has(DEVICE_CLOUD):
        return Direct(last, np.array([-1]), alone)
    found, sent = prepared.entries, sender(problem, prepared, DEVICE_CLOUD)
    times = problem.times_of(Tier.CLOUD)
    rest = times.segment_s(np.arange(len(times.leave_s)), len(times.leave_s) - 1) * problem.load_of(Tier.CLOUD)
    compute = rest[found.cut] + sent.link.decode_drag_s
    period, nbytes = np.maximum(sent.period_s, compute), found.packed.bytes
    cloudy = PlanFigures(
        latency_s=sent.latency_s + compute,
        period_s=period,
        bytes=nbytes,
        bytes_per_s=rate(problem, nbytes, period),
        drop=found.drop,
        cloud_s=sent.link.decode_s + compute,
        energy_j=sent.energy_j,
        memory_bytes=sent.memory_bytes,
    )
    allowed = prepared.may_leave_device & prepared.may_leave_edge
    columns = [
        np.append(getattr(alone, field.name), getattr(cloudy, field.name)[allowed]) for field in fields(PlanFigures)
    ]
    return Direct(np.append(last, found.cut[allowed]), np.append(-1, found.codec[allowed]), PlanFigures(*columns))


def _alone(problem: Problem) -> PlanFigures:
    times, last, none = problem.times_of(Tier.DEVICE), len(problem.graph.cuts) - 1, np.zeros(1)
    busy = np.atleast_1d(times.segment_s(0, last)) * problem.load_of(Tier.DEVICE)
    energy = none if problem.power is None else problem.power.compute_w * busy
    return PlanFigures(busy, busy, none, none, none, none, energy, times.memory_bytes[[last]])
