"""Keeps the layouts of an edge node's tiled stages fitted to the workers that there are, and to their speeds."""

from __future__ import annotations

import itertools
import logging
import secrets
import threading
import time
import weakref
from dataclasses import replace
from functools import partial

import zmq

from nodes.emulation import EmulatedSpeed
from nodes.outlet import Directory, Outlet
from nodes.sockets import TILES_HWM, SocketFactory
from nodes.tiles.layout import Conditions, Layout, Step, TiledStep, WholeStep
from nodes.tiles.maker import LayoutMaker, Running
from nodes.tiles.post import Post, try_codec
from nodes.tiles.roster import Roster
from nodes.tiles.stage import EdgeSite, TiledStage
from nodes.tiles.wire import FIRST_FIXED_S
from pipeline.errors import AnabranchError, CodecError
from pipeline.frames.wire import TileOrder, TileTask
from pipeline.model.capture import CapturedModel
from pipeline.model.segment import Segment
from pipeline.packing import codec
from pipeline.packing.temporal import Temporal
from pipeline.plan import Plan, TilePlan
from pipeline.stage import StageProgram, assemble
from scheduler.commands import Announcement
from scheduler.reports import Endpoints

logger = logging.getLogger(__name__)

TICK_S = 0.25
"""How often workers that are out are looked at, and speeds compared with those that the layout was made for."""

REFIT = 0.1
"""A worker's speed, relative to the edge node's, that moved by more than this share asks for other strips."""

RECHOOSE = 1.5
"""A speed that moved by more than this factor asks for other stacks."""

REWIRE = 2.0
"""A goodput, or a fixed cost of crossing, that moved by more than this factor asks for other stacks."""

REFIT_PAUSE_S = 2.0
"""Time between two layouts that only speeds asked for; windows fill anew meanwhile."""

PAUSE_FACTOR = 10.0
"""That time is at least so many times what making the last layout took: at most a tenth of a core goes there."""

READY_TIMEOUT_S = 20.0
"""How long a worker may take to build and to warm its tiles; Inception-v4's take seconds on a busy machine."""

FIRST_LAYOUT_TIMEOUT_S = 20.0
"""How long the plan's readiness waits for the first layout with workers (below the scheduler's own limit of 30 s)."""

FIRST_ROUNDS = 3
"""Layouts made one after the other when a stage is new: the first is fitted to no more than a guess of the speeds."""


class Coordinator:
    """Keeps the layouts of all tiled stages of one edge node fitted to the workers that there are."""

    def __init__(self, name: str, captured: CapturedModel, factory: SocketFactory, directory: Directory) -> None:
        self.captured = captured
        self.roster = Roster(name)
        self.speed = EmulatedSpeed()
        self._kick = threading.Event()
        self._stopping = threading.Event()
        self.post = Post(name, Outlet(name, factory, directory, TILES_HWM), self.roster, self._kick.set)
        self._stages: weakref.WeakSet[TiledStage] = weakref.WeakSet()
        self._lock = threading.Lock()
        """Of the stages: they are built in one thread, laid out in another and left in a third."""
        self._warmed: weakref.WeakSet[Segment] = weakref.WeakSet()
        """Of chains; they are the same whatever the strips, and take long."""
        self._thread = threading.Thread(target=self._run, name=f"{name} tile layouts", daemon=True)
        self._started = False

    def start(self, inbox: zmq.Socket[bytes]) -> None:
        """Start the threads; `inbox` takes the workers' answers."""
        self.post.start(inbox)
        self._started = True
        self._thread.start()

    def stop(self) -> None:
        """Stop the threads; stages compute alone from then on."""
        self._stopping.set()
        self._kick.set()
        self.post.stop()
        if self._started:
            self._thread.join(timeout=60)

    @property
    def stages(self) -> tuple[TiledStage, ...]:
        """The tiled stages that can be run."""
        with self._lock:
            return tuple(self._stages)

    @property
    def site(self) -> EdgeSite:
        """What the stages share."""
        return EdgeSite(self.post, self.roster, self.speed)

    def hear(self, command: Announcement) -> None:
        """Take who is alive, and which stages get no new frames."""
        if self.roster.see(command.stream, (name for name, each in command.peers.items() if _is_worker(each))):
            self._kick.set()
        for stage in self.stages:
            if stage.plan.stream == command.stream and stage.plan.epoch < command.commit:
                stage.is_left = True

    def build(self, plan: Plan, tiles: TilePlan, hop: int, how: Running) -> StageProgram:
        """The stage program of a tiled plan; waits until its workers are ready too, for a limited time.

        Raises:
            PlanError: a stack of the plan cannot be tiled.
            UnknownCut: the plan names a cut that the model does not have.
            CodecError: a codec that cannot carry tiles.
        """
        plan.check(self.captured.graph)
        _check_codec(tiles.codec)
        start, end = plan.span(hop, self.captured.graph)
        stage = TiledStage(plan, tiles, LayoutMaker(self.captured, start, end, tiles, how), self.site)
        for step in stage.layout.steps:
            self._warm(step)
        if self._started:
            with self._lock:
                self._stages.add(stage)
            self._kick.set()
            stage.settled.wait(FIRST_LAYOUT_TIMEOUT_S)
        return assemble(self.captured, plan, hop, stage.compute)

    # --- the layouts' thread

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._kick.wait(TICK_S)
            self._kick.clear()
            self._ask_for_signs()
            for stage in self.stages:
                try:
                    self._look_at(stage)
                except (AnabranchError, RuntimeError) as error:  # RuntimeError: what torch's operators raise
                    logger.warning("%s: no new layout: %s", stage.plan.label, error)
                    stage.settled.set()
        for stage in self.stages:
            stage.settled.set()

    def _ask_for_signs(self) -> None:
        for name in self.roster.due(time.monotonic()):
            self.post.order(name, self._order(secrets.randbits(60), "fp32", ()))

    def _order(self, number: int, codec_name: str, tasks: tuple[TileTask, ...]) -> TileOrder:
        return TileOrder(self.roster.own, self.captured.graph.fingerprint, number, codec_name, tasks)

    def _look_at(self, stage: TiledStage) -> None:
        """Give a stage another layout where one is due."""
        is_new = not stage.settled.is_set()
        if stage.is_left or (not is_new and stage.looked_at == stage.frames):
            stage.settled.set()
            return
        stage.looked_at = stage.frames
        if is_new:
            self._await_first_signs(stage)
        for _ in range(FIRST_ROUNDS if is_new else 1):
            found = self._due(stage, time.monotonic())
            if found is None:
                break
            if self.prepare(stage, found):
                stage.adopt(found, time.monotonic())
                logger.info("%s: %s", stage.plan.label, describe(found))
        stage.settled.set()

    def _await_first_signs(self, stage: TiledStage) -> None:
        """Workers that are there when a stage is new have a moment to answer."""
        until_s = time.monotonic() + 1.0
        while time.monotonic() < until_s and not self._stopping.is_set():
            if not self.roster.expects(stage.plan.stream, stage.allowed):
                return
            self._ask_for_signs()
            self._kick.wait(0.02)
            self._kick.clear()

    def _due(self, stage: TiledStage, now: float) -> Layout | None:
        """The layout to change to; None where the present one will do."""
        layout, roster = stage.layout, self.roster
        crew = roster.crew(stage.plan.stream, stage.allowed)
        for name in crew[1:]:
            if name not in layout.tasks:
                roster.doubt(name, now)
        if set(crew) != set(layout.crew):
            stage.rests_until_s = float("-inf")
            return self._made(stage, stage.conditions(crew), anew=True)
        if layout.merges and stage.loses(roster.speed(crew[0])):
            stage.rest(now)
            return replace(stage.maker.alone(crew[0]), conditions=stage.conditions(crew))
        if now < stage.rests_until_s or (stage.settled.is_set() and now - stage.made_s < stage.pause_s):
            return None
        conditions = stage.conditions(crew)
        moved, other_wire = _moved(layout, conditions), _wire_moved(layout, conditions)
        rested = stage.rests_until_s > stage.made_s
        if moved <= REFIT and not other_wire and not rested:
            return None
        return self._made(stage, conditions, anew=other_wire or rested or moved > RECHOOSE - 1)

    def _made(self, stage: TiledStage, conditions: Conditions, anew: bool) -> Layout | None:
        maker, present, begin = stage.maker, stage.layout, time.monotonic()
        found: Layout | None = None
        try:
            found = maker.choose(conditions) if anew else maker.refit(conditions, present.pieces)
        except AnabranchError as error:
            logger.warning("%s: no layout for %s: %s", stage.plan.label, ", ".join(conditions.crew), error)
        stage.made_s = time.monotonic()
        stage.pause_s = max(REFIT_PAUSE_S, PAUSE_FACTOR * (stage.made_s - begin))
        if found is None or not _is_better(found, present, maker):
            stage.layout = replace(present, conditions=conditions)
            return None
        return found

    def prepare(self, stage: TiledStage, layout: Layout) -> bool:
        """Have everybody build and warm their tiles, while the old layout runs; False where one does not."""
        for worker, tasks in layout.tasks.items():
            self.post.order(worker, self._order(layout.order, stage.tiles.codec, tasks))
        for chain in layout.chains.values():
            if chain.segment not in self._warmed:
                chain.segment.warm(1)
                self._warmed.add(chain.segment)
        for step in layout.steps:
            self._warm(step)
            for part in step.parts if isinstance(step, TiledStep) else ():
                try_codec((*part.inputs, *part.outputs), stage.tiles.codec)
        ready = [self._is_prepared(stage, layout, worker) for worker in layout.tasks]
        return all(ready)

    def _warm(self, step: Step) -> None:
        """Make ready all of a step, the workers' tiles too: the edge node computes one when its worker is late."""
        if isinstance(step, WholeStep):
            step.segment.warm(1)
            return
        for part in step.parts:
            is_own = part.worker == self.roster.own
            for region in itertools.chain(*part.turns) if is_own else (part.region,):
                zeros = step.stack.zeros(region)
                for _ in range(2 if is_own else 1):
                    self.speed.run((step.stack.label, region), partial(step.stack.run_tile, region, zeros))

    def _is_prepared(self, stage: TiledStage, layout: Layout, worker: str) -> bool:
        until_s = time.monotonic() + READY_TIMEOUT_S
        while time.monotonic() < until_s and not self._stopping.is_set():
            if worker not in self.roster.crew(stage.plan.stream, stage.allowed):
                return False
            ready = self.post.ready(layout.order, worker, TICK_S)
            if ready is not None and ready.refused:
                logger.warning("%s refuses its tiles: %s", worker, ready.refused)
                break
            if ready is not None:
                self.roster.warmed(worker, layout.order, ready.seconds)
                if not self.roster.is_known(worker):
                    self.roster.computed(worker, layout.work_s(worker), sum(ready.seconds), time.monotonic())
                return True
        self.roster.missed(worker, time.monotonic())
        return False


def _is_better(found: Layout, present: Layout, maker: LayoutMaker) -> bool:
    """Whether a layout is to take the present one's place; one that a worker left, or is new to, gives way always."""
    if found.pieces == present.pieces and found.tasks == present.tasks:
        return False
    same_crew = set(found.crew) == set(present.crew)
    return not (same_crew and present.merges) or maker.gains(found, present)


def describe(layout: Layout) -> str:
    """A layout in words."""
    shares = {name: layout.work_s(name) for name in layout.crew}
    total = sum(shares.values())
    if not layout.merges or not total:
        return "untiled"
    chained = sum(len(chain.links) for chain in layout.chains.values())
    parts = ", ".join(f"{name} {part / total:.0%}" for name, part in shares.items())
    return f"{layout.merges} fused stacks ({chained} of them in {len(layout.chains)} chains), {parts}"


def _is_worker(endpoints: Endpoints) -> bool:
    """Whether a peer computes tiles for others: an edge node has an inbox for its own tiles' answers, too."""
    return bool(endpoints.tiles) and not endpoints.frames


def _moved(layout: Layout, conditions: Conditions) -> float:
    """By how much a speed differs most from what the layout was made for, the edge node's own as the measure."""
    own, before = conditions.crew[0], layout.conditions.speeds
    ratios = [
        (conditions.speeds[name] / conditions.speeds[own]) / (before[name] / before[own]) for name in conditions.crew
    ]
    return max(max(ratio, 1 / ratio) for ratio in ratios) - 1


def _wire_moved(layout: Layout, conditions: Conditions) -> bool:
    """Whether crossing takes quite another time than the layout was made for."""
    before, now = layout.conditions.wire, conditions.wire
    meeting = max(now.meeting_s, FIRST_FIXED_S) / max(before.meeting_s, FIRST_FIXED_S)
    ratios = (now.goodput_bps / before.goodput_bps, now.fixed_s / before.fixed_s, meeting)
    return any(max(ratio, 1 / ratio) > REWIRE for ratio in ratios)


def _check_codec(name: str) -> None:
    if isinstance(codec.get(name), Temporal):
        raise CodecError(
            f"codec {name}", "compares frames, and tiles may go to another worker", "use one that does not"
        )
