"""What psutil tells of this process and its machine."""

from __future__ import annotations

import os
import time

import psutil

from scheduler.reports import Load

LEAST_INTERVAL_S = 0.5
"""A load is taken over this long at least, however often a node reports: the kernel counts in steps of 10 ms."""


class LoadMeter:
    """Samples the load; each new sample covers the time since the one before.

    Args:
        alone: what else runs on this machine is not the node's business: it is emulated, as one with its own machine.
    """

    def __init__(self, alone: bool = False) -> None:
        self._alone = alone
        self._process = psutil.Process(os.getpid())
        self._cores = psutil.cpu_count() or 1
        self._cpu_s = self._own_cpu_s()
        self._at_s = time.monotonic()
        self._latest: Load | None = None
        psutil.cpu_percent()  # the first call only starts psutil's own interval

    def sample(self) -> Load:
        """The load since the last sample; that one once more where it is younger than `LEAST_INTERVAL_S`."""
        now = time.monotonic()
        if self._latest is None or now - self._at_s >= LEAST_INTERVAL_S:
            self._latest = self._sample(now)
        return self._latest

    def _sample(self, now: float) -> Load:
        cpu_s = self._own_cpu_s()
        elapsed = max(now - self._at_s, 1e-3)
        busy = (cpu_s - self._cpu_s) / elapsed
        self._at_s, self._cpu_s = now, cpu_s
        return Load(
            cores=self._cores,
            cpu_node=max(0.0, busy),
            cpu_machine=busy / self._cores if self._alone else psutil.cpu_percent() / 100.0,
            memory_bytes=self._process.memory_info().rss,
            memory_free_bytes=psutil.virtual_memory().available,
            temperature_c=_hottest(),
            battery=_battery(),
        )

    def _own_cpu_s(self) -> float:
        times = self._process.cpu_times()
        return float(times.user + times.system)


def _hottest() -> float | None:
    sensors = getattr(psutil, "sensors_temperatures", None)  # absent on macOS and Windows
    readings = [entry.current for group in sensors().values() for entry in group] if sensors else []
    return max(readings, default=None)


def _battery() -> float | None:
    sensor = getattr(psutil, "sensors_battery", None)
    battery = sensor() if sensor else None
    if battery is None or battery.power_plugged:
        return None
    return float(battery.percent) / 100.0
