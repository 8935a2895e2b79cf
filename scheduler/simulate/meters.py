"""What a simulated node measures of its own work, as the live nodes do (`nodes.meter`), in the reports' terms."""

from __future__ import annotations

import statistics
from collections import OrderedDict, deque
from dataclasses import dataclass

from scheduler.reports import Figure, StageReport

WINDOW_FRAMES = 64
"""As in the live nodes."""

MAX_STAGES = 64


class Series:
    """One quantity over time."""

    def __init__(self) -> None:
        self._window: deque[float] = deque(maxlen=WINDOW_FRAMES)
        self._sum = 0.0
        self._count = 0
        self._figure = Figure()
        self._figured = 0

    def add(self, value: float) -> None:
        """Take one more value."""
        self._window.append(value)
        self._sum += value
        self._count += 1

    def figure(self) -> Figure:
        """Latest value, median of the window, mean of the run; worked out only where it has changed."""
        if self._figured != self._count:
            mean = self._sum / self._count
            self._figure = Figure(self._window[-1], statistics.median(self._window), mean)
            self._figured = self._count
        return self._figure


class Rate:
    """Events per second."""

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=WINDOW_FRAMES + 1)
        self._first_s = 0.0
        self.count = 0

    def tick(self, now: float) -> None:
        """One event."""
        self._first_s = self._first_s if self.count else now
        self._times.append(now)
        self.count += 1

    def figure(self) -> Figure:
        """Events per second between the last two, over the window, and over the run."""
        times = self._times
        if len(times) < 2:
            return Figure()
        spans = (1, times[-1] - times[-2]), (len(times) - 1, times[-1] - times[0]), (self.count - 1, self._run_s())
        return Figure(*(count / seconds if seconds > 0 else 0.0 for count, seconds in spans))

    def _run_s(self) -> float:
        return self._times[-1] - self._first_s


@dataclass(frozen=True)
class Spent:
    """What one frame took on one node."""

    queue_s: float
    unpack_s: float
    compute_s: float
    pack_s: float
    sent_bytes: float


class _Stage:
    def __init__(self) -> None:
        self.frames = Rate()
        self.queue_s, self.unpack_s, self.compute_s, self.pack_s, self.sent_bytes = (Series() for _ in range(5))

    def add(self, spent: Spent, now: float) -> None:
        self.frames.tick(now)
        self.queue_s.add(spent.queue_s)
        self.unpack_s.add(spent.unpack_s)
        self.compute_s.add(spent.compute_s)
        self.pack_s.add(spent.pack_s)
        self.sent_bytes.add(spent.sent_bytes)

    def report(self, stream: str, epoch: int) -> StageReport:
        return StageReport(
            stream,
            epoch,
            self.frames.count,
            fps=self.frames.figure(),
            compute_s=self.compute_s.figure(),
            queue_s=self.queue_s.figure(),
            unpack_s=self.unpack_s.figure(),
            pack_s=self.pack_s.figure(),
            packed_bytes=self.sent_bytes.figure(),
        )


class StageMeter:
    """Figures of every (stream, epoch) that a node computes."""

    def __init__(self) -> None:
        self._stages: OrderedDict[tuple[str, int], _Stage] = OrderedDict()

    def add(self, stream: str, epoch: int, spent: Spent, now: float) -> None:
        """Take what one frame spent here."""
        stage = self._stages.get((stream, epoch))
        if stage is None:
            stage = self._stages[stream, epoch] = _Stage()
            if len(self._stages) > MAX_STAGES:
                self._stages.popitem(last=False)
        stage.add(spent, now)

    def reports(self) -> tuple[StageReport, ...]:
        """One report per (stream, epoch)."""
        return tuple(stage.report(*key) for key, stage in self._stages.items())
