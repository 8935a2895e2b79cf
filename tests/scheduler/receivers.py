"""A link under a trace, its receiver, and the scheduler's estimator behind reports: all in simulated time."""

from __future__ import annotations

import random
from dataclasses import dataclass

from scheduler.estimate import LinkEstimator
from scheduler.timing import CrossingLog
from traces.trace import Trace

REPORT_S = 1.0
CHECK_S = 0.05
HOST_NOISE_S = 0.0003
"""Deviation of a receiver's time stamps."""

REPORT_DELAY_S = 0.005


@dataclass(frozen=True)
class Traffic:
    """What crosses: frames of `mean_bytes`, as many a second as `fps`, or back to back where that is 0."""

    mean_bytes: float
    fps: float = 0.0


@dataclass
class Frame:
    """One frame on the link."""

    size: int
    start_s: float
    end_s: float


class Receiver:
    """Runs the traffic over the trace, the receiver's timing behind it, and the scheduler's estimator behind that."""

    def __init__(self, trace: Trace, traffic: Traffic, seed: int = 0) -> None:
        self.trace, self.traffic = trace, traffic
        self.rng = random.Random(seed)
        self.log = CrossingLog("sender")
        self.estimator = LinkEstimator()
        self.now = 0.0
        self.frames = 0
        self._frame = self._next(0.0, 0.0)
        self._started = False
        self._reported_s = 0.0

    def run(self, until_s: float) -> None:
        """Go on until a time."""
        while self.now < until_s:
            self.now += CHECK_S
            while self._moved():
                pass
            if self.now - self._reported_s >= REPORT_S - 1e-9 or self.log.jumped(self.now):
                self._reported_s = self.now
                self.estimator.add(self.log.take(self.now), self.now + REPORT_DELAY_S)

    def truth_bps(self, window_s: float = 1.0) -> float:
        """Mean capacity of the time just gone."""
        return self.trace.bits_between(self.now - window_s, self.now) / window_s

    def estimate_bps(self) -> float:
        """What the scheduler believes."""
        found = self.estimator.goodput(self.now)
        return 0.0 if found is None else found.value

    def _moved(self) -> bool:
        frame = self._frame
        if not self._started and frame.start_s <= self.now:
            self.log.started(frame.size, frame.start_s + abs(self.rng.gauss(0.0, HOST_NOISE_S)))
            self._started = True
            return True
        if self._started and frame.end_s <= self.now:
            self.log.finished(frame.size, frame.end_s + abs(self.rng.gauss(0.0, HOST_NOISE_S)))
            self.frames += 1
            due_s = frame.end_s if self.traffic.fps == 0.0 else self.frames / self.traffic.fps
            self._frame, self._started = self._next(due_s, frame.end_s), False
            return True
        return False

    def _next(self, due_s: float, free_s: float) -> Frame:
        size = max(3000, int(self.traffic.mean_bytes * self.rng.uniform(0.8, 1.2)))
        start_s = max(due_s, free_s)
        return Frame(size, start_s, start_s + self.trace.time_to_send(size * 8.0, start_s))
