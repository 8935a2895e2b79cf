"""`anabranch run`: a whole deployment on this machine, one process per node, started, watched and stopped together."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from rich.console import Console

from nodes.admission import Admit
from nodes.deciding import FIXED, MAX_DROP
from nodes.keys import Keyring, Role
from nodes.launch import Child, Family, failure
from nodes.local.keys import local_keys
from nodes.local.links import LocalLinks
from nodes.machine import compile_codecs, emulated_profile
from nodes.report.record import whole_results
from nodes.summary import Summary, create_run_folder
from nodes.view import Watch, follow
from pipeline.errors import NodeError
from pipeline.frames.sources import open_source
from pipeline.model.spec import load_model
from pipeline.packing.sessions import warm
from pipeline.plan import Tier
from scheduler.handmade import Tiling, plan_of, tiled, worker_name

READY_TIMEOUT_S = 300.0
"""A node loads and captures its model before it is ready: half a minute for Inception-v4 on a busy core."""

WATCH_S = 0.2
"""How often the processes are looked at."""

BEGIN_S = 0.02
"""The same until the first result comes, with which the traces begin."""


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
    policy: str = FIXED
    """Name of a planner; `fixed` takes `cut` and `codec`."""
    objective: str = "throughput,latency"
    max_drop: float = MAX_DROP
    calibration: Path | None = None
    links: Mapping[tuple[Tier, Tier], str] = field(default_factory=dict)
    """Trace (file, library name or rate) of each link that is shaped."""
    delays: Mapping[tuple[Tier, Tier], float] = field(default_factory=dict)
    """One way, in seconds, of each shaped link."""
    seconds: float | None = None
    """The source is taken to end after so long."""
    tiling: Tiling = field(default_factory=Tiling)
    """Of the fixed planner's plan."""
    keys: str = ""
    """Folder of keys; `new` for throw-away keys; empty for none."""

    def names(self) -> dict[Tier, str]:
        """The node of each tier that takes part."""
        return {tier: f"{tier}-1" for tier in self.tiers}

    def roles(self) -> dict[str, Role]:
        """The role of every node's key."""
        return {name: Role(tier) for tier, name in self.names().items()} | dict.fromkeys(self.workers(), Role.TILE)

    def workers(self) -> list[str]:
        """The tile workers."""
        return [worker_name(number) for number in range(1, self.tiling.count)]


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
        self._keys: Path | None = None

    def run(self) -> Summary:
        """Check, start, watch, stop; returns what the device wrote down."""
        create_run_folder(self.settings.run_dir)
        open_source(self.settings.source, limit=self.settings.frames).close()
        graph_file = self._check_model()
        emulates = bool(self.settings.links) and any(speed < 1.0 for speed in self.settings.speeds.values())
        profiles = self._profiles() if self.settings.policy != FIXED or emulates else {}
        previous = signal.signal(signal.SIGINT, lambda *_: self._interrupted.set())
        terminated = signal.signal(signal.SIGTERM, lambda *_: self._interrupted.set())
        try:
            links = LocalLinks(self.settings.names(), self.settings.links, self.settings.delays)
            with (
                local_keys(self.settings.keys, self.settings.roles()) as self._keys,
                links.running(),
                Family(self.settings.run_dir / "logs") as family,
            ):
                self._start(family, links, graph_file, profiles)
        finally:
            signal.signal(signal.SIGINT, previous)
            signal.signal(signal.SIGTERM, terminated)
        return self._summary()

    def _check_model(self) -> Path:
        """Load the model once here, so that what is wrong with it or the plan is said before anything is started."""
        self.model = load_model(self.settings.model, weights=self.settings.weights)
        graph = self.model.captured.graph
        if len(self.settings.tiers) > 1 and self.settings.policy == FIXED:
            plan = plan_of(graph, "check", self.settings.names(), self.settings.cut, self.settings.codec)
            tiled(plan, graph, self.settings.tiling)
            for stage, link in zip(plan.stages, plan.links, strict=False):
                for name in graph.cut(stage.until).tensors:
                    warm(link.codec, graph.tensors[name])
        path = self.settings.run_dir / "model.json"
        path.write_bytes(msgspec.json.encode(graph))
        return path

    def _profiles(self) -> dict[Tier, Path]:
        """This machine's profile at each node's speed, measured once and kept."""
        found, settings = {}, self.settings
        with self.console.status("compiling codecs for this machine (once)"):
            compile_codecs()
        for tier, name in settings.names().items():
            path = found[tier] = settings.run_dir / f"profile-{name}.json"
            with self.console.status("measuring the model on this machine (once)"):
                speed = settings.speeds.get(tier, 1.0)
                emulated_profile(self.model.captured, name, speed, settings.torch_device).save(path)
        return found

    def _start(self, family: Family, links: LocalLinks, graph_file: Path, profiles: Mapping[Tier, Path]) -> None:
        names = self.settings.names()
        scheduler = family.start("scheduler", self._scheduler_arguments(graph_file, profiles, links))
        family.wait_ready(scheduler, READY_TIMEOUT_S)
        address = f"{scheduler.endpoints['reports']},{scheduler.endpoints['plans']}"
        for tier in (Tier.CLOUD, Tier.EDGE):
            if tier in names:
                family.start(names[tier], [tier, *self._node_arguments(tier, address, links, profiles)])
        for worker in self.settings.workers():
            family.start(worker, ["tile", "--name", worker, *self._machine_arguments(Tier.EDGE, address)])
        arguments = [*self._node_arguments(Tier.DEVICE, address, links, profiles), *self._stream_arguments()]
        device = family.start(names[Tier.DEVICE], ["device", *arguments])
        stop = threading.Event()
        viewing = Keyring.of_role(self._keys, Role.VIEWER) if self._keys is not None else None
        viewer = threading.Thread(
            target=follow, args=(self.watch, scheduler.endpoints["plans"], self.console, stop, viewing), name="view"
        )
        viewer.start()
        try:
            self._watch(family, device, links)
        finally:
            stop.set()
            viewer.join()

    def _watch(self, family: Family, device: Child, links: LocalLinks) -> None:
        """Return when the device is done; raise where it, or a node that it needs to begin, failed."""
        said: set[str] = set()
        begun = False
        while device.is_running:
            if not begun and self._has_results():
                links.begin(self.settings.run_dir, time.monotonic() - self._first_latency_s())
                begun = True
            if self._interrupted.wait(WATCH_S if begun else BEGIN_S):
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
        if child.name not in self.settings.workers() and not self._has_results():
            raise error
        self.console.print(f"warning: {error}", highlight=False)

    @property
    def _results(self) -> Path:
        return self.settings.run_dir / "results.jsonl"

    def _has_results(self) -> bool:
        return self._results.exists() and self._results.stat().st_size > 0

    def _first_latency_s(self) -> float:
        """How long before its result the first frame was admitted; 0 where its line is not whole yet."""
        with self._results.open("rb") as file:
            first = next(whole_results([file.readline()]), None)
        return 0.0 if first is None else first.latency_s

    def _scheduler_arguments(self, graph_file: Path, profiles: Mapping[Tier, Path], links: LocalLinks) -> list[str]:
        settings, names = self.settings, self.settings.names()
        shaped = ["--links", str(links.note(settings.run_dir))] if links.are_shaped else []
        nodes = ",".join(f"{tier}={name}" for tier, name in names.items())
        known = [word for tier, path in profiles.items() for word in ("--profile", f"{names[tier]}={path}")]
        return [
            "scheduler", "--reports", "tcp://127.0.0.1:*", "--plans", "tcp://127.0.0.1:*", "--graph", str(graph_file),
            "--cut", settings.cut, "--codec", settings.codec, "--nodes", nodes,
            "--tiles", str(settings.tiling.count), "--tile-stacks", settings.tiling.stacks,
            "--tile-codec", settings.tiling.codec,
            "--log", str(settings.run_dir / "events.jsonl"), "--planner", settings.policy,
            "--objective", settings.objective, "--max-drop", str(settings.max_drop), *known, *shaped,
            *(["--calibration", str(settings.calibration)] if settings.calibration else []), *self._key_arguments(),
            *(self._model_arguments() if settings.tiling.count else []),
        ]  # fmt: skip

    def _node_arguments(self, tier: Tier, address: str, links: LocalLinks, profiles: Mapping[Tier, Path]) -> list[str]:
        name = self.settings.names()[tier]
        emulates = tier in profiles and self.settings.speeds.get(tier, 1.0) < 1.0
        profile = ["--emulate-profile", str(profiles[tier])] if emulates else []
        return ["--name", name, *self._machine_arguments(tier, address), *profile, *links.arguments(tier)]

    def _machine_arguments(self, tier: Tier, address: str) -> list[str]:
        """What a node is told whatever its name; tile workers are as fast as the edge node."""
        settings = self.settings
        arguments = [
            "--scheduler", address, "--torch-threads", "1", "--torch-device", settings.torch_device,
            "--emulate-speed", str(settings.speeds.get(tier, 1.0)),
        ]  # fmt: skip
        return [*self._model_arguments(), *arguments, *self._key_arguments()]

    def _model_arguments(self) -> list[str]:
        weights = self.settings.weights
        return ["--model", self.settings.model, *(["--weights", str(weights)] if weights is not None else [])]

    def _key_arguments(self) -> list[str]:
        return [] if self._keys is None else ["--keys", str(self._keys)]

    def _stream_arguments(self) -> list[str]:
        settings = self.settings
        arguments = [
            "--source", settings.source, "--admit", settings.admit, "--run-dir", str(settings.run_dir),
            "--first-plan-timeout", str(READY_TIMEOUT_S),
            *(["--needs-plan"] if settings.policy == FIXED else []),
        ]  # fmt: skip
        optional = {
            "--frames": settings.frames,
            "--seconds": settings.seconds,
            "--labels": settings.labels,
            "--annotate": settings.annotate,
        }
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
