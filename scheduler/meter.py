"""What a node, live or simulated, measures of its own work, told apart by instant, window and whole run."""

from __future__ import annotations

import statistics
import threading
from collections import OrderedDict, deque

from pipeline.frames.wire import Hop
from scheduler.reports import MAX_STAGES, Figure, StageReport

WINDOW_FRAMES = 64
"""Frames over which a window figure looks back."""

EPOCHS_KEPT = 4
"""Plans of one stream that figures are kept of: the running one, the next, and those that drain. A stream that is
planned again every minute would else have a day's plans in each report."""


class Series:
    """One quantity over time."""

    __slots__ = ("_figure", "_figured", "_sum", "_window", "count")

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

    __slots__ = ("_first_s", "_times", "count")

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=WINDOW_FRAMES + 1)
        self._first_s: float | None = None
        self.count = 0

    def tick(self, now: float) -> None:
        """One event, at monotonic time `now`."""
        if self._first_s is None:
            self._first_s = now
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


PARTS = ("compute_s", "queue_s", "unpack_s", "pack_s", "packed_bytes")
"""What is told of a hop."""


class _StageSeries:
    """The hops of one (stream, epoch): added in a moment for every frame, worked out only for a report."""

    def __init__(self) -> None:
        self.frames = Rate()
        self._window: deque[Hop] = deque(maxlen=WINDOW_FRAMES)
        self._compute_s = self._queue_s = self._unpack_s = self._pack_s = self._packed_bytes = 0.0
        self._figures: dict[str, Figure] = {}
        self._figured = 0

    def add(self, hop: Hop, now: float) -> None:
        self.frames.tick(now)
        self._window.append(hop)
        self._compute_s += hop.compute_s
        self._queue_s += hop.queue_s
        self._unpack_s += hop.unpack_s
        self._pack_s += hop.pack_s
        self._packed_bytes += hop.packed_bytes

    def figures(self) -> dict[str, Figure]:
        count = self.frames.count
        if self._figured != count:
            sums = (self._compute_s, self._queue_s, self._unpack_s, self._pack_s, self._packed_bytes)
            for name, total in zip(PARTS, sums, strict=True):
                values = [getattr(hop, name) for hop in self._window]
                self._figures[name] = Figure(values[-1], statistics.median(values), total / count)
            self._figured = count
        return self._figures


class StageMeter:
    """Figures of the plans that this node computes: of each stream the last `EPOCHS_KEPT`, and `MAX_STAGES` in all; the
    one that was computed longest ago is forgotten first. Written by one thread, read by another."""

    def __init__(self) -> None:
        self._stages: OrderedDict[tuple[str, int], _StageSeries] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, stream: str, epoch: int, hop: Hop, now: float) -> None:
        """Take what one frame spent here."""
        with self._lock:
            key = stream, epoch
            series = self._stages.get(key)
            if series is None:
                series = self._begun(stream, epoch)
            self._stages.move_to_end(key)
            series.add(hop, now)

    def _begun(self, stream: str, epoch: int) -> _StageSeries:
        begun = self._stages[stream, epoch] = _StageSeries()
        same = [key for key in self._stages if key[0] == stream]
        for key in same[:-EPOCHS_KEPT]:
            del self._stages[key]
        while len(self._stages) > MAX_STAGES:
            self._stages.popitem(last=False)
        return begun

    def reports(self) -> tuple[StageReport, ...]:
        """One report per (stream, epoch)."""
        with self._lock:
            return tuple(
                StageReport(
                    stream,
                    epoch,
                    series.frames.count,
                    fps=series.frames.figure(),
                    **series.figures(),
                )
                for (stream, epoch), series in self._stages.items()
            )
