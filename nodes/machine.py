"""This machine's own profile of a model: measured the first time that it is needed, then kept in the user's cache."""

from __future__ import annotations

import hashlib
import logging
import os
import platform
from pathlib import Path

import torch

from nodes.profiler import ProfilerSettings, profile_node
from pipeline.errors import ConfigError
from pipeline.model.capture import CapturedModel
from pipeline.model.graph import TensorSpec
from pipeline.packing.catalogue import offered
from pipeline.packing.sessions import open_decoder, open_encoder
from scheduler.catalogue import slowed
from scheduler.profile import Profile, load

logger = logging.getLogger(__name__)

BUDGET_S = 10.0
"""Time spent on measuring where nobody asked for a profile; `anabranch profile` takes longer and is more exact."""


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
    """The profile of a machine at a share of this one's speed, as nodes emulate it (`--emulate-profile`).

    Args:
        captured: the network.
        node: its name.
        speed: in (0, 1].
        torch_device: `cpu` or `cuda`.
    """
    return slowed(machine_profile(captured, torch_device), node, speed)


def _keep(profile: Profile, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        profile.save(path)
    except OSError as error:
        logger.warning("profile not kept: %s", error)


def compile_codecs() -> None:
    """Compile what codecs run, where no process of this machine has: it takes a node seconds, beside its frames."""
    spec = TensorSpec("example", (1, 4, 4, 4), "float32", unsigned=True)
    for codec in offered(spec):
        packed = open_encoder(codec).encode(torch.zeros(spec.shape), spec, 0, True)
        open_decoder(codec).decode(bytearray(packed), spec, 0)


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/anabranch`, or `~/.cache/anabranch`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "anabranch"


def _machine(torch_device: str) -> str:
    words = (platform.node(), platform.machine(), platform.processor(), torch.__version__, torch_device)
    return hashlib.blake2b(repr(words).encode(), digest_size=8).hexdigest()
