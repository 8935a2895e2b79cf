"""Policies ranked live and in simulation, on the same traces: do both say the same of who is better?

Each is run several times, live and with other seeds, and its median counts: in an outage a plan is left a second sooner
or later by chance, which is 3 % of a run of 25 s.
Two policies whose frames/s live are within `NEAR` of each other are a tie, and either order agrees with it: a second
live run of one command may have them the other way round. Nothing else is a tie, how close they may be in simulation.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping, Sequence

from nodes.bench._replays import SECONDS, Replay, median_s
from nodes.bench.report import Bar, BenchReport, Cell, tell
from scheduler.simulate.record import RunRecord

TRACES = ("3g-12.up", "lte-driving.up", "wifi.up", "1Mbit")
POLICIES = ("joint", "cloud-only", "dyno", "device-only")
RUNS = 3
NEAR = 0.05
"""Frames/s of live runs of the same command differ by 1 to 3 % as a rule; on WiFi once by 9 %."""


def run(
    traces: str = ",".join(TRACES), policies: str = ",".join(POLICIES), seconds: float = SECONDS, runs: int = RUNS
) -> BenchReport:
    """Replay and simulate every policy on every trace, 25 s each unless told otherwise.

    Args:
        traces: of the link between device and edge, by comma.
        policies: to be ranked, by comma.
        seconds: of each run.
        runs: of each policy, live and simulated.
    """
    rows: list[dict[str, Cell]] = []
    bars = []
    for trace in traces.split(","):
        live, simulated = {}, {}
        for policy in policies.split(","):
            replay = Replay(trace, policy, seconds)
            row: dict[str, Cell] = {"trace": trace, "policy": policy}
            live[policy] = _median_fps(row, "live", [replay.live() for _ in range(runs)])
            simulated[policy] = _median_fps(row, "simulated", [replay.simulated(seed) for seed in range(runs)])
            rows.append(row)
            tell(", ".join(f"{name} {value}" for name, value in row.items()))
        bars.append(Bar(f"{trace}: pairs in another order", float(_swapped(live, simulated)), 0.0, "max"))
    return BenchReport("ranking", rows, bars, [f"medians of {runs} runs"])


def _median_fps(row: dict[str, Cell], kind: str, records: Sequence[RunRecord]) -> float:
    """Enter the runs of one policy in its row."""
    fps = [record.totals.fps for record in records]
    row[f"{kind} fps"] = round(statistics.median(fps), 2)
    row[f"{kind} least to most"] = f"{min(fps):.1f} to {max(fps):.1f}"
    row[f"{kind} p50 ms"] = round(1e3 * statistics.median(median_s(record) for record in records), 1)
    return statistics.median(fps)


def _swapped(live: Mapping[str, float], simulated: Mapping[str, float]) -> int:
    """Pairs of policies that are no tie live, and not in that order in simulation."""
    pairs = itertools.permutations(live, 2)
    return sum(live[a] > live[b] * (1.0 + NEAR) and simulated[a] <= simulated[b] for a, b in pairs)
