"""Chains: fused stacks whose strips stay with the workers that computed them; only rows that are lacked cross.

Between two stacks of a chain nothing is merged. Each worker keeps its own rows of the map, and is given those that its
next strip needs besides. What each lacks follows from the strips alone, so both ends of the wire know it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.errors import PlanError
from pipeline.model.graph import Cut, TensorSpec
from pipeline.tiling.execute import TiledStack
from pipeline.tiling.regions import Interval, Region

Rows = tuple[Interval, ...]
"""Rows of a map: ascending, with gaps between them."""

Gets = Mapping[str, Rows]
"""Rows of each tensor that cross together."""


def joined(intervals: Iterable[Interval]) -> Rows:
    """All rows of several intervals, which may overlap."""
    found: list[Interval] = []
    for each in sorted(intervals):
        if found and each.start <= found[-1].stop:
            found[-1] = found[-1].union(each)
        else:
            found.append(each)
    return tuple(found)


def without(wanted: Interval, held: Rows) -> Rows:
    """The rows of `wanted` that are not in `held`."""
    found, start = [], wanted.start
    for each in held:
        if each.start > start and start < wanted.stop:
            found.append(Interval(start, min(each.start, wanted.stop)))
        start = max(start, each.stop)
    if start < wanted.stop:
        found.append(Interval(start, wanted.stop))
    return tuple(found)


def within(rows: Rows, bounds: Interval) -> Rows:
    """The part of `rows` that lies in `bounds`."""
    clipped = ((max(each.start, bounds.start), min(each.stop, bounds.stop)) for each in rows)
    return tuple(Interval(start, stop) for start, stop in clipped if start < stop)


def given_rows(edges: Sequence[tuple[int, int]], strip: Interval) -> Rows:
    """Rows that a strip gives, as they were asked for.

    Raises:
        PlanError: they are out of order, touch each other, or are not all in the strip.
    """
    rows = tuple(Interval(*each) for each in edges)
    if rows != joined(rows) or rows != within(rows, strip):
        raise PlanError(f"rows {edges}", f"not ascending rows of [{strip.start}, {strip.stop}) with gaps between")
    return rows


def in_turns(strip: Region, gives: Rows) -> tuple[tuple[Region, ...], tuple[Region, ...]]:
    """A strip in pieces: the rows that it gives, and the others."""
    first, rest = (
        tuple(Region(rows, strip.columns) for rows in pieces) for pieces in (gives, without(strip.rows, gives))
    )
    return first, rest


def lacked(tiles: Sequence[tuple[TiledStack, Region]]) -> list[dict[str, Rows]]:
    """What somebody who computes these tiles of a chain, in this order, must be given for each of them.

    Raises:
        PlanError: a tile is not a full-width strip inside of its stack's maps.
    """
    held: dict[str, Rows] = {}
    found = []
    for stack, region in tiles:
        if region.columns != Interval(0, stack.size[1]):
            raise PlanError(stack.label, f"tile {region} is no strip", "only strips can be chained")
        gets = {}
        for name, needed in stack.needed(region).items():
            known = held.get(name, ())
            if missing := without(needed.rows, known):
                gets[name] = missing
                held[name] = joined((*known, *missing))
        for name in stack.makes:
            held[name] = joined((*held.get(name, ()), region.rows))
        found.append(gets)
    return found


@dataclass(frozen=True)
class Seat:
    """One tile of a chain: who computes it, what it is given, and which of its rows are given back."""

    step: int
    """Position of its stack in the chain."""
    region: Region
    owner: str
    gets: Gets
    gives: Rows
    """Rows of every map that the stack makes; all of them at the end of the chain."""


def seats_of(
    stacks: Sequence[TiledStack], strips: Sequence[Sequence[tuple[Region, str]]], end: Cut
) -> tuple[tuple[Seat, ...], ...]:
    """Who gets and gives what, for each stack of a chain.

    Args:
        stacks: one behind the other.
        strips: the tiles of each stack from top to bottom, with who computes them.
        end: where the chain ends: what crosses there is given back whole.

    Raises:
        PlanError: a tile is no full-width strip.
    """
    owners = dict.fromkeys(owner for row in strips for _, owner in row)
    gets: dict[tuple[int, Region], dict[str, Rows]] = {}
    wanted: dict[str, list[tuple[str, int, Interval]]] = {}
    for owner in owners:
        own = [(step, region) for step, row in enumerate(strips) for region, who in row if who == owner]
        for (step, region), found in zip(own, lacked([(stacks[step], region) for step, region in own]), strict=True):
            gets[step, region] = found
            for name, rows in found.items():
                wanted.setdefault(name, []).extend((owner, step, each) for each in rows)

    def gives(step: int, region: Region, owner: str) -> Rows:
        made = stacks[step].makes
        if step == len(stacks) - 1 or any(name in end.tensors for name in made):
            return (region.rows,)
        asked = (each for name in made for who, when, each in wanted.get(name, ()) if who != owner and when > step)
        return within(joined(asked), region.rows)

    return tuple(
        tuple(Seat(step, region, owner, gets[step, region], gives(step, region, owner)) for region, owner in row)
        for step, row in enumerate(strips)
    )


def given(stack: TiledStack, rows: Rows) -> dict[str, Rows]:
    """What goes back of a stack's strip, by tensor."""
    return dict.fromkeys(stack.makes, rows) if rows else {}


def specs_of(stack: TiledStack, rows: Gets) -> tuple[TensorSpec, ...]:
    """What the rows of several tensors are as tensors, at full width, one below the other."""
    found = []
    for name, parts in rows.items():
        spec, layout = stack.captured.graph.tensors[name], stack.analysis.layout(name)
        shape = list(spec.shape)
        if layout is not None:
            shape[layout.row_axis] = sum(part.size for part in parts)
        found.append(TensorSpec(name, tuple(shape), spec.dtype, spec.unsigned))
    return tuple(found)


@dataclass(frozen=True)
class _Room:
    """A tensor that is laid out for rows some of which are still to come."""

    rows: Interval
    whole: Tensor
    lacks: Rows


class Strips:
    """Rows of tensors that somebody holds in the middle of a chain, at full width.

    A tensor that has no rows counts as a map of one.
    """

    def __init__(self) -> None:
        self._parts: dict[str, list[tuple[Interval, Tensor]]] = {}
        self._rooms: dict[str, _Room] = {}

    def put(self, stack: TiledStack, name: str, rows: Rows, tensor: Tensor) -> None:
        """Add rows that lie in one tensor, one below the other."""
        at, parts = 0, self._parts.setdefault(name, [])
        for each in rows:
            part = _narrow(stack, name, tensor, at, each.size)
            parts.append((each, part))
            at += each.size
            self._fill(stack, name, each, part)

    def make_room(self, stack: TiledStack, region: Region) -> None:
        """Lay out what a tile will need, so that then nothing but the rows that are still to come is copied."""
        for name, needed in stack.needed(region).items():
            parts, layout = self._parts.get(name, []), stack.analysis.layout(name)
            wanted = needed.rows
            if layout is None or not parts or any(within((wanted,), rows) == (wanted,) for rows, _ in parts):
                continue
            whole = _empty(stack, name, parts[0][1], wanted.size)
            self._rooms[name] = _Room(wanted, whole, (wanted,))
            for rows, part in tuple(parts):
                self._fill(stack, name, rows, part)

    def _fill(self, stack: TiledStack, name: str, rows: Interval, part: Tensor) -> None:
        """Copy what a room lacks, if there is one, of some rows; one that lacks nothing is a part like others."""
        room, lacks = self._rooms.get(name), list[Interval]()
        if room is None:
            return
        for lack in room.lacks:
            for each in within((rows,), lack):
                source = _narrow(stack, name, part, each.start - rows.start, each.size)
                _narrow(stack, name, room.whole, each.start - room.rows.start, each.size).copy_(source)
            lacks.extend(without(lack, (rows,)))
        self._rooms[name] = _Room(room.rows, room.whole, tuple(lacks))
        if not lacks:
            self._parts[name].append((room.rows, self._rooms.pop(name).whole))

    def find(self, stack: TiledStack, name: str, rows: Rows) -> Tensor | None:
        """Rows in one tensor, one below the other; None where some of them are not here.

        It is a view where they lie in one already.
        """
        parts = self._parts.get(name, ())
        if len(rows) == 1:
            [wanted] = rows
            for held, tensor in parts:
                if held.start <= wanted.start and wanted.stop <= held.stop:
                    return _narrow(stack, name, tensor, wanted.start - held.start, wanted.size)
        all_held = joined(held for held, _ in parts)
        if any(without(each, all_held) for each in rows):
            return None
        return _stacked(stack, name, [part for each in rows for part in self._cover(stack, name, each)])

    def rows(self, stack: TiledStack, name: str, rows: Rows) -> Tensor:
        """As `find`.

        Raises:
            PlanError: some of them are not here.
        """
        found = self.find(stack, name, rows)
        if found is None:
            raise PlanError(stack.label, f"rows of {name} are not here")
        return found

    def tile(self, stack: TiledStack, region: Region) -> dict[str, Tensor]:
        """What a tile needs.

        Raises:
            PlanError: some of it is not here.
        """
        found = {}
        for name, needed in stack.needed(region).items():
            tensor, layout = self.rows(stack, name, (needed.rows,)), stack.analysis.layout(name)
            if layout is not None and needed.columns.size != tensor.shape[layout.column_axis]:
                tensor = tensor.narrow(layout.column_axis, needed.columns.start, needed.columns.size)
            found[name] = tensor
        return found

    def keep(self, names: frozenset[str]) -> None:
        """Let go of all other tensors."""
        self._parts = {name: parts for name, parts in self._parts.items() if name in names}
        self._rooms = {name: room for name, room in self._rooms.items() if name in names}

    def _cover(self, stack: TiledStack, name: str, wanted: Interval) -> list[Tensor]:
        """Pieces that make up `wanted`, from its first row on; of two that overlap, the one that reaches further."""
        found, start = [], wanted.start
        while start < wanted.stop:
            at, tensor = max(
                (part for part in self._parts[name] if part[0].start <= start < part[0].stop),
                key=lambda part: part[0].stop,
            )
            stop = min(at.stop, wanted.stop)
            found.append(_narrow(stack, name, tensor, start - at.start, stop - start))
            start = stop
        return found


def _stacked(stack: TiledStack, name: str, parts: Sequence[Tensor]) -> Tensor:
    """Rows one below the other, in the format that the stack wants."""
    if len(parts) == 1:
        return parts[0]
    layout = stack.analysis.layout(name)
    assert layout is not None
    sizes = [part.shape[layout.row_axis] for part in parts]
    whole, at = _empty(stack, name, parts[0], sum(sizes)), 0
    for part, size in zip(parts, sizes, strict=True):
        whole.narrow(layout.row_axis, at, size).copy_(part)
        at += size
    return whole


def _empty(stack: TiledStack, name: str, like: Tensor, rows: int) -> Tensor:
    layout, shape = stack.analysis.layout(name), list(like.shape)
    assert layout is not None
    shape[layout.row_axis] = rows
    return torch.empty(shape, dtype=like.dtype, memory_format=stack.format_of(like))


def _narrow(stack: TiledStack, name: str, tensor: Tensor, start: int, size: int) -> Tensor:
    layout = stack.analysis.layout(name)
    if layout is None or tensor.shape[layout.row_axis] == size:
        return tensor
    return tensor.narrow(layout.row_axis, start, size)
