"""The deployment file: every node of a deployment, in one TOML that all of them are started with.

model = "builtin"

[scheduler]
reports = "tcp://10.0.0.1:5700"
plans = "tcp://10.0.0.1:5701"

[[node]]
name = "camera"
tier = "device"
source = "camera:0"

[[node]]
name = "edge-1"
tier = "edge"
listen = "tcp://10.0.0.2:5710"
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from nodes.agent import SchedulerAddress
from pipeline import tablefile
from pipeline.errors import ConfigError


class SchedulerConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The scheduler, and what is wanted of the streams."""

    reports: str
    """Address at which it takes reports."""
    plans: str
    """Address at which it publishes plans."""
    planner: str = "fixed"
    cut: str = ""
    """For the fixed planner: where the device's and the edge's part end, as `--cut` takes it."""
    codec: str = "fp32"
    """For the fixed planner: codec of every link, or one per link, comma-separated."""
    objective: str = "throughput,latency"
    """What plans shall be good at, in order of priority."""
    max_drop: float | None = 0.01
    """Accuracy that a plan may cost, as a share."""
    profiles: tuple[str, ...] = ()
    """NODE=FILE for each node that was profiled; `*=FILE` for the others."""
    calibration: Path | None = None
    """What packing costs, from `anabranch calibrate`; without it, activations travel exactly."""

    @property
    def address(self) -> SchedulerAddress:
        """Where nodes reach it."""
        return SchedulerAddress(self.reports, self.plans)


class NodeConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One node."""

    name: str
    tier: Literal["device", "edge", "cloud", "tile"]
    listen: str = "tcp://127.0.0.1:*"
    advertise: str = ""
    torch_device: str = "cpu"
    torch_threads: int = 0
    """0: as many as torch thinks best."""
    emulate_speed: float = 1.0
    source: str = ""
    """Of a device."""
    stream: str = ""
    """Of a device; its name where empty."""
    admit: Literal["every", "latest"] = "latest"


class Deployment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All of it."""

    scheduler: SchedulerConfig
    node: tuple[NodeConfig, ...]
    model: str = "builtin"
    weights: Path | None = None
    labels: Path | None = None
    insecure: bool = False
    """Bind beyond loopback although there are no keys."""
    keys: Path | None = None
    """Folder of keys, on each node's own machine: see `anabranch keys`."""

    def named(self, name: str) -> NodeConfig:
        """The node of that name.

        Raises:
            ConfigError: there is none.
        """
        for node in self.node:
            if node.name == name:
                return node
        raise ConfigError(f"node {name!r}", "not in the deployment file", f"it has {[node.name for node in self.node]}")


def read_deployment(path: Path) -> Deployment:
    """Read a deployment file.

    Raises:
        ConfigError: it is missing, is not TOML, or holds something else than it should.
    """
    try:
        deployment = msgspec.toml.decode(path.read_bytes(), type=Deployment, dec_hook=_path)
    except OSError as error:
        raise ConfigError(f"deployment file {path}", error.strerror or "cannot be read") from error
    except tablefile.MALFORMED as error:
        raise ConfigError(f"deployment file {path}", str(error), "see docs/deployment.md") from error
    names = [node.name for node in deployment.node]
    if len(set(names)) != len(names):
        raise ConfigError(f"deployment file {path}", "two nodes share a name", "give every node a name of its own")
    return deployment


def _path(kind: type, value: object) -> Path:
    """What TOML has no type of its own for; `Path` is the only such type here."""
    if not isinstance(value, str):
        raise TypeError(f"expected a {kind.__name__.lower()} in quotes, got {value!r}")
    return Path(value)
