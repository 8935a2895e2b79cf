"""The simulator beside the live system: the same command, replayed with real processes and simulated.

The built-in network with its calibration, behind one traced link of every kind in the library, with the adaptive
policy: what is compared holds the estimators, the planner's decisions, the switches and the queues together.
"""

from __future__ import annotations

from nodes.bench._replays import SECONDS, Replay, median_s, off
from nodes.bench.report import Bar, BenchReport, Cell, tell

TRACES = (
    "3g.up", "3g-12.up", "lte-driving.up", "lte-walking.up", "wifi.up", "starlink.up", "broadband.up", "5g-driving.up",
    "1Mbit",
)  # fmt: skip
MAX_FPS_ERROR = 0.10
MAX_LATENCY_ERROR = 0.15


def run(traces: str = ",".join(TRACES), seconds: float = SECONDS) -> BenchReport:
    """Replay and simulate every trace, 25 s each unless told otherwise.

    Args:
        traces: of the link between device and edge, by comma.
        seconds: of each run.
    """
    rows = [_row(Replay(trace, seconds=seconds)) for trace in traces.split(",")]
    bars = []
    for row in rows:
        bars.append(Bar(f"{row['trace']}: frames/s off", float(row["fps off"] or 0.0), MAX_FPS_ERROR, "max"))
        bars.append(Bar(f"{row['trace']}: latency off", float(row["p50 off"] or 0.0), MAX_LATENCY_ERROR, "max"))
    return BenchReport("truth", rows, bars)


def _row(replay: Replay) -> dict[str, Cell]:
    live, simulated = replay.live(), replay.simulated()
    row: dict[str, Cell] = {
        "trace": replay.trace,
        "live fps": round(live.totals.fps, 2),
        "simulated fps": round(simulated.totals.fps, 2),
        "fps off": round(off(simulated.totals.fps, live.totals.fps), 3),
        "live p50 ms": round(1e3 * median_s(live), 1),
        "simulated p50 ms": round(1e3 * median_s(simulated), 1),
        "p50 off": round(off(median_s(simulated), median_s(live)), 3),
        "live switches": live.totals.switches,
        "simulated switches": simulated.totals.switches,
    }
    tell(", ".join(f"{name} {value}" for name, value in row.items()))
    return row
