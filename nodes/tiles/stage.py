"""A tiled edge stage: split, send, compute the own share, collect, merge; and how long its frames take."""

from __future__ import annotations

import statistics
import threading
import time
from collections import defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from nodes.stage import EmulatedSpeed
from nodes.tiles.layout import Layout, LayoutMaker, Part, TiledStep, WholeStep
from nodes.tiles.post import Post, Request
from nodes.tiles.roster import Roster
from pipeline.frames.wire import Tile
from pipeline.plan import Plan, TilePlan

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

    def add(self, worker: str, work_s: float, compute_s: float) -> None:
        """Enter a tile or a run of blocks."""
        self.work_s[worker] += work_s
        self.compute_s[worker] += compute_s


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
        self._post, self._roster, self._speed = site.post, site.roster, site.speed

    @property
    def allowed(self) -> tuple[str, ...] | None:
        """Names that may take part; None for all."""
        return None if self.tiles.open else self.tiles.workers

    def loses(self, speed: float) -> bool:
        """Whether tiles cost time, on an edge node of that speed; a plan that names its stacks is carried out."""
        untiled_s = sum(self.maker.times.block_s.values()) / speed
        return not self.tiles.stacks and self.record.is_worse_tiled(untiled_s)

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
        layout, tally, begin = self.layout, Tally(), time.monotonic()
        self.frames += 1
        for step in layout.steps:
            if isinstance(step, TiledStep):
                tensors = self._tiled(layout, step, tensors, tally)
            else:
                tensors = self._whole(step, tensors, tally)
        now = time.monotonic()
        self.record.add(layout.merges > 0, now - begin)
        for worker in tally.work_s:
            self._roster.computed(worker, tally.work_s[worker], tally.compute_s[worker], now)
        return tensors

    def _whole(self, step: WholeStep, tensors: dict[str, Tensor], tally: Tally) -> dict[str, Tensor]:
        begin = time.monotonic()
        made = self._speed.around(step.segment.run)(tensors)
        tally.add(self._roster.own, step.work_s, time.monotonic() - begin)
        return made

    def _tiled(self, layout: Layout, step: TiledStep, tensors: dict[str, Tensor], tally: Tally) -> dict[str, Tensor]:
        stack, regions = step.stack, [part.region for part in step.parts]
        inputs = stack.split(tensors, regions)
        requests = {
            number: self._request(layout, part, inputs[number])
            for number, part in enumerate(step.parts)
            if part.worker != self._roster.own and self._roster.is_ready(part.worker)
        }
        tiles: list[Mapping[str, Tensor]] = [{}] * len(step.parts)
        for number, part in enumerate(step.parts):
            if number not in requests:
                tiles[number] = self._own(step, part, inputs[number], tally)
        for number, request in requests.items():
            outputs, part = self._post.collect(request), request.part
            if outputs is not None:
                tally.add(part.worker, part.work_s, request.compute_s)
            tiles[number] = outputs or self._own(step, part, inputs[number], tally)
        return stack.complete(tensors, stack.merge(regions, tiles))

    def _request(self, layout: Layout, part: Part, tensors: dict[str, Tensor]) -> Request:
        now = time.monotonic()
        header = Tile(
            self._roster.own, self.plan.stream, self.plan.epoch, layout.order, part.task, self._post.ticket(), ()
        )
        deadline_s = now + self._roster.deadline_s(
            part.worker, part.predicted_s, part.work_s / self._roster.speed(self._roster.own)
        )
        request = Request(part, header, self.tiles.codec, tensors, now, deadline_s)
        self._post.request(request)
        return request

    def _own(self, step: TiledStep, part: Part, tensors: dict[str, Tensor], tally: Tally) -> dict[str, Tensor]:
        begin = time.monotonic()
        made = self._speed.around(lambda given: step.stack.run_tile(part.region, given))(tensors)
        tally.add(self._roster.own, part.work_s, time.monotonic() - begin)
        return made
