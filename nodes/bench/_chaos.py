"""A deployment on this machine in which processes are killed, frozen and started again while a stream runs.

The device runs in this process, everybody else in a process of their own. Results are checked as they come, and not
kept, so that a run may be as long as it likes.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from nodes.admission import Outcome, Waiting
from nodes.agent import REPORT_INTERVAL_S, SchedulerAddress
from nodes.device import DeviceNode, StreamSettings
from nodes.launch import Child, Family, failure
from nodes.local.links import LocalLinks
from nodes.local.ports import Ports
from nodes.node import NodeSettings
from pipeline.errors import NodeError
from pipeline.frames.prefetch import Prefetcher
from pipeline.frames.source import Frame
from pipeline.frames.sources import open_source
from pipeline.model.graph import INPUT
from pipeline.model.spec import LoadedModel
from pipeline.plan import Tier, device_only
from pipeline.stage import prepare
from scheduler.registry import MISSED_HEARTBEATS
from scheduler.reports import Endpoints

STREAM = "camera"
NAMES = {tier: f"{tier}-1" for tier in Tier}
READY_S = 120.0
WINDOW_S = 0.5
"""Frames/s are measured over this long."""

WARM_UP_S = 1.0
RECOVERY_S = MISSED_HEARTBEATS * REPORT_INTERVAL_S + WARM_UP_S + WINDOW_S
UNWATCHED_S = 5.0
"""Longer where the scheduler is away too: a device by itself takes a frame for lost only after this (admission)."""

SHARED = "device=*,edge=edge-1,cloud=cloud-1"
"""The fixed plan of every stream."""

CAMERA = "scene:fps=2"
"""What the other cameras see."""

TOP = 5
TOLERANCE = 1e-5
"""Of the largest output: what another memory layout in another process changes."""


@dataclass(frozen=True)
class Scene:
    """What runs, and what of it may be hurt."""

    spec: str
    """Of the model, as a command line names it."""
    source: str
    pictures: int = 100
    """The source's first ones, over and over."""
    fps: float = 20.0
    """Pace of the source."""
    frames: int | None = None
    tile_workers: int = 0
    cameras: int = 0
    """Other devices, each with a stream of its own, over the same edge and cloud; they may be hurt as well."""
    traces: Mapping[tuple[Tier, Tier], str] = field(default_factory=dict)
    scheduler: Sequence[str] = ()
    """More options of the scheduler's."""
    exact: bool = True
    """Whether every plan keeps full precision, so that results can be held against the whole network's."""


@dataclass
class Account:
    """What became of the frames."""

    results: int = 0
    next_frame: int = 0
    out_of_order: int = 0
    """Results that were not those of the next frame: doubled, left out, or early."""
    wrong: int = 0
    other_top: int = 0
    """Results whose top classes are others, or in another order, than the whole network's."""


class Chaos:
    """One deployment, and what is done to it."""

    def __init__(self, folder: Path, model: LoadedModel, scene: Scene) -> None:
        self.folder, self.model, self.scene = folder, model, scene
        self.account = Account()
        self.faults: list[str] = []
        self.recoveries_s: list[float] = []
        self.frozen: set[str] = set()
        self.dead: set[str] = set()
        self.done = threading.Event()
        """The stream shall end, or has."""
        self._ports = Ports()
        self.address = SchedulerAddress(*(f"tcp://127.0.0.1:{self._ports.reserve()}" for _ in range(2)))
        self.family = Family(folder / "logs")
        self.links = LocalLinks(NAMES, scene.traces)
        self.pictures = _pictures(scene, model)
        self._expected = _answers(model, self.pictures)
        self.events = folder / "events-0.jsonl"
        """What the scheduler that was started last logs."""
        self._emitted_s: deque[float] = deque(maxlen=256)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """All nodes up, the stream flowing."""
        with self._ports, self.links.running(), self.family:
            for child in [self.start(name) for name in self.names]:
                self.family.wait_ready(child, READY_S)
            stream = StreamSettings(STREAM, first_plan_timeout_s=READY_S, needs_plan=True)
            self.device = DeviceNode(self._device_settings(), self.model, stream, self._emit)
            self.device.start()
            self.links.begin(self.folder, time.monotonic())
            thread = threading.Thread(target=self._run, name="stream")
            thread.start()
            try:
                yield
            finally:
                self.done.set()
                thread.join(60.0)
                self.device.stop()

    @property
    def names(self) -> list[str]:
        """Everybody who may be hurt."""
        workers = (f"tile-{number + 1}" for number in range(self.scene.tile_workers))
        cameras = (f"device-{number + 2}" for number in range(self.scene.cameras))
        return ["scheduler", "edge-1", "cloud-1", *workers, *cameras]

    def start(self, name: str) -> Child:
        """Start a process, also one that was killed."""
        if name == "scheduler":
            tiles = ["--tiles", str(self.scene.tile_workers + 1)] if self.scene.tile_workers else []
            self.events = self.folder / f"events-{len(self.faults)}.jsonl"
            arguments = [
                "scheduler", "--reports", self.address.reports, "--plans", self.address.plans, "--model",
                self.scene.spec, "--log", str(self.events), "--nodes", SHARED, *tiles, *self.scene.scheduler,
            ]  # fmt: skip
        else:
            tier = name.partition("-")[0]
            arguments = [
                tier, "--name", name, "--model", self.scene.spec, "--scheduler",
                f"{self.address.reports},{self.address.plans}", "--torch-threads", "1",
                *(self.links.arguments(Tier(tier)) if tier in (Tier.EDGE, Tier.CLOUD) else []),
                *(["--source", CAMERA, "--run-dir", str(self.folder / name)] if tier == Tier.DEVICE else []),
            ]  # fmt: skip
        self.dead.discard(name)
        return self.family.start(name, arguments)

    def hurt(self, rng: random.Random) -> str:
        """Do one thing at random: hurt somebody who is well, or mend somebody who is not."""
        name = rng.choice(self.names)
        if name in self.dead:
            self.family.wait_ready(self.start(name), READY_S)
            return f"start {name}"
        if name in self.frozen and rng.random() < 0.5:
            self._signal(name, signal.SIGCONT)
            self.frozen.discard(name)
            return f"wake {name}"
        if name in self.frozen or rng.random() < 0.5:
            self.kill(name)
        else:
            self._freeze(name)
        return self.faults[-1]

    def strike(self, rng: random.Random, spared: Collection[str] = ()) -> str:
        """Hurt somebody at random; `mend_all` comes before the next. Who is `spared` is frozen at worst."""
        name = rng.choice(self.names)
        if rng.random() < 0.5 and name not in spared:
            self.kill(name)
        else:
            self._freeze(name)
        return self.faults[-1]

    def _freeze(self, name: str) -> None:
        """SIGSTOP."""
        self._signal(name, signal.SIGSTOP)
        self.frozen.add(name)
        self.faults.append(f"freeze {name}")

    def kill(self, name: str) -> None:
        """SIGKILL."""
        self._signal(name, signal.SIGKILL)
        process = self.family.children[name].process
        process.wait(10.0)
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()
        self.frozen.discard(name)
        self.dead.add(name)
        self.faults.append(f"kill {name}")

    def mend_all(self, wait: bool = True) -> None:
        """Everybody up and awake; without `wait`, those that were dead may still be starting."""
        for name in sorted(self.frozen):
            self._signal(name, signal.SIGCONT)
        self.frozen.clear()
        for child in [self.start(name) for name in sorted(self.dead)]:
            if wait:
                self.family.wait_ready(child, READY_S)

    def recover(self) -> None:
        """Wait until frames/s are back.

        Raises:
            NodeError: that takes longer than noticing the fault and changing plans should.
        """
        began_s = time.monotonic()
        watched = not {"scheduler"} & (self.dead | self.frozen)
        limit_s = RECOVERY_S + (0.0 if watched else UNWATCHED_S)
        pause = threading.Event()
        while (now := time.monotonic()) - began_s < WINDOW_S or self.recent(now) < 0.8 * self.scene.fps * WINDOW_S:
            if now - began_s >= limit_s:
                raise NodeError(
                    "the stream", f"{self.recent(now)} results in {WINDOW_S} s, {self.faults[-3:]} ({self.state()})"
                )
            pause.wait(0.02)
        self.recoveries_s.append(now - began_s)

    def recent(self, now: float) -> int:
        """Results of the last `WINDOW_S`."""
        return sum(at_s > now - WINDOW_S for at_s in tuple(self._emitted_s))

    def state(self) -> str:
        """For messages."""
        admission = self.device.admission
        return f"epoch {admission.plan.epoch} on {admission.plan.nodes}, dead {self.dead}, frozen {self.frozen}"

    def runs(self, nodes: tuple[str, ...], limit_s: float) -> bool:
        """Whether a plan over `nodes` is in force within `limit_s`."""
        deadline_s, pause = time.monotonic() + limit_s, threading.Event()
        while self.device.admission.plan.nodes != nodes and time.monotonic() < deadline_s:
            pause.wait(0.02)
        return self.device.admission.plan.nodes == nodes

    @property
    def unaccounted(self) -> int:
        """Admitted frames without a result; after the end."""
        return self.device.admission.ledger.admitted - self.account.results

    def _device_settings(self) -> NodeSettings:
        options = self.links.arguments(Tier.DEVICE)
        pairs = dict(zip(options[::2], options[1::2], strict=True))
        node, _, address = pairs.get("--peer", "").partition("=")
        peers = {node: Endpoints(frames=address)} if node else {}
        return NodeSettings(NAMES[Tier.DEVICE], self.address, listen=pairs["--listen"], peers=peers)

    def check_alive(self) -> None:
        """See that everybody runs who was not killed.

        Raises:
            NodeError: a process ended by itself.
        """
        for name, child in self.family.children.items():
            if name not in self.dead and not child.is_running:
                raise failure(child)

    def _signal(self, name: str, number: signal.Signals) -> None:
        self.check_alive()
        os.kill(self.family.children[name].process.pid, number)

    def _run(self) -> None:
        try:
            self.device.run(self._feed)
        finally:
            self.done.set()

    def _emit(self, outcome: Outcome) -> None:
        self._emitted_s.append(time.monotonic())
        account, number = self.account, outcome.waiting.frame.number
        account.results += 1
        account.out_of_order += number != account.next_frame
        account.next_frame = number + 1
        if self.scene.exact:
            wanted = self._expected[number % len(self._expected)]
            found = outcome.outputs[self.model.captured.graph.outputs[0]]
            account.wrong += float((found - wanted).abs().max()) > TOLERANCE * float(wanted.abs().max())
            account.other_top += _top(found) != _top(wanted)

    def _feed(self, offer: Callable[[Waiting], bool]) -> None:
        due_s, fps = time.monotonic(), self.scene.fps
        for number, waiting in enumerate(itertools.islice(itertools.cycle(self.pictures), self.scene.frames)):
            self.done.wait(max(0.0, due_s - time.monotonic()))
            frame = Frame(number, number / fps, waiting.frame.rgb)
            if self.done.is_set() or not offer(Waiting(frame, waiting.picture)):
                return
            due_s = max(due_s + 1.0 / fps, time.monotonic())


def _pictures(scene: Scene, model: LoadedModel) -> list[Waiting]:
    source = open_source(scene.source, limit=scene.pictures)
    with contextlib.closing(source), Prefetcher(source, model.preprocess) as frames:
        return [Waiting(frame, picture) for frame, picture in frames]


def _answers(model: LoadedModel, pictures: Sequence[Waiting]) -> list[Tensor]:
    """What the whole network, alone and without any fault, gives for each picture."""
    whole = prepare(model.captured, device_only(STREAM, "device-1", model.captured.graph.fingerprint), 0)
    name = model.captured.graph.outputs[0]
    return [whole.compute({INPUT: waiting.picture})[name].clone() for waiting in pictures]


def _top(scores: Tensor) -> list[int]:
    flat = scores.flatten()
    found: list[int] = flat.topk(min(TOP, flat.numel())).indices.tolist()
    return found
