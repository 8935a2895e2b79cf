"""A deployment whose nodes are killed, frozen and restarted, and what must hold of its stream all the while.

The device that is watched runs in this process; edge, cloud, tile workers and scheduler in processes of their
own. Every admitted frame must have exactly one right result, in order, and frames/s must be back soon after each
fault.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from nodes.admission import Outcome, Waiting
from nodes.agent import REPORT_INTERVAL_S, SchedulerAddress
from nodes.device import DeviceNode, StreamSettings
from nodes.launch import Child, Family
from nodes.node import NodeSettings
from pipeline.frames.prefetch import Prefetcher
from pipeline.frames.source import Frame
from pipeline.frames.sources import open_source
from pipeline.model.graph import INPUT
from pipeline.model.spec import LoadedModel
from pipeline.plan import Tier, device_only
from pipeline.stage import prepare
from scheduler.handmade import worker_name
from scheduler.registry import MISSED_HEARTBEATS
from tests.data import DATA

VIDEO = DATA / "video" / "one-by-one-person-detection.mp4"
PICTURES = 100
STREAM = "camera"
FPS = 20.0
"""Pace of the source; every plan is faster, so this is the frames/s that all of them predict."""

WINDOW_S = 0.5
"""Frames/s are measured over this long."""

WARM_UP_S = 1.0
RECOVERY_S = MISSED_HEARTBEATS * REPORT_INTERVAL_S + WARM_UP_S + WINDOW_S
UNWATCHED_S = 5.0
"""Longer where the scheduler is away too: a device by itself takes a frame for lost only after this (admission)."""


@dataclass
class Chaos:
    """One deployment, and what is done to it."""

    folder: Path
    model: LoadedModel
    spec: str
    fps: float = FPS
    tile_workers: int = 0
    """Beside the edge node, which is one itself; the fixed plan is in tiles where there are any."""
    outcomes: list[Outcome] = field(default_factory=list)
    emitted_s: list[float] = field(default_factory=list)
    frozen: set[str] = field(default_factory=set)
    dead: set[str] = field(default_factory=set)
    faults: list[str] = field(default_factory=list)
    recoveries_s: list[float] = field(default_factory=list)
    done: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.address = SchedulerAddress(_free_endpoint(), _free_endpoint())
        self.family = Family(self.folder / "logs")
        self.pictures = _pictures(self.model)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """All nodes up, the stream flowing."""
        with self.family:
            for child in [self.start(name) for name in self.names]:
                self.family.wait_ready(child, 60.0)
            settings = NodeSettings("device-1", self.address)
            stream = StreamSettings(STREAM, first_plan_timeout_s=60.0, needs_plan=True)
            self.device = DeviceNode(settings, self.model, stream, self._emit)
            self.device.start()
            thread = threading.Thread(target=self.device.run, args=(self._feed,), name="stream")
            thread.start()
            try:
                yield
            finally:
                self.done.set()
                thread.join(30.0)
                self.device.stop()

    @property
    def names(self) -> list[str]:
        """Everybody who may be hurt."""
        tiles = (worker_name(number + 1) for number in range(self.tile_workers))
        return ["scheduler", "edge-1", "cloud-1", *tiles]

    def start(self, name: str) -> Child:
        """Start a process, also one that was killed."""
        if name == "scheduler":
            arguments = [
                "scheduler", "--reports", self.address.reports, "--plans", self.address.plans, "--model", self.spec,
                "--log", str(self.folder / f"events-{len(self.faults)}.jsonl"), *self._planning(),
            ]  # fmt: skip
        else:
            arguments = self._node(name)
        self.dead.discard(name)
        return self.family.start(name, arguments)

    def _planning(self) -> list[str]:
        return ["--tiles", str(self.tile_workers + 1)] if self.tile_workers else []

    def _node(self, name: str) -> list[str]:
        address = f"{self.address.reports},{self.address.plans}"
        kind = name.partition("-")[0]
        return [kind, "--name", name, "--model", self.spec, "--scheduler", address, "--torch-threads", "1"]

    def hurt(self, rng: random.Random) -> None:
        """Do one thing at random: hurt somebody who is well, or mend somebody who is not."""
        name = rng.choice(self.names)
        if name in self.dead:
            self.family.wait_ready(self.start(name), 60.0)
        elif name in self.frozen and rng.random() < 0.5:
            self._signal(name, signal.SIGCONT)
            self.frozen.discard(name)
        elif name in self.frozen or rng.random() < 0.5:
            self.kill(name)
        else:
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

    def mend_all(self) -> None:
        """Everybody up and awake."""
        for name in sorted(self.frozen):
            self._signal(name, signal.SIGCONT)
        self.frozen.clear()
        for name in sorted(self.dead):
            self.family.wait_ready(self.start(name), 60.0)

    def recover(self) -> None:
        """Wait until frames/s are back; fail where that takes too long."""
        began_s = time.monotonic()
        watched = not {"scheduler"} & (self.dead | self.frozen)
        limit_s = RECOVERY_S + (0.0 if watched else UNWATCHED_S)
        wanted = 0.8 * self.fps * WINDOW_S
        pause = threading.Event()
        while True:
            now = time.monotonic()
            recent = sum(at_s > now - WINDOW_S for at_s in self.emitted_s[-200:])
            if recent >= wanted and now - began_s >= WINDOW_S:
                break
            assert now - began_s < limit_s, (
                f"{recent} results in {WINDOW_S} s after {self.faults[-3:]} ({self.state()})"
            )
            pause.wait(0.02)
        self.recoveries_s.append(now - began_s)

    def state(self) -> str:
        """For messages."""
        admission = self.device.admission
        return f"epoch {admission.plan.epoch} on {admission.plan.nodes}, dead {self.dead}, frozen {self.frozen}"

    def runs_with_others(self, limit_s: float) -> bool:
        """Whether, within `limit_s`, a plan is in force that leaves the device (the fixed one: on all tiers)."""
        deadline_s, pause = time.monotonic() + limit_s, threading.Event()
        while len(self.device.admission.plan.nodes) < len(Tier) and time.monotonic() < deadline_s:
            pause.wait(0.02)
        return len(self.device.admission.plan.nodes) >= len(Tier)

    def check(self) -> None:
        """Every admitted frame has exactly one right result, in order."""
        ledger = self.device.admission.ledger
        assert [outcome.waiting.frame.number for outcome in self.outcomes] == list(range(ledger.admitted))
        whole = prepare(self.model.captured, device_only(STREAM, "device-1", self.model.captured.graph), 0)
        (name,) = self.model.captured.graph.outputs
        expected = [whole.compute({INPUT: waiting.picture})[name] for waiting in self.pictures]
        for outcome in self.outcomes:
            wanted = expected[outcome.waiting.frame.number % len(expected)]
            error = float((outcome.outputs[name] - wanted).abs().max())
            assert error <= 1e-5 * float(wanted.abs().max()), f"frame {outcome.header.frame}: {error}"

    def _signal(self, name: str, number: signal.Signals) -> None:
        os.kill(self.family.children[name].process.pid, number)

    def _emit(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        self.emitted_s.append(time.monotonic())

    def _feed(self, offer: Callable[[Waiting], bool]) -> None:
        due_s = time.monotonic()
        for number, waiting in enumerate(itertools.cycle(self.pictures)):
            self.done.wait(max(0.0, due_s - time.monotonic()))
            if self.done.is_set() or not offer(
                Waiting(Frame(number, number / self.fps, waiting.frame.rgb), waiting.picture)
            ):
                return
            due_s = max(due_s + 1.0 / self.fps, time.monotonic())


def _free_endpoint() -> str:
    """An address that stays the scheduler's over its restarts."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{probe.getsockname()[1]}"


def _pictures(model: LoadedModel) -> list[Waiting]:
    source = open_source(str(VIDEO) if VIDEO.exists() else "scene:", limit=PICTURES)
    with contextlib.closing(source), Prefetcher(source, model.preprocess) as frames:
        return [Waiting(frame, picture) for frame, picture in frames]


def rampage(chaos: Chaos, seed: int, faults: int) -> None:
    """Hurt somebody at random, `faults` times, and check all that must hold. The seed is printed."""
    print(f"seed {seed}")  # noqa: T201  (to do the same again)
    rng = random.Random(seed)
    with chaos.running():
        assert chaos.runs_with_others(30.0), chaos.state()
        chaos.recover()
        while len(chaos.faults) < faults:
            chaos.hurt(rng)
            chaos.recover()
        chaos.mend_all()
        assert chaos.runs_with_others(30.0), chaos.state()
        chaos.recover()
    chaos.check()
    ledger = chaos.device.admission.ledger
    print(f"{ledger.admitted} frames, admitted again: {dict(ledger.readmissions)}, {dict(ledger.drops)}")  # noqa: T201
    print(f"back after at most {max(chaos.recoveries_s):.1f} s: {chaos.faults}")  # noqa: T201
