"""One direction of a link as a pure queue: bytes go in, wait, pass at the trace's rate, fly, and come out.

As in mahimahi, the queue has no clock of its own: every call says what time it is, and nothing moves in between.
Capacity that finds no byte waiting is lost; a waiting byte never lets capacity pass.
"""

from __future__ import annotations

import math
import random
from collections import deque
from dataclasses import dataclass

from traces.errors import TraceError
from traces.trace import Trace

QUEUE_S = 0.1
MIN_QUEUE_BYTES = 64 * 1024
PACKET_BYTES = 1500
"""Size at which losses are drawn, and the finest piece that a waiter is woken for."""
_SLACK_BITS = 1e-3
"""Rounding allowed before a byte counts as not yet through: floats of a trace's cumulated bits are this fine."""


@dataclass(frozen=True)
class LinkSettings:
    """What a link does beside its rate."""

    queue_bytes: int = 0
    """Bytes that may wait; 0 is what passes in 100 ms at the trace's mean rate, at least 64 KiB. What flies does not
    count."""
    delay_s: float = 0.0
    """Propagation, one way."""
    jitter_s: float = 0.0
    """Scale of a further delay, the absolute value of a normal draw for each piece. Order is kept."""
    loss: float = 0.0
    """Share of 1500-byte packets that are lost once, and so are late by `loss_pause_s`."""
    loss_pause_s: float = 0.2
    """How long a lost packet holds up all behind it: TCP delivers in order, so a loss shows as a pause."""
    seed: int = 1
    """Of the draws for jitter and loss."""

    def __post_init__(self) -> None:
        if self.queue_bytes != 0 and self.queue_bytes < PACKET_BYTES:
            raise TraceError("link", f"a queue of {self.queue_bytes} bytes holds no packet", "give at least 1500")
        if not (0 <= self.delay_s < math.inf and 0 <= self.jitter_s < math.inf and 0 <= self.loss_pause_s < math.inf):
            raise TraceError("link", "a delay is negative or not finite")
        if not 0 <= self.loss < 1:
            raise TraceError("link", f"a loss of {self.loss:g} is no share below 1")


@dataclass(frozen=True)
class Delivery:
    """Bytes of one flow that have come out. Zero bytes mark the end of the flow."""

    flow: int
    nbytes: int
    at_s: float
    """When the last of them came out."""


class LinkQueue:
    """A first-in first-out queue before a link of changing rate, and the bytes in flight behind it.

    Flows share the queue in the order of arrival. Times may be any clock's as long as they never go backward;
    a time before the last one told counts as the last one.
    """

    def __init__(self, trace: Trace, settings: LinkSettings, now_s: float = 0.0) -> None:
        self._trace = trace
        self._settings = settings
        self._origin_s = now_s
        self._now_s = now_s
        self._waiting: deque[list[int]] = deque()
        self._flight: deque[Delivery] = deque()
        self._part_bits = 0.0
        """Bits of the next byte that are through already."""
        self._paused = False
        self._random = random.Random(settings.seed)
        self._until_loss_bytes = self._draw_loss()
        self._bound_bytes = self._bound()
        self.queued_bytes = 0
        """Bytes that wait."""
        self.flying_bytes = 0
        """Bytes that have passed the link and not come out."""
        self.lost_packets = 0
        """Pauses drawn so far."""

    @property
    def bound_bytes(self) -> int:
        """Bytes that may wait at most."""
        return self._bound_bytes

    @property
    def room_bytes(self) -> int:
        """Bytes that may be pushed now."""
        return max(0, self._bound_bytes - self.queued_bytes)

    @property
    def trace_time_s(self) -> float:
        """Where in the trace the link is."""
        return self._now_s - self._origin_s

    @property
    def rate_bps(self) -> float:
        """The rate now; 0 while paused."""
        return 0.0 if self._paused else self._trace.rate_at(self.trace_time_s)

    def push(self, flow: int, nbytes: int, now_s: float) -> None:
        """Puts bytes of a flow at the end of the queue; 0 bytes mark the end of the flow.

        Raises:
            TraceError: more bytes than there is room for.
        """
        self.advance(now_s)
        if nbytes < 0 or nbytes > self.room_bytes:
            raise TraceError("link queue", f"{nbytes} bytes do not fit into the {self.room_bytes} that are free")
        self._waiting.append([flow, nbytes])
        self.queued_bytes += nbytes
        if nbytes == 0:
            self._serve(now_s)

    def pop(self, now_s: float) -> list[Delivery]:
        """What has come out by now, in order."""
        self.advance(now_s)
        out: list[Delivery] = []
        while self._flight and self._flight[0].at_s <= self._now_s:
            delivery = self._flight.popleft()
            self.flying_bytes -= delivery.nbytes
            out.append(delivery)
        return out

    def advance(self, now_s: float) -> None:
        """Lets the link work until a time."""
        if now_s > self._now_s:
            self._serve(now_s)
            self._now_s = now_s

    def next_event_s(self, piece_bytes: int = PACKET_BYTES) -> float:
        """When something will next come out, or a next piece be through; infinite where nothing is on its way."""
        event_s = self._flight[0].at_s if self._flight else math.inf
        if self._waiting and not self._paused:
            bits = min(self._waiting[0][1], piece_bytes) * 8 - self._part_bits
            event_s = min(event_s, self._now_s + self._trace.time_to_send(bits, self.trace_time_s))
        return event_s

    def drop(self, flow: int) -> int:
        """Forgets a flow, and returns how many of its bytes were waiting or flying."""
        gone = sum(nbytes for owner, nbytes in self._waiting if owner == flow)
        flown = sum(delivery.nbytes for delivery in self._flight if delivery.flow == flow)
        if self._waiting and self._waiting[0][0] == flow:
            self._part_bits = 0.0
        self._waiting = deque(entry for entry in self._waiting if entry[0] != flow)
        self._flight = deque(delivery for delivery in self._flight if delivery.flow != flow)
        self.queued_bytes -= gone
        self.flying_bytes -= flown
        return gone + flown

    def set_paused(self, paused: bool, now_s: float) -> None:
        """Stops or lets go. The trace's time runs on while the link stands still; what flies comes out."""
        self.advance(now_s)
        self._paused = paused

    def set_trace(self, trace: Trace, now_s: float, at_s: float = 0.0) -> None:
        """Goes on with another trace, from a time within it."""
        self.advance(now_s)
        self._trace = trace
        self._origin_s = self._now_s - at_s
        self._bound_bytes = self._bound()

    def set_origin(self, origin_s: float, now_s: float) -> None:
        """Says at which time the trace is at 0."""
        self.advance(now_s)
        self._origin_s = origin_s

    def set_settings(self, settings: LinkSettings, now_s: float) -> None:
        """Goes on with another delay, queue bound or loss; what flies already keeps its times."""
        self.advance(now_s)
        self._settings = settings
        self._bound_bytes = self._bound()
        self._until_loss_bytes = self._draw_loss()

    def _bound(self) -> int:
        return self._settings.queue_bytes or max(MIN_QUEUE_BYTES, int(self._trace.mean_bps * QUEUE_S / 8))

    def _serve(self, until_s: float) -> None:
        """Moves from waiting to flying what the link passes between its own time and `until_s`."""
        if self._paused or not self._waiting:
            return
        start_s = self.trace_time_s
        free_bits = self._part_bits + self._trace.bits_between(start_s, until_s - self._origin_s)
        spent_bits = -self._part_bits
        while self._waiting:
            flow, nbytes = self._waiting[0]
            need = nbytes * 8
            if need > free_bits + _SLACK_BITS:
                break
            self._waiting.popleft()
            free_bits -= need
            spent_bits += need
            through_s = min(self._now_s + self._trace.time_to_send(spent_bits, start_s), until_s)
            self._depart(flow, nbytes, max(through_s, self._now_s))
        if not self._waiting:
            self._part_bits = 0.0  # capacity that finds nobody waiting is lost
            return
        whole = max(0, int(free_bits // 8))
        if whole:
            self._waiting[0][1] -= whole
            self._depart(self._waiting[0][0], whole, until_s)
        self._part_bits = free_bits - whole * 8

    def _depart(self, flow: int, nbytes: int, through_s: float) -> None:
        settings = self._settings
        arrival_s = through_s + settings.delay_s
        if settings.jitter_s:
            arrival_s += abs(self._random.gauss(0.0, settings.jitter_s))
        self._until_loss_bytes -= nbytes
        while self._until_loss_bytes < 0:
            self.lost_packets += 1
            arrival_s = max(arrival_s, through_s + settings.delay_s + settings.loss_pause_s)
            self._until_loss_bytes += self._draw_loss()
        if self._flight:
            arrival_s = max(arrival_s, self._flight[-1].at_s)
        self.queued_bytes -= nbytes
        self.flying_bytes += nbytes
        self._flight.append(Delivery(flow, nbytes, arrival_s))

    def _draw_loss(self) -> float:
        """Bytes until the next lost packet."""
        loss = self._settings.loss
        if loss <= 0:
            return math.inf
        packets = 1 + math.floor(math.log(1 - self._random.random()) / math.log1p(-loss))
        return float(packets * PACKET_BYTES)
