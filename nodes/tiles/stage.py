"""A tiled edge stage: split, send, compute the own share, collect, merge; and how long its frames take."""

from __future__ import annotations

import statistics
import threading
import time
from collections import defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

from torch import Tensor

from nodes.emulation import EmulatedSpeed
from nodes.tiles.chain import ChainRun
from nodes.tiles.layout import Chain, Conditions, Layout, Part, TiledStep, WholeStep
from nodes.tiles.maker import LayoutMaker
from nodes.tiles.post import Post, Request
from nodes.tiles.roster import Roster
from pipeline.frames.wire import Tile
from pipeline.model.function import inference
from pipeline.plan import Plan, TilePlan
from pipeline.tiling.execute import TiledStack
from pipeline.tiling.regions import Region

WORSE = 1.05
"""A tiled frame that takes so many times what an untiled one does: the stage rests untiled for a while. Models may be
wrong, and an edge node with workers must never lose to one without."""

FIRST_REST_S = 5.0

MAX_REST_S = 120.0

JUDGED_FRAMES = 8
"""Frames after which a layout is judged by its own times."""


class Record:
    """Frame times of a stage, tiled and untiled."""

    def __init__(self) -> None:
        self._tiled: deque[float] = deque(maxlen=2 * JUDGED_FRAMES)
        self._untiled: deque[float] = deque(maxlen=2 * JUDGED_FRAMES)

    def begin(self, tiled: bool) -> None:
        """Another layout: its frames are judged by themselves."""
        (self._tiled if tiled else self._untiled).clear()

    def add(self, tiled: bool, seconds: float) -> None:
        """One frame."""
        (self._tiled if tiled else self._untiled).append(seconds)

    def is_worse_tiled(self, untiled_s: float) -> bool:
        """Whether tiles cost time; `untiled_s` is the estimate that counts while no untiled frame was timed."""
        if len(self._tiled) < JUDGED_FRAMES:
            return False
        if len(self._untiled) >= JUDGED_FRAMES:
            untiled_s = statistics.median(list(self._untiled))
        return statistics.median(list(self._tiled)) > WORSE * untiled_s


@dataclass
class Tally:
    """Modelled and measured seconds of one frame, by who computed."""

    work_s: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    compute_s: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    steps: defaultdict[int, defaultdict[str, float]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(float))
    )
    """Measured seconds alone, by step."""
    is_whole: bool = True
    """Whether all came back."""

    def add(self, step: int, worker: str, work_s: float, compute_s: float) -> None:
        """Enter a tile or a run of blocks."""
        self.work_s[worker] += work_s
        self.compute_s[worker] += compute_s
        self.steps[step][worker] += compute_s

    @property
    def path_s(self) -> float:
        """Seconds in which somebody computed: of each step, its slowest worker's."""
        return sum(max(step.values()) for step in self.steps.values())


@dataclass(frozen=True)
class EdgeSite:
    """What all stages of an edge node share."""

    post: Post
    roster: Roster
    speed: EmulatedSpeed
    """Emulated, of the edge node."""


class TiledStage:
    """An edge stage whose layout may change between any two frames."""

    def __init__(self, plan: Plan, tiles: TilePlan, maker: LayoutMaker, site: EdgeSite) -> None:
        self.plan, self.tiles, self.maker = plan, tiles, maker
        self.settled = threading.Event()
        """Set when the first layout with workers runs, or there are none."""
        self.frames = 0
        self.layout = maker.alone(site.roster.own)
        self.made_s = float("-inf")
        self.pause_s = 0.0
        self.record = Record()
        self.rests_until_s = float("-inf")
        """Until when the stage stays untiled, since tiles were slower."""
        self.rest_s = FIRST_REST_S
        self.looked_at = 0
        """`frames` when the layout was last looked at: a stage that nobody uses is left alone."""
        self.is_left = False
        """Whether a later plan is committed: the last frames need no better layout, which would take their time."""
        self._post, self._roster, self._speed = site.post, site.roster, site.speed

    @property
    def allowed(self) -> tuple[str, ...] | None:
        """Names that may take part; None for all."""
        return None if self.tiles.open else self.tiles.workers

    def conditions(self, crew: tuple[str, ...]) -> Conditions:
        """What a layout for these would be made for, by what is measured now."""
        wire = self._roster.wire(partial(self.maker.crossing_s, self.layout))
        return Conditions(crew, self._roster.speeds(crew), wire)

    def loses(self, speed: float) -> bool:
        """Whether tiles cost time, on an edge node of that speed.

        Stacks that somebody wrote down (whose plan is open to all workers) are carried out; those of a planner rest on
        its expectations, and those may be wrong.
        """
        untiled_s = sum(self.maker.times.block_s.values()) / speed
        is_wanted = bool(self.tiles.stacks) and self.tiles.open
        return not is_wanted and self.record.is_worse_tiled(untiled_s)

    def adopt(self, layout: Layout, now: float) -> None:
        """Compute the next frames by another layout."""
        self.record.begin(layout.merges > 0)
        self.layout, self.made_s = layout, now

    def rest(self, now: float) -> None:
        """Stay untiled for a while; twice as long each time."""
        self.rests_until_s = now + self.rest_s
        self.rest_s = min(2 * self.rest_s, MAX_REST_S)

    def compute(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """One frame: tensors that cross the stage's first cut to those that cross its last one."""
        with inference():
            return self._computed(tensors)

    def _computed(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        layout, tally, begin = self.layout, Tally(), time.monotonic()
        passed = 0
        self.frames += 1
        for number, step in enumerate(layout.steps):
            if number in layout.chains:
                tensors = self._chained(layout, number, tensors, tally)
                passed = number + len(layout.chains[number].links)
            elif number < passed:
                continue
            elif isinstance(step, TiledStep):
                tensors = self._tiled(layout, number, step, tensors, tally)
            else:
                tensors = self._whole(number, step, tensors, tally)
        now = time.monotonic()
        self.record.add(layout.merges > 0, now - begin)
        if layout.meetings and tally.is_whole:
            self._roster.met((now - begin - tally.path_s) / layout.meetings)
        for worker in tally.work_s:
            self._roster.computed(worker, tally.work_s[worker], tally.compute_s[worker], now)
        return tensors

    def _whole(
        self, number: int, step: WholeStep | Chain, tensors: dict[str, Tensor], tally: Tally
    ) -> dict[str, Tensor]:
        begin, segment = time.monotonic(), step.segment
        made = self._speed.run(segment, lambda: segment.run(tensors))
        tally.add(number, self._roster.own, step.work_s, time.monotonic() - begin)
        return made

    def _chained(self, layout: Layout, number: int, tensors: dict[str, Tensor], tally: Tally) -> dict[str, Tensor]:
        chain, own = layout.chains[number], self._roster.own
        workers = dict.fromkeys(part.worker for link in chain.links for part in link.parts)
        there = {worker for worker in workers if worker != own and self._roster.is_ready(worker)}
        if there:
            run = ChainRun(
                chain,
                tensors,
                frozenset(workers.keys() - there),
                self._post,
                lambda part, rows, chain_number: self._request(layout, part, rows, chain_number),
                lambda part, stack, region, tile: self._own(number, stack, part, region, tile, tally),
            )
            made = run.run()
            for request in run.done:
                self._enter(number, request, tally)
            if made is not None:
                return made
        tally.is_whole = False
        return self._whole(number, chain, tensors, tally)

    def _tiled(
        self, layout: Layout, number: int, step: TiledStep, tensors: dict[str, Tensor], tally: Tally
    ) -> dict[str, Tensor]:
        stack, regions = step.stack, [part.region for part in step.parts]
        inputs = stack.split(tensors, regions)
        requests = {
            tile: self._request(layout, part, inputs[tile])
            for tile, part in enumerate(step.parts)
            if part.worker != self._roster.own and self._roster.is_ready(part.worker)
        }
        tiles: list[Mapping[str, Tensor]] = [{}] * len(step.parts)
        for tile, part in enumerate(step.parts):
            if tile not in requests:
                tiles[tile] = self._own(number, stack, part, part.region, inputs[tile], tally)
        for tile, request in requests.items():
            outputs = self._post.collect(request)
            if outputs is not None:
                self._enter(number, request, tally)
            else:
                tally.is_whole = False
            part = request.part
            tiles[tile] = outputs or self._own(number, stack, part, part.region, inputs[tile], tally)
        return stack.complete(tensors, stack.merge(regions, tiles))

    def _request(self, layout: Layout, part: Part, tensors: dict[str, Tensor], chain: int = 0) -> Request:
        name, plan, ticket = self._roster.own, self.plan, self._post.ticket()
        header = Tile(name, plan.stream, plan.epoch, layout.order, part.task, ticket, (), chain=chain)
        request = Request(part, header, self.tiles.codec, tensors, time.monotonic())
        self._post.request(request)
        return request

    def _own(
        self, number: int, stack: TiledStack, part: Part, region: Region, tensors: dict[str, Tensor], tally: Tally
    ) -> dict[str, Tensor]:
        begin = time.monotonic()
        made = self._speed.run((stack.label, region), lambda: stack.run_tile(region, tensors))
        work_s = part.work_s * region.rows.size / part.region.rows.size
        tally.add(_step_of(number, part), self._roster.own, work_s, time.monotonic() - begin)
        return made

    def _enter(self, number: int, request: Request, tally: Tally) -> None:
        part, step = request.part, _step_of(number, request.part)
        tally.add(step, part.worker, part.work_s, request.compute_s)
        tally.add(step - 1, part.worker, 0.0, request.rest_s)


def _step_of(number: int, part: Part) -> int:
    """Position of a part's stack, which is in the step `number` or in the chain that begins there."""
    return number if part.seat is None else number + part.seat.step
