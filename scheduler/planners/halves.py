"""The parts of plans, as arrays: what depends on profiles and loads, but not yet on how fast the links are.

Most figures of a plan are a sum or a maximum of one number for everything up to the edge's compute (the *head*) and one
for everything behind it (the *tail*); only the edge's compute joins them. Each row holds its bytes and its other
seconds apart, so a change of bandwidth changes no row. The minima of groups of rows are kept too: a lower bound for
all plans of a group at any bandwidth.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pipeline.plan import Tier
from scheduler.cost import Crossing, crossing
from scheduler.planners.prepared import Prepared
from scheduler.problem import DEVICE_CLOUD, DEVICE_EDGE, EDGE_CLOUD, Hop, Problem
from scheduler.tables import Bools, Floats, Ints

WHOLE = ("cut", "codec", "group", "waist")
REAL = ("fixed_s", "busy_s", "bytes", "drop", "cloud_s", "busy_j", "memory_bytes", "edge_s", "drag_s", "device_s")
"""Columns of `Rows`, as they lie in its arrays."""


@dataclass(frozen=True)
class Rows:
    """One row per (cut, codec): a stage, and the link next to it.

    All columns lie in two arrays, so that rows are picked by two look-ups, not by fourteen.
    """

    whole: Ints
    """Shape (4, rows): `WHOLE`."""
    real: Floats
    """Shape (10, rows): `REAL`."""

    @classmethod
    def of(cls, whole: Mapping[str, Ints], real: Mapping[str, Floats]) -> Rows:
        """Rows by columns; a column that is not given is zero."""
        count = len(whole["cut"])
        reals = np.zeros((len(REAL), count))
        for name, column in real.items():
            reals[REAL.index(name)] = column
        return cls(np.array([whole[name] for name in WHOLE], dtype=np.intp), reals)

    @property
    def count(self) -> int:
        """Number of rows."""
        return int(self.whole.shape[1])

    @property
    def cut(self) -> Ints:
        return np.asarray(self.whole[0])

    @property
    def codec(self) -> Ints:
        return np.asarray(self.whole[1])

    @property
    def group(self) -> Ints:
        return np.asarray(self.whole[2])

    @property
    def waist(self) -> Ints:
        """For heads the first waist at or behind the cut, for tails the last one at or ahead of it."""
        return np.asarray(self.whole[3])

    @property
    def fixed_s(self) -> Floats:
        """Of the latency, transfer and the edge's compute (of heads and tails) apart."""
        return np.asarray(self.real[0])

    @property
    def busy_s(self) -> Floats:
        """The slowest of the same parts."""
        return np.asarray(self.real[1])

    @property
    def bytes(self) -> Floats:
        return np.asarray(self.real[2])

    @property
    def drop(self) -> Floats:
        return np.asarray(self.real[3])

    @property
    def cloud_s(self) -> Floats:
        return np.asarray(self.real[4])

    @property
    def busy_j(self) -> Floats:
        """Energy of the device, sending apart."""
        return np.asarray(self.real[5])

    @property
    def memory_bytes(self) -> Floats:
        return np.asarray(self.real[6])

    @property
    def edge_s(self) -> Floats:
        """This side's share of the potential that makes the edge's compute time."""
        return np.asarray(self.real[7])

    @property
    def drag_s(self) -> Floats:
        """By which this side's packing slows the edge's compute."""
        return np.asarray(self.real[8])

    @property
    def device_s(self) -> Floats:
        """Compute of the device's stage."""
        return np.asarray(self.real[9])


def pick(rows: Rows, which: Bools | Ints | slice) -> Rows:
    """Some of the rows."""
    if isinstance(which, slice):
        return Rows(rows.whole[:, which], rows.real[:, which])
    number = np.flatnonzero(which) if which.dtype == np.bool_ else which
    return Rows(rows.whole.take(number, axis=1), rows.real.take(number, axis=1))


@dataclass(frozen=True)
class Grouped:
    """Rows, where their groups begin, and the groups' column-wise minima."""

    rows: Rows
    starts: Ints
    """Shape (groups + 1,)."""
    least: Rows
    width: int
    keys: Ints
    """By row: its cut times `width`, and its codec."""

    @classmethod
    def of(cls, rows: Rows, furthest: bool = False) -> Grouped:
        """Group rows that are sorted by group.

        Args:
            rows: at least one.
            furthest: take the largest `waist` of each group instead of the least (for tails).
        """
        starts = np.flatnonzero(np.concatenate(([True], rows.group[1:] != rows.group[:-1])))
        least = Rows(np.minimum.reduceat(rows.whole, starts, axis=1), np.minimum.reduceat(rows.real, starts, axis=1))
        if furthest:
            least.whole[WHOLE.index("waist")] = np.maximum.reduceat(rows.waist, starts)
        width = int(rows.codec.max()) + 2
        return cls(rows, np.append(starts, len(rows.cut)), least, width, rows.cut * width + rows.codec)

    def find(self, cut: Ints, codec: Ints) -> tuple[Ints, Bools]:
        """The positions of (cut, codec) among the rows, which are sorted by both, and whether there is one."""
        wanted = cut * self.width + codec
        position = np.minimum(np.searchsorted(self.keys, wanted), len(self.keys) - 1)
        return position, np.asarray((self.keys[position] == wanted) & (codec < self.width - 1))

    def count(self, groups: Ints) -> int:
        """Number of rows of some groups."""
        if len(groups) == 1:
            return int(self.starts[groups[0] + 1] - self.starts[groups[0]])
        return int(np.sum(self.starts[groups + 1] - self.starts[groups]))

    def members(self, groups: Ints) -> Rows:
        """The rows of some groups, ascending."""
        ranges = [slice(int(self.starts[group]), int(self.starts[group + 1])) for group in groups]
        if len(ranges) == 1:
            return pick(self.rows, ranges[0])
        return pick(self.rows, np.concatenate([np.arange(each.start, each.stop) for each in ranges]))


def edge_seconds(heads: Rows, tails: Rows, gain_s: Floats, *, lower: bool = False, aligned: bool = False) -> Floats:
    """The edge's compute, slowed by the packing beside it.

    Args:
        heads: down, unless aligned.
        tails: across, unless aligned.
        gain_s: see `Halves`.
        lower: rows may be minima over groups; a lower bound is wanted.
        aligned: row n of one belongs to row n of the other.
    """
    down, across = (slice(None), slice(None)) if aligned else ((slice(None), None), (None, slice(None)))
    seconds: Floats = heads.edge_s[down] + tails.edge_s[across]
    if gain_s.size > 1:
        seconds -= gain_s[heads.waist[down], tails.waist[across]]
    np.maximum(seconds, 0.0, out=seconds)
    # An empty segment takes no time; a group that meets itself may hold one.
    key = (heads.group, tails.group) if lower else (heads.cut, tails.cut)
    seconds[key[0][down] == key[1][across]] = 0.0
    seconds += heads.drag_s[down]
    seconds += tails.drag_s[across]
    return seconds


@dataclass(frozen=True)
class Halves:
    """Parts of all plans of a problem, at its present loads; None where there is no such route."""

    alone: Rows
    """Everything on the device: one row, without codec (-1)."""
    straight: Grouped | None
    """From the device straight to the cloud."""
    heads: Grouped | None
    tails: Grouped | None
    """Ending at the edge is one of them: the last row, without codec (-1)."""
    gain_s: Floats
    """`Prepared.gain_s` at the edge's load."""
    prepared: Prepared

    @functools.cached_property
    def least_edge_s(self) -> Floats:
        """Shape (groups of heads, groups of tails): a lower bound of the edge's compute."""
        if self.heads is None or self.tails is None:
            return np.zeros((0, 0))
        return edge_seconds(self.heads.least, self.tails.least, self.gain_s, lower=True)

    @functools.cached_property
    def hopeful(self) -> Bools:
        """Where heads of the one group may lie before tails of the other (groups ascend with their cuts), and some two
        of them may together keep the bound on the accuracy drop."""
        if self.heads is None or self.tails is None:
            return np.zeros((0, 0), dtype=np.bool_)
        heads, tails = self.heads.least, self.tails.least
        order = heads.group[:, None] <= tails.group[None, :]
        return np.asarray(order & (heads.drop[:, None] + tails.drop[None, :] <= self.prepared.most_drop))

    @classmethod
    def of(cls, problem: Problem, prepared: Prepared) -> Halves:
        """Work out all rows."""
        straight = heads = tails = None
        if problem.has(DEVICE_CLOUD):
            straight = _grouped(_straight(problem, prepared), prepared.may_leave_device & prepared.may_leave_edge)
        if problem.has(DEVICE_EDGE):
            heads = _grouped(_heads(problem, prepared), prepared.may_leave_device)
            tails = Grouped.of(_tails(problem, prepared), furthest=True)
        gain_s = prepared.gain_s * problem.load_of(Tier.EDGE) if heads else prepared.gain_s
        return cls(_alone(problem), straight, heads, tails, gain_s, prepared)


def load_parts(problem: Problem) -> tuple[object, ...]:
    """What `Halves.of` depends on besides the constant parts."""
    loads = tuple((tier, name, id(problem.times[name]), problem.load_of(tier)) for tier, name in problem.nodes.items())
    return *loads, *(problem.has(hop) for hop in (DEVICE_EDGE, EDGE_CLOUD, DEVICE_CLOUD)), problem.power


def _grouped(rows: Rows, allowed: Bools) -> Grouped | None:
    if allowed.all():
        return Grouped.of(rows)
    return Grouped.of(pick(rows, allowed)) if allowed.any() else None


def _alone(problem: Problem) -> Rows:
    times, last, none = problem.times_of(Tier.DEVICE), len(problem.graph.cuts) - 1, np.zeros(1)
    busy = np.atleast_1d(times.segment_s(0, last)) * problem.load_of(Tier.DEVICE)
    energy = none if problem.power is None else problem.power.compute_w * busy
    where, nowhere = np.array([last]), np.array([-1])
    return Rows.of(
        {"cut": where, "codec": nowhere, "group": where, "waist": nowhere},
        {
            "fixed_s": busy,
            "busy_s": busy,
            "busy_j": energy,
            "memory_bytes": times.memory_bytes[where],
            "device_s": busy,
        },
    )


@dataclass(frozen=True)
class _Sent:
    """The device's side of all entries."""

    link: Crossing
    compute_s: Floats
    busy_j: Floats
    memory_bytes: Floats


def _sent(problem: Problem, prepared: Prepared, hop: Hop) -> _Sent:
    found, times = prepared.entries, problem.times_of(Tier.DEVICE)
    link = crossing(problem, hop, found.packed)
    prefix = times.segment_s(0, np.arange(len(times.leave_s))) * problem.load_of(Tier.DEVICE)
    compute = prefix[found.cut] + link.encode_drag_s
    energy = np.zeros(len(compute))
    if problem.power is not None:
        energy = problem.power.compute_w * (compute + link.encode_s)
    return _Sent(link, compute, energy, times.memory_bytes[found.cut])


def _heads(problem: Problem, prepared: Prepared) -> Rows:
    found, sent = prepared.entries, _sent(problem, prepared, DEVICE_EDGE)
    link, edge = sent.link, problem.times_of(Tier.EDGE)
    return Rows.of(
        _whole(prepared, prepared.behind[found.cut]),
        {
            "fixed_s": sent.compute_s + link.encode_s + link.decode_s,
            "busy_s": np.maximum(sent.compute_s, np.maximum(link.encode_s, link.decode_s)),
            "bytes": found.packed.bytes,
            "drop": found.drop,
            "busy_j": sent.busy_j,
            "memory_bytes": sent.memory_bytes,
            "device_s": sent.compute_s,
            "edge_s": (edge.enter_s * -problem.load_of(Tier.EDGE))[found.cut],
            "drag_s": link.decode_drag_s,
        },
    )


def _whole(prepared: Prepared, waist: Ints) -> dict[str, Ints]:
    found = prepared.entries
    return {"cut": found.cut, "codec": found.codec, "group": prepared.lattice.group[found.cut], "waist": waist}


def _straight(problem: Problem, prepared: Prepared) -> Rows:
    found, sent = prepared.entries, _sent(problem, prepared, DEVICE_CLOUD)
    link = sent.link
    cloud = _rest(problem)[found.cut] + link.decode_drag_s
    device = np.maximum(sent.compute_s, link.encode_s)
    return Rows.of(
        _whole(prepared, found.cut),
        {
            "fixed_s": sent.compute_s + link.encode_s + link.decode_s + cloud,
            "busy_s": np.maximum(device, np.maximum(link.decode_s, cloud)),
            "bytes": found.packed.bytes,
            "drop": found.drop,
            "cloud_s": link.decode_s + cloud,
            "busy_j": sent.busy_j,
            "memory_bytes": sent.memory_bytes,
            "device_s": sent.compute_s,
        },
    )


def _tails(problem: Problem, prepared: Prepared) -> Rows:
    stop = _stop(problem, prepared)
    if not problem.has(EDGE_CLOUD) or not prepared.may_leave_edge.any():
        return stop
    found, edge = prepared.entries, problem.times_of(Tier.EDGE)
    link = crossing(problem, EDGE_CLOUD, found.packed)
    cloud = _rest(problem)[found.cut] + link.decode_drag_s
    every = Rows.of(
        _whole(prepared, prepared.ahead[found.cut]),
        {
            "fixed_s": link.encode_s + link.decode_s + cloud,
            "busy_s": np.maximum(link.encode_s, np.maximum(link.decode_s, cloud)),
            "bytes": found.packed.bytes,
            "drop": found.drop,
            "cloud_s": link.decode_s + cloud,
            "edge_s": (edge.leave_s * problem.load_of(Tier.EDGE))[found.cut],
            "drag_s": link.encode_drag_s,
        },
    )
    if not prepared.may_leave_edge.all():
        every = pick(every, prepared.may_leave_edge)
    return Rows(np.hstack((every.whole, stop.whole)), np.hstack((every.real, stop.real)))


def _stop(problem: Problem, prepared: Prepared) -> Rows:
    edge, last = problem.times_of(Tier.EDGE), np.array([len(prepared.lattice.group) - 1])
    group, waist = prepared.lattice.group[last], prepared.ahead[last]
    return Rows.of(
        {"cut": last, "codec": np.array([-1]), "group": group, "waist": waist},
        {"edge_s": edge.leave_s[last] * problem.load_of(Tier.EDGE)},
    )


def _rest(problem: Problem) -> Floats:
    """Seconds of the cloud from each cut on."""
    cloud = problem.times_of(Tier.CLOUD)
    count = len(cloud.leave_s)
    return np.asarray(cloud.segment_s(np.arange(count), count - 1) * problem.load_of(Tier.CLOUD))
