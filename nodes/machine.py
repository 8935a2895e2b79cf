"""This machine's own profile of a model: measured the first time that it is needed, then kept in the user's cache."""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import statistics
import time
from pathlib import Path

import msgspec
import torch

from nodes.profiler import ProfilerSettings, profile_node
from nodes.stage import EmulatedSpeed
from pipeline.errors import ConfigError
from pipeline.model.capture import CapturedModel
from pipeline.model.graph import INPUT
from pipeline.plan import device_only
from pipeline.stage import prepare
from scheduler.catalogue import slowed
from scheduler.profile import Profile, load

logger = logging.getLogger(__name__)

BUDGET_S = 10.0
"""Time spent on measuring where nobody asked for a profile; `anabranch profile` takes longer and is more exact."""

RHYTHM_FRAMES = 9
"""Frames by which an emulated node is timed."""


def machine_profile(captured: CapturedModel, torch_device: str = "cpu") -> Profile:
    """The profile, with one torch thread; measured where none is kept for this model, machine and torch."""
    path = cache_folder() / f"{captured.graph.fingerprint}-{_machine(torch_device)}.json"
    try:
        return load(path, captured.graph)
    except ConfigError:
        logger.info("no profile at %s yet: measuring", path)
    threads = torch.get_num_threads()
    settings = ProfilerSettings(budget_s=BUDGET_S, torch_threads=1, torch_device=torch_device)
    try:
        profile = profile_node(captured, "*", settings, lambda share, what: None)
    finally:
        torch.set_num_threads(threads)
    _keep(profile, path)
    return profile


def emulated_profile(captured: CapturedModel, node: str, speed: float, torch_device: str = "cpu") -> Profile:
    """The profile of a node that runs at a share of this machine's speed.

    A slower node sleeps after each frame, and may find colder caches than a measurement that goes from frame to frame;
    what that adds is emulated along. So the whole network is timed in that rhythm, once.

    Args:
        captured: the network.
        node: its name.
        speed: in (0, 1].
        torch_device: `cpu` or `cuda`.
    """
    profile = machine_profile(captured, torch_device)
    if speed >= 1.0:
        return slowed(profile, node, 1.0)
    path = cache_folder() / f"{captured.graph.fingerprint}-{_machine(torch_device)}-at-{speed:g}.json"
    try:
        return msgspec.structs.replace(load(path, captured.graph), node=node)
    except ConfigError:
        logger.info("no profile at %s yet: measuring", path)
    found = slowed(profile, node, speed)
    times = found.bind(captured.graph)
    rhythm = _frame_s(captured, speed, torch_device) / times.segment_s(0, len(captured.graph.cuts) - 1)
    found = slowed(profile, node, speed / float(rhythm))
    _keep(found, path)
    return found


def _frame_s(captured: CapturedModel, speed: float, torch_device: str) -> float:
    """Median seconds of a frame of the whole network at an emulated speed."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        program = prepare(captured, device_only("rhythm", "device", captured.graph), 0, torch_device)
        compute = EmulatedSpeed(speed).around(program.compute)
        inputs = {INPUT: torch.randint(0, 256, captured.example.shape, dtype=torch.uint8)}
        times = []
        for _ in range(RHYTHM_FRAMES):
            begin = time.monotonic()
            compute(inputs)
            times.append(time.monotonic() - begin)
        return statistics.median(times)
    finally:
        torch.set_num_threads(threads)


def _keep(profile: Profile, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        profile.save(path)
    except OSError as error:
        logger.warning("profile not kept: %s", error)


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/anabranch`, or `~/.cache/anabranch`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "anabranch"


def _machine(torch_device: str) -> str:
    words = (platform.node(), platform.machine(), platform.processor(), torch.__version__, torch_device)
    return hashlib.blake2b(repr(words).encode(), digest_size=8).hexdigest()
