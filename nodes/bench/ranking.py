"""Policies ranked live and in simulation, on the same traces: do both say the same of who is better?

Two policies whose frames/s live are within `NEAR` of each other are a tie, and either order agrees with it: a second
live run of one command may have them the other way round. Nothing else is a tie, how close they may be in simulation.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

from nodes.bench._replays import SECONDS, Replay, median_s
from nodes.bench.report import Bar, BenchReport, Cell, tell

TRACES = ("3g-12.up", "lte-driving.up", "wifi.up", "1Mbit")
POLICIES = ("joint", "cloud-only", "dyno", "device-only")
NEAR = 0.05
"""Frames/s of live runs of the same command differ by 1 to 3 % as a rule; on WiFi once by 9 %."""


def run(traces: str = ",".join(TRACES), policies: str = ",".join(POLICIES), seconds: float = SECONDS) -> BenchReport:
    """Replay and simulate every policy on every trace, 25 s each unless told otherwise.

    Args:
        traces: of the link between device and edge, by comma.
        policies: to be ranked, by comma.
        seconds: of each run.
    """
    rows: list[dict[str, Cell]] = []
    bars = []
    for trace in traces.split(","):
        live, simulated = {}, {}
        for policy in policies.split(","):
            replay = Replay(trace, policy, seconds)
            records = replay.live(), replay.simulated()
            live[policy], simulated[policy] = (record.totals.fps for record in records)
            row: dict[str, Cell] = {"trace": trace, "policy": policy}
            for name, record in zip(("live", "simulated"), records, strict=True):
                row[f"{name} fps"] = round(record.totals.fps, 2)
                row[f"{name} p50 ms"] = round(1e3 * median_s(record), 1)
            rows.append(row)
            tell(", ".join(f"{name} {value}" for name, value in row.items()))
        bars.append(Bar(f"{trace}: pairs in another order", float(_swapped(live, simulated)), 0.0, "max"))
    return BenchReport("ranking", rows, bars)


def _swapped(live: Mapping[str, float], simulated: Mapping[str, float]) -> int:
    """Pairs of policies that are no tie live, and not in that order in simulation."""
    pairs = itertools.permutations(live, 2)
    return sum(live[a] > live[b] * (1.0 + NEAR) and simulated[a] <= simulated[b] for a, b in pairs)
