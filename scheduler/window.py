"""How many frames of a stream may be in flight. Pure, and the same for a live and a simulated device."""

from __future__ import annotations

import math
from collections import deque

from pipeline.plan import Plan

MAX_WINDOW = 32
"""Frames of a plan in flight, whatever its rate and latency."""

RATE_FRAMES = 2 * MAX_WINDOW
"""Results over which a window looks back for their rate."""

MARGIN = 1.1
"""More than Little's law asks for, since results come in bursts."""


def least_window(plan: Plan) -> int:
    """Frames in flight that keep the slowest stage of `plan` busy where nothing takes time but its stages and links.

    Compute of each stage and each link between them hold one frame each; one more covers the way home, and one
    covers jitter. More would only queue: latency is the window times the period of the slowest stage. On the device
    alone there is no way home: one frame is computed, and the next is at hand.
    """
    return 2 if plan.is_device_only else 2 * len(plan.stages) + 1


class CreditWindow:
    """The window of the running plan; it grows where frames are under way for longer than stages and links take.

    Little's law (Operations Research 9, 1961): as many frames are in flight as results come per second, times the
    latency. The least latency under this plan is that of a frame that met no queue, so their product is what keeps the
    pipeline full without a queue, propagation and all, as BBR has it for packets (ACM Queue 14, 2016). Since the least
    never grows while the plan runs, a queue cannot feed itself. What a frame waited in nodes is told by them and left
    out, or a slow first frame, behind which a queue stays for ever, would have the window too large for ever.

    A window that is too small hides the rate: results then come as often as it lets frames in. But those of one round,
    as many as the window holds, come home as far apart as the slowest stage or link spaces them (as with packet pairs:
    Keshav, SIGCOMM '91). So a new plan's window follows their rate, at most twice as large with each round, until a
    round asks for no more. By the mean over `RATE_FRAMES` alone, it took a second where a frame takes 40 ms.
    """

    def __init__(self, plan: Plan) -> None:
        self._stages = len(plan.stages)
        self._least_s = math.inf
        """Of a frame that met no queue."""
        self._results_s: deque[float] = deque(maxlen=RATE_FRAMES + 1)
        """Of this round, and then of those behind it."""
        self._grows = self._stages > 1
        self.rate = 0.0
        """Results per second lately; 0 before there were some."""
        self.size = self._least = least_window(plan)
        """Frames that may be in flight."""

    @property
    def is_settled(self) -> bool:
        """Whether it has found how many frames the plan takes."""
        return not self._grows

    @property
    def least_s(self) -> float:
        """What a frame takes that meets no queue; 0 before the first result."""
        return self._least_s if math.isfinite(self._least_s) else 0.0

    def result(self, latency_s: float, now: float, queued_s: float = 0.0) -> None:
        """Take a result, `latency_s` after its frame was admitted; for `queued_s` of that it waited in nodes."""
        results = self._results_s
        results.append(now)
        least_s = latency_s - queued_s
        if least_s < self._least_s:
            self._least_s = max(0.0, least_s)
        if now > results[0] and (len(results) >= self._least or not self.rate):
            self.rate = (len(results) - 1) / (now - results[0])
        if self._grows and len(results) >= self.size:
            self._end_round()
        elif self._stages > 1 and len(results) > RATE_FRAMES:
            self.size = self._needed()

    def _end_round(self) -> None:
        needed = self._needed()
        self._grows = needed > self.size
        self.size = min(needed, 2 * self.size)
        self._results_s.clear()

    def _needed(self) -> int:
        return min(MAX_WINDOW, max(self._least, math.ceil(MARGIN * self.rate * self._least_s) + self._stages))
