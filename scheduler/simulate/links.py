"""Simulated links: a first-in, first-out pipe that obeys a trace, and what its receiver times of it.

The receiver feeds the same `CrossingLog` as a live node's: a small head before each large message, then the message.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

from scheduler.estimate import MIN_MESSAGE_BYTES
from scheduler.reports import LinkReport
from scheduler.timing import CrossingLog, RoundTrip
from traces.trace import Trace

HEADER_BYTES = 400
"""Header and framing of a frame's message (measured on the wire: 300 to 600, growing with the hops behind it)."""

PROBE_HEADER_BYTES = 45
"""The same of a probe: what its node is called, and little else."""

HEAD_BYTES = 100
"""The small message that announces a large one."""

PING_BYTES = 60


class Pipe:
    """The capacity of one direction. Several links may share it (one radio, two peers)."""

    def __init__(self, trace: Trace, zero_s: float = 0.0) -> None:
        self.trace = trace
        self.bytes_total = 0
        self._zero_s = zero_s
        self._opening_bps = trace.opening_bps
        """Before the trace begins, as in a replay."""
        self._free_s = 0.0

    def send(self, nbytes: int, now: float) -> tuple[float, float]:
        """Queue a message.

        Returns:
            When its first byte goes out, and when its last one has; infinite where the trace never lets it pass.
        """
        start_s = self._free_s if self._free_s > now else now
        if start_s == math.inf:
            return start_s, start_s
        bits, zero_s = 8.0 * nbytes, self._zero_s
        if start_s >= zero_s:
            self._free_s = start_s + self.trace.time_to_send(bits, start_s - zero_s)
        else:
            before = self._opening_bits(start_s, zero_s)
            if bits < before:
                self._free_s = start_s + bits / self._opening_bps
            else:
                self._free_s = zero_s + self.trace.time_to_send(bits - before, 0.0)
        self.bytes_total += nbytes
        return start_s, self._free_s

    def mean_bps(self, start_s: float, end_s: float) -> float:
        """The true mean rate between two simulated times."""
        zero_s = self._zero_s
        begin_s = min(end_s, max(start_s, zero_s))
        after = float(self.trace.bits_between(begin_s - zero_s, end_s - zero_s))
        return (self._opening_bits(start_s, begin_s) + after) / (end_s - start_s)

    def _opening_bits(self, start_s: float, end_s: float) -> float:
        return self._opening_bps * (end_s - start_s) if end_s > start_s else 0.0


class Watch:
    """What a receiver knows of one incoming link."""

    def __init__(self, peer: str) -> None:
        self.log = CrossingLog(peer)
        self.bytes_total = 0
        """Payload that came in."""
        self._heads: deque[tuple[float, int]] = deque()
        self._echoes: deque[tuple[float, float]] = deque()
        """Pings that come back: when they were sent, and when they are here."""
        self._looked_s = float("-inf")

    def expect(self, nbytes: int, head_s: float) -> None:
        """A head will come in at `head_s`."""
        if head_s < math.inf:
            self._heads.append((head_s, nbytes))

    def echo(self, sent_s: float, returned_s: float) -> None:
        """A ping of this receiver's will be back; they are in the order in which they were sent."""
        self._echoes.append((sent_s, returned_s))

    def finished(self, nbytes: int, now: float, probe: bool) -> None:
        """A message came in whole."""
        self._look(now)
        self.bytes_total += nbytes
        self.log.finished(nbytes, now, probe=probe)

    def jumped(self, now: float) -> bool:
        """See `CrossingLog.jumped`; looked at ten times a second at most."""
        if now - self._looked_s < 0.1:
            return False
        self._looked_s = now
        self._look(now)
        return self.log.jumped(now)

    def take(self, now: float) -> LinkReport:
        """See `CrossingLog.take`."""
        self._look(now)
        while self._echoes and self._echoes[0][1] <= now:
            sent_s, returned_s = self._echoes.popleft()
            self.log.echoed(RoundTrip(sent_s, sent_s, sent_s, returned_s))
        return self.log.take(now)

    def _look(self, now: float) -> None:
        while self._heads and self._heads[0][0] <= now:
            head_s, nbytes = self._heads.popleft()
            self.log.started(nbytes, head_s)


@dataclass
class SimulatedLink:
    """One directed link between two nodes."""

    source: str
    target: str
    pipe: Pipe
    delay_s: float
    watch: Watch

    def send(self, payload_bytes: int, now: float, header_bytes: int = HEADER_BYTES) -> float:
        """Put a message on its way, a frame's as a rule.

        Returns:
            When it has come in whole.
        """
        if payload_bytes >= MIN_MESSAGE_BYTES:
            _, head_s = self.pipe.send(HEAD_BYTES, now)
            self.watch.expect(payload_bytes, head_s + self.delay_s)
        _, last_s = self.pipe.send(payload_bytes + header_bytes, now)
        return last_s + self.delay_s

    def echo(self, sent_s: float, now: float) -> None:
        """The answer to a ping of the target's sets out."""
        returned_s = small(self, now)
        if returned_s < math.inf:
            self.watch.echo(sent_s, returned_s)


def small(link: SimulatedLink, now: float) -> float:
    """Send a ping or a pong; returns when it is there."""
    _, last_s = link.pipe.send(PING_BYTES, now)
    return last_s + link.delay_s
