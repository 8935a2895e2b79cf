"""`anabranch run`: a whole deployment on this machine, one process per node, started, watched and stopped together."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from rich.console import Console

from nodes.admission import Admit
from nodes.launch import Child, Family, failure
from nodes.summary import Summary, create_run_folder
from nodes.view import Watch, follow
from pipeline.errors import AnabranchError, ConfigError, NodeError
from pipeline.frames.sources import open_source
from pipeline.model.graph import ModelGraph
from pipeline.model.spec import load_model
from pipeline.plan import Tier
from scheduler.handmade import plan_of

READY_TIMEOUT_S = 300.0
"""A node loads and captures its model before it is ready: half a minute for Inception-v4 on a busy core."""

WATCH_S = 0.2
"""How often the processes are looked at."""


@dataclass(frozen=True)
class RunSettings:
    """What `anabranch run` was asked for."""

    source: str
    run_dir: Path
    model: str = "builtin"
    weights: Path | None = None
    labels: Path | None = None
    frames: int | None = None
    admit: Admit = Admit.EVERY
    annotate: Path | None = None
    cut: str = ""
    codec: str = "fp32"
    tiers: tuple[Tier, ...] = tuple(Tier)
    speeds: Mapping[Tier, float] = field(default_factory=dict)
    """Emulated speed by tier; 1 where a tier is absent."""
    torch_device: str = "cpu"

    def names(self) -> dict[Tier, str]:
        """The node of each tier that takes part."""
        return {tier: f"{tier}-1" for tier in self.tiers}


class LocalRun:
    """One run.

    Raises:
        AnabranchError: anything that kept it from its end; all processes are gone by then.
    """

    def __init__(self, settings: RunSettings, console: Console) -> None:
        self.settings = settings
        self.console = console
        self.watch = Watch()
        self._interrupted = threading.Event()

    def run(self) -> Summary:
        """Check, start, watch, stop; returns what the device wrote down."""
        create_run_folder(self.settings.run_dir)
        open_source(self.settings.source, limit=self.settings.frames).close()
        graph_file = self._check_model()
        previous = signal.signal(signal.SIGINT, lambda *_: self._interrupted.set())
        terminated = signal.signal(signal.SIGTERM, lambda *_: self._interrupted.set())
        try:
            with Family(self.settings.run_dir / "logs") as family:
                self._start(family, graph_file)
        finally:
            signal.signal(signal.SIGINT, previous)
            signal.signal(signal.SIGTERM, terminated)
        return self._summary()

    def _check_model(self) -> Path:
        """Load the model once here, so that what is wrong with it or the plan is said before anything is started."""
        loaded = load_model(self.settings.model, weights=self.settings.weights)
        graph = loaded.captured.graph
        if len(self.settings.tiers) > 1:
            plan_of(graph, "check", self.settings.names(), self.settings.cut, self.settings.codec)
        path = self.settings.run_dir / "model.json"
        path.write_bytes(msgspec.json.encode(graph))
        return path

    def _start(self, family: Family, graph_file: Path) -> None:
        names = self.settings.names()
        scheduler = family.start("scheduler", self._scheduler_arguments(graph_file))
        family.wait_ready(scheduler, READY_TIMEOUT_S)
        address = f"{scheduler.endpoints['reports']},{scheduler.endpoints['plans']}"
        for tier in (Tier.CLOUD, Tier.EDGE):
            if tier in names:
                family.start(names[tier], [tier, *self._node_arguments(tier, address)])
        device = family.start(
            names[Tier.DEVICE], ["device", *self._node_arguments(Tier.DEVICE, address), *self._stream_arguments()]
        )
        stop = threading.Event()
        viewer = threading.Thread(
            target=follow, args=(self.watch, scheduler.endpoints["plans"], self.console, stop), name="view"
        )
        viewer.start()
        try:
            self._watch(family, device)
        finally:
            stop.set()
            viewer.join()

    def _watch(self, family: Family, device: Child) -> None:
        """Return when the device is done; raise where it, or a node that it needs to begin, failed."""
        said: set[str] = set()
        while device.is_running:
            if self._interrupted.wait(WATCH_S):
                device.process.send_signal(signal.SIGTERM)
                device.process.wait(timeout=60)
                break
            for child in family.children.values():
                if child is not device and not child.is_running and child.name not in said:
                    said.add(child.name)
                    self._lost(child)
        if device.process.returncode != 0:
            raise failure(device)

    def _lost(self, child: Child) -> None:
        """A node died: fatal before the first frame, one line after it."""
        error = failure(child)
        results = self.settings.run_dir / "results.jsonl"
        if not results.exists() or not results.stat().st_size:
            raise error
        self.console.print(f"warning: {error}", highlight=False)

    def _scheduler_arguments(self, graph_file: Path) -> list[str]:
        settings = self.settings
        nodes = ",".join(f"{tier}={name}" for tier, name in settings.names().items())
        return [
            "scheduler", "--reports", "tcp://127.0.0.1:*", "--plans", "tcp://127.0.0.1:*", "--graph", str(graph_file),
            "--cut", settings.cut, "--codec", settings.codec, "--nodes", nodes,
            "--log", str(settings.run_dir / "events.jsonl"),
        ]  # fmt: skip

    def _node_arguments(self, tier: Tier, address: str) -> list[str]:
        settings = self.settings
        arguments = [
            "--name", settings.names()[tier], "--model", settings.model, "--scheduler", address,
            "--torch-threads", "1", "--torch-device", settings.torch_device,
            "--emulate-speed", str(settings.speeds.get(tier, 1.0)),
        ]  # fmt: skip
        if settings.weights is not None:
            arguments += ["--weights", str(settings.weights)]
        return arguments

    def _stream_arguments(self) -> list[str]:
        settings = self.settings
        arguments = [
            "--source", settings.source, "--admit", settings.admit, "--run-dir", str(settings.run_dir),
            "--first-plan-timeout", str(READY_TIMEOUT_S), "--needs-plan",
        ]  # fmt: skip
        optional = {"--frames": settings.frames, "--labels": settings.labels, "--annotate": settings.annotate}
        for flag, value in optional.items():
            if value is not None:
                arguments += [flag, str(value)]
        return arguments

    def _summary(self) -> Summary:
        path = self.settings.run_dir / "summary.json"
        try:
            return msgspec.json.decode(path.read_bytes(), type=Summary)
        except (OSError, msgspec.DecodeError) as error:
            raise NodeError(
                "device-1", f"left no summary ({error})", f"see {self.settings.run_dir / 'logs'}"
            ) from error


def default_run_dir(model: str) -> Path:
    """`runs/` and the time of day, with a counter where that is taken."""
    stem = time.strftime("%Y%m%d-%H%M%S") + "-" + model.rpartition(":")[2].replace("/", "_")
    candidates = (Path("runs") / (stem if number == 0 else f"{stem}-{number}") for number in range(1000))
    return next(path for path in candidates if not path.exists())


def parse_speeds(text: str) -> dict[Tier, float]:
    """`device=0.25,edge=0.5` as a mapping.

    Raises:
        ConfigError: an unknown tier, or a speed that is not in (0, 1].
    """
    speeds: dict[Tier, float] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        tier, _, value = part.partition("=")
        try:
            speeds[Tier(tier)] = float(value)
        except ValueError as error:
            raise ConfigError(f"--emulate-speed {part}", "not TIER=FRACTION", "for example device=0.25") from error
        if not 0 < speeds[Tier(tier)] <= 1:
            raise ConfigError(f"--emulate-speed {part}", "not a fraction of 1", "a node can only be made slower")
    return speeds


def parse_tiers(text: str) -> tuple[Tier, ...]:
    """`device,edge,cloud` or a part of it that begins with the device.

    Raises:
        ConfigError: something else.
    """
    try:
        tiers = tuple(Tier(part.strip()) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(f"--tiers {text}", str(error), "for example device,cloud") from error
    if tiers != tuple(tier for tier in Tier if tier in tiers) or tiers[0] is not Tier.DEVICE:
        raise ConfigError(f"--tiers {text}", "not in the order device, edge, cloud, or without the device")
    return tiers


def parse_names(text: str) -> dict[Tier, str]:
    """`device=cam,cloud=big` as a mapping, in the order of the stream.

    Raises:
        ConfigError: an unknown tier, or no device.
    """
    pairs = dict(part.strip().partition("=")[::2] for part in text.split(","))
    tiers = parse_tiers(",".join(tier for tier in Tier if tier in pairs))
    if set(pairs) != set(tiers) or not all(pairs.values()):
        raise ConfigError(f"--nodes {text}", "not TIER=NAME", "for example device=cam,cloud=big")
    return {tier: pairs[tier] for tier in tiers}


def read_graph(path: Path) -> ModelGraph:
    """A block graph from a file.

    Raises:
        ConfigError: the file is missing or is none.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=ModelGraph)
    except (OSError, msgspec.DecodeError, AnabranchError, json.JSONDecodeError) as error:
        raise ConfigError(f"graph {path}", str(error)) from error
