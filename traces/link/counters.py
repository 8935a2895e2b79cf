"""What a shaped link has done, to be read while it runs."""

from __future__ import annotations

from collections import deque
from dataclasses import asdict, dataclass, field

KEPT_SECONDS = 3600


@dataclass
class DirectionCounters:
    """One direction's figures. Only the relay's own thread writes them."""

    read_bytes: int = 0
    delivered_bytes: int = 0
    dropped_bytes: int = 0
    """Read, but never delivered because the connection was cut or broke."""
    peak_queue_bytes: int = 0
    per_second: deque[tuple[int, int]] = field(default_factory=lambda: deque(maxlen=KEPT_SECONDS))
    """(whole second of the link's time, bytes delivered in it), of the last hour; quiet seconds are left out."""

    def add_delivered(self, nbytes: int, link_time_s: float) -> None:
        """Counts delivered bytes."""
        self.delivered_bytes += nbytes
        second = int(link_time_s)
        if self.per_second and self.per_second[-1][0] == second:
            nbytes += self.per_second.pop()[1]
        self.per_second.append((second, nbytes))


@dataclass(frozen=True)
class DirectionStats:
    """One direction at one moment."""

    rate_bps: float
    """The trace's rate now; 0 while paused."""
    trace_time_s: float
    read_bytes: int
    delivered_bytes: int
    dropped_bytes: int
    queued_bytes: int
    flying_bytes: int
    peak_queue_bytes: int
    lost_packets: int
    per_second: tuple[tuple[int, int], ...]
    """(second, bytes delivered in it), oldest first."""


@dataclass(frozen=True)
class ShaperStats:
    """A shaped link at one moment."""

    link_time_s: float
    """Seconds since the link's time 0."""
    connections: int
    accepted: int
    """Connections taken since the start."""
    refused: int
    """Connections reset because the target was away or the link was cut."""
    paused: bool
    cut: bool
    up: DirectionStats
    down: DirectionStats

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)
