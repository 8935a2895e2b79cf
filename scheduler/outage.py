"""When a frame is late, and when a silence is an outage. Pure: time is an argument."""

from __future__ import annotations

import math
from collections import OrderedDict

from scheduler.meter import Series

RESULT_TIMEOUT_S = 5.0
"""A frame without a result for this long, and for `LATE_FACTOR` typical latencies, is taken for lost."""

LATE_FACTOR = 8.0

MAX_TIMEOUT_S = 60.0
"""Frames that were given up too early make the device more patient, up to this."""

SILENT_S, SILENT_LATENCIES = 0.5, 3.0
"""No silence is taken for an outage that is shorter than this, or than so many latencies."""

FIRST_S, FIRST_ALONE = 1.0, 4.0
"""The first result of a plan is waited for as long at least, and for so many frames on the device: some may be before
it in the queue there."""

MAX_GIVEN_UP = 256
"""Attempts of which a late result is still known for one."""

CALM_S = 60.0
"""As long without a late result, and it is as impatient as before."""


class Detour:
    """When a device computes frames alone although its plan has other nodes: in an outage, until a result comes home.

    The plan stays, and its frames stay on their way: the first result that comes is the end of the outage, and the
    next frame goes by the plan again. How long a silence goes on is best told by how long it has been (outages are
    heavy-tailed: the chance that one of age s ends within a more is about a / (s + a)). A frame on the device takes
    `a`, in which the plan's own stage has to wait if its results come back; so it is begun when it is likely to be
    worth more than the frames that would then be late: when s + a > rate * a^2 / 2.
    """

    def __init__(self) -> None:
        self.alone_s = math.inf
        """A frame's time on the device alone; unknown, no frame takes the detour."""
        self.piece_s = math.inf
        """Of that, what the longest of its pieces takes."""
        self.is_suspect = False
        """Whether frames of the plan were given up since the last result: then one at a time goes by the plan."""
        self.scout_s = -math.inf
        """When the latest frame of the plan was admitted of those that were then computed here as well."""
        self._result_s = -math.inf
        self._begun_s = -math.inf

    def begin(self, now: float) -> None:
        """Another plan begins."""
        self.is_suspect, self.scout_s, self._result_s, self._begun_s = False, -math.inf, -math.inf, now

    def result(self, now: float) -> None:
        """A result of the plan came home."""
        self.is_suspect, self.scout_s, self._result_s = False, -math.inf, now

    def silent_s(self, now: float) -> float:
        """For how long nothing has come home of the plan."""
        return now - max(self._result_s, self._begun_s)

    def due_s(self, oldest_s: float, rate: float, latency_s: float) -> float:
        """From when on frames take the detour, if nothing comes home before.

        Args:
            oldest_s: when the oldest of the plan's frames in flight was admitted.
            rate: the plan's results per second while they came.
            latency_s: of a frame that meets no queue: while one does, results of others come.
        """
        if self.is_suspect:
            return -math.inf
        alone_s = self.alone_s
        silent_s = max(SILENT_S, 2.0 * alone_s, SILENT_LATENCIES * latency_s, alone_s * (rate * alone_s / 2.0 - 1.0))
        if math.isinf(self._result_s):
            silent_s = max(silent_s, FIRST_S, FIRST_ALONE * alone_s)
        return max(self._result_s, oldest_s) + silent_s


class Deadline:
    """When a frame in flight is late.

    Eight typical latencies and five seconds. Where a result comes home of an attempt that had been given up, the frame
    was not lost: it was stuck on a link in an outage. Then the deadline is twice as long, as TCP's retransmission
    timer backs off (RFC 6298), until a minute has gone by without another.
    """

    def __init__(self) -> None:
        self._least_s = RESULT_TIMEOUT_S
        self._early_s = -math.inf
        self._given_up: OrderedDict[tuple[int, int], None] = OrderedDict()

    def limit_s(self, latency_s: Series, now: float) -> float:
        """Seconds from a frame's admission until it is given up."""
        if now - self._early_s > CALM_S:
            self._least_s = RESULT_TIMEOUT_S
        return max(self._least_s, LATE_FACTOR * latency_s.figure().window)

    def give_up(self, frame: int, attempt: int) -> None:
        """An attempt was given up as late."""
        self._given_up[frame, attempt] = None
        while len(self._given_up) > MAX_GIVEN_UP:
            self._given_up.popitem(last=False)

    def result(self, frame: int, attempt: int, now: float) -> None:
        """A result came of this attempt; of one that was given up, it was too early."""
        if (frame, attempt) not in self._given_up:
            return
        del self._given_up[frame, attempt]
        if now - self._early_s > self._least_s:  # results of one outage come together, and count once
            self._least_s = min(MAX_TIMEOUT_S, 2.0 * self._least_s)
            self._early_s = now
