"""What a node, live or simulated, measures of its own work, told apart by instant, window and whole run."""

from __future__ import annotations

import statistics
import threading
from collections import OrderedDict, deque

from pipeline.frames.wire import Hop
from scheduler.reports import Figure, StageReport

WINDOW_FRAMES = 64
"""Frames over which a window figure looks back."""

MAX_STAGES = 64
"""(stream, epoch) pairs that a node keeps figures of; the oldest leave first."""


class Series:
    """One quantity over time."""

    def __init__(self) -> None:
        self._window: deque[float] = deque(maxlen=WINDOW_FRAMES)
        self._sum = 0.0
        self._figure = Figure()
        self._figured = 0
        self.count = 0

    def add(self, value: float) -> None:
        """Take one more value."""
        self._window.append(value)
        self._sum += value
        self.count += 1

    def figure(self) -> Figure:
        """Latest value, median of the window, mean of the run; worked out only where it has changed."""
        if self._figured != self.count:
            self._figure = Figure(self._window[-1], statistics.median(self._window), self._sum / self.count)
            self._figured = self.count
        return self._figure


class Rate:
    """Events per second."""

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=WINDOW_FRAMES + 1)
        self._first_s: float | None = None
        self.count = 0

    def tick(self, now: float) -> None:
        """One event, at monotonic time `now`."""
        self._first_s = now if self._first_s is None else self._first_s
        self._times.append(now)
        self.count += 1

    def figure(self) -> Figure:
        """Events per second between the last two, over the window, and over the run."""
        times = list(self._times)
        if self._first_s is None or len(times) < 2:
            return Figure()
        return Figure(
            _per_second(1, times[-1] - times[-2]),
            _per_second(len(times) - 1, times[-1] - times[0]),
            _per_second(self.count - 1, times[-1] - self._first_s),
        )


def _per_second(count: int, seconds: float) -> float:
    return count / seconds if seconds > 0 else 0.0


class _StageSeries:
    def __init__(self) -> None:
        self.frames = Rate()
        self.parts = {name: Series() for name in ("compute_s", "queue_s", "unpack_s", "pack_s", "packed_bytes")}


class StageMeter:
    """Figures of every (stream, epoch) that this node computes; written by one thread, read by another."""

    def __init__(self) -> None:
        self._stages: OrderedDict[tuple[str, int], _StageSeries] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, stream: str, epoch: int, hop: Hop, now: float) -> None:
        """Take what one frame spent here."""
        with self._lock:
            series = self._stages.get((stream, epoch))
            if series is None:
                series = self._stages[stream, epoch] = _StageSeries()
            series.frames.tick(now)
            for name, part in series.parts.items():
                part.add(getattr(hop, name))
            while len(self._stages) > MAX_STAGES:
                self._stages.popitem(last=False)

    def reports(self) -> tuple[StageReport, ...]:
        """One report per (stream, epoch)."""
        with self._lock:
            return tuple(
                StageReport(
                    stream,
                    epoch,
                    series.frames.count,
                    fps=series.frames.figure(),
                    **{name: part.figure() for name, part in series.parts.items()},
                )
                for (stream, epoch), series in self._stages.items()
            )
