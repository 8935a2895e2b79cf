"""Live replays and simulations of the same command, on this machine at emulated speeds."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from nodes.bench.report import tell
from nodes.local.run import LocalRun, RunSettings
from nodes.parsing import parse_links, parse_speeds
from nodes.report.record import load_run
from nodes.simulation import SimulationOptions, build_scenario
from scheduler.simulate import simulate
from scheduler.simulate.record import RunRecord
from scheduler.simulate.scenario import DELAYS_S

MODEL = "builtin"
SPEEDS = "device=0.05,edge=0.05,cloud=0.08"
"""Slow enough that two cores hold all nodes, the scheduler and the shapers with room to spare."""

SECONDS = 25.0
BACKBONE = "edge-cloud=50Mbit"


@dataclass(frozen=True)
class Replay:
    """One command."""

    trace: str
    """Of the link from the device to the edge."""
    policy: str = "joint"
    seconds: float = SECONDS

    @property
    def traces(self) -> tuple[str, ...]:
        """As `--trace` takes them."""
        return (f"device-edge={self.trace}", BACKBONE)

    def live(self) -> RunRecord:
        """Run the real processes behind shapers."""
        tell(f"live: {self.policy} on {self.trace}, {self.seconds:g} s")
        with tempfile.TemporaryDirectory() as folder:
            return self.live_in(Path(folder) / "run")

    def live_in(self, folder: Path) -> RunRecord:
        """The same, and keep the run's folder."""
        settings = RunSettings(
            "scene:", folder, MODEL, speeds=parse_speeds(SPEEDS), policy=self.policy,
            links=parse_links(self.traces), delays=DELAYS_S, seconds=self.seconds,
        )  # fmt: skip
        LocalRun(settings, Console(quiet=True)).run()
        return load_run(folder)

    def simulated(self, seed: int = 0) -> RunRecord:
        """Simulate them."""
        options = SimulationOptions(
            MODEL, self.policy, traces=self.traces, emulated=parse_speeds(SPEEDS), seconds=self.seconds, seed=seed
        )
        return simulate(build_scenario(options))


def median_s(record: RunRecord) -> float:
    """Median latency; infinite where nothing came."""
    return float("inf") if record.totals.latency_s is None else record.totals.latency_s.p50


def off(simulated: float, live: float) -> float:
    """|simulated - live| / live."""
    return abs(simulated - live) / live if live else float("inf")
