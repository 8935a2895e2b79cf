"""How exactly the link shaper obeys a trace, and at what cost, beside a relay that shapes nothing.

A sender that always has something to send, the shaper in its own process, and a receiver that counts the bytes of
each second, all on this machine. Constant rates from 1 Mbit/s to 1 Gbit/s, traces of the library, and real traces
where their folder is beside the project.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import psutil

from nodes.bench._data import DATA
from nodes.bench._relay import Receiver, sender
from nodes.bench.report import Bar, BenchReport, Cell
from traces.errors import TraceError
from traces.formats import read_trace
from traces.library import library_trace
from traces.link import Address, ShaperConfig, ShaperProcess
from traces.trace import Trace
from traces.units import format_rate

RATES_BPS = (1e6, 10e6, 100e6, 1000e6)
LIBRARY = ("3g.down", "lte-driving.down", "5g-walking.down", "starlink.down")
REAL = (
    "mahimahi/Verizon-LTE-short.down",
    "norway_hsdpa/bus.ljansbakken-oslo-report.2010-09-29_1823CEST.txt",
    "lumos5g/5g_trace_41_walking.txt",
)
SECONDS = 10
LEAD_S = 1
"""Seconds before counting starts: processes start, windows open, the queue fills."""
MAX_MEDIAN_ERROR = 0.03
MAX_WORST_ERROR = 0.10
MAX_CORES = 0.5
_QUIET_SHARE = 0.1
"""Seconds with less than this share of the mean rate are left out of the errors: one packet is most of them."""


@dataclass(frozen=True)
class Measured:
    """One trace through the shaper."""

    name: str
    errors: list[float]
    """Relative error of the bytes delivered, second by second."""
    rate_bps: float
    cores: float
    """Processor time of the shaper's process over wall time."""

    def row(self) -> dict[str, Cell]:
        """For the table."""
        return {
            "link": self.name,
            "delivered": format_rate(self.rate_bps),
            "median error": round(statistics.median(self.errors), 4),
            "worst error": round(max(self.errors), 4),
            "cores": round(self.cores, 3),
            "cpu s/GB": round(self.cores / max(self.rate_bps / 8e9, 1e-9), 2),
        }


def run(
    seconds: int = SECONDS,
    rates_bps: Sequence[float] = RATES_BPS,
    library: Sequence[str] = LIBRARY,
    real: Sequence[str] = REAL,
) -> BenchReport:
    """Measures all rates and traces. The bars are the figures that the project set itself."""
    links = [Trace.constant(rate, name=format_rate(rate)) for rate in rates_bps]
    traces = [library_trace(name) for name in library] + _real_traces(real)
    measured = [measure(trace, seconds) for trace in links]
    plain = _measure_plain(min(seconds, 5))
    measured += [measure(_within_scope(trace), seconds) for trace in traces]
    bars = [
        Bar(
            "median error, worst link", max(statistics.median(one.errors) for one in measured), MAX_MEDIAN_ERROR, "max"
        ),
        Bar("worst second, any link", max(max(one.errors) for one in measured), MAX_WORST_ERROR, "max"),
        Bar("cores, any link", max(one.cores for one in measured), MAX_CORES, "max"),
    ]
    notes = [f"errors of {seconds} s each, after {LEAD_S} s; seconds below {_QUIET_SHARE:.0%} of the mean left out"]
    return BenchReport("shaper", [*(one.row() for one in measured), plain], bars, notes)


def measure(trace: Trace, seconds: int) -> Measured:
    """One trace, from its beginning, for some seconds."""
    receiver = Receiver()
    try:
        config = ShaperConfig(trace, trace, Address("127.0.0.1", receiver.port))
        with ShaperProcess(config) as shaper, sender(shaper.address.port):
            process = psutil.Process(shaper.pid)
            epoch_s = time.monotonic() + 0.1
            shaper.set_epoch(epoch_s)
            time.sleep(max(0.0, epoch_s + LEAD_S - time.monotonic()))
            began_s, before = time.monotonic(), sum(process.cpu_times()[:2])
            time.sleep(max(0.0, epoch_s + LEAD_S + seconds - time.monotonic()))
            cores = (sum(process.cpu_times()[:2]) - before) / (time.monotonic() - began_s)
        got = receiver.per_second(epoch_s, LEAD_S + seconds)[LEAD_S:]
    finally:
        receiver.close()
    expected = [trace.bits_between(float(s), s + 1.0) / 8 for s in range(LEAD_S, LEAD_S + seconds)]
    pairs = [(a, b) for a, b in zip(got, expected, strict=True) if b * 8 > _QUIET_SHARE * trace.mean_bps]
    return Measured(trace.name[:40], [abs(a - b) / b for a, b in pairs], sum(got) * 8 / seconds, cores)


def _within_scope(trace: Trace) -> Trace:
    """The trace, slowed where it goes beyond the rates that the shaper is made for."""
    factor = RATES_BPS[-1] / float(trace.resample(0.1).rates_bps.max())
    return trace if factor >= 1 else trace.scale(factor).named(f"{trace.name} x {factor:.2f}")


def _measure_plain(seconds: int) -> dict[str, Cell]:
    """The relay without a shaper, as fast as it goes: what this machine could carry at this time."""
    receiver = Receiver()
    command = [sys.executable, "-m", "nodes.bench._relay", str(receiver.port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        process = psutil.Process(child.pid)
        with sender(int(child.stdout.readline())):
            time.sleep(0.5)
            began_s, before = time.monotonic(), sum(process.cpu_times()[:2])
            time.sleep(seconds)
            wall_s = time.monotonic() - began_s
            cores = (sum(process.cpu_times()[:2]) - before) / wall_s
        child.terminate()
    receiver.close()
    rate_bps = sum(n for at_s, n in receiver.counts if began_s <= at_s < began_s + wall_s) * 8 / wall_s
    return {
        "link": "no shaper",
        "delivered": format_rate(rate_bps),
        "cores": round(cores, 3),
        "cpu s/GB": round(cores / (rate_bps / 8e9), 2),
    }


def _real_traces(names: Sequence[str]) -> list[Trace]:
    """The real traces, where their folder is beside the project."""
    folder = DATA / "traces"
    found = []
    for name in names:
        try:
            found.append(read_trace(folder / name))
        except TraceError:
            continue
    return found
