"""A simulated node: the stage loop of the live ones, step by step.

Unpack, compute and pack are three servers with hand-overs of one frame between them, as in `nodes.stage`: a server
that cannot hand its frame over keeps it, and begins no other.
"""

from __future__ import annotations

import functools
import itertools
import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.frames.wire import Hop
from pipeline.plan import Tier
from scheduler.meter import StageMeter
from scheduler.simulate.agenda import Agenda
from scheduler.simulate.routes import Route

if TYPE_CHECKING:
    from scheduler.simulate.device import SimulatedDevice


@dataclass(slots=True)
class Job:
    """One attempt at one frame."""

    device: SimulatedDevice
    frame: int
    attempt: int
    route: Route
    busyness: float = 0.0
    """See `scheduler.simulate.scenes`."""
    hop: int = 0
    received_s: float = 0.0
    """At this node; on the device, when the frame was to be entered."""
    queued_s: float = 0.0
    """Time that it has waited, on all nodes so far."""
    unpack_s: float = 0.0
    compute_s: float = 0.0
    pieces_s: tuple[float, ...] = ()
    """Where it gives way to other frames: the times of its pieces."""
    pieces: int = 0
    """How many of them are done."""

    @property
    def sent_bytes(self) -> int:
        """What this stage sends on."""
        return self.route.hops[self.hop].bytes_of(self.busyness)

    @property
    def is_wanted(self) -> bool:
        """Whether its frame has no result yet."""
        return self.device.ledger.expects(self.frame, self.attempt)


Forward = Callable[["SimulatedNode", Job], None]
"""Takes a frame that a node is done with."""


FACTORS = 4096


@functools.cache
def _factors(sigma: float) -> tuple[float, ...]:
    """Log-normal noise on service times; every node begins elsewhere in it."""
    draw = random.Random(0)
    return tuple(math.exp(sigma * draw.gauss(0.0, 1.0)) for _ in range(FACTORS))


class SimulatedNode:
    """One node's three servers."""

    def __init__(self, name: str, tier: Tier, agenda: Agenda, forward: Forward, noise: tuple[float, int]) -> None:
        self.name = name
        self.tier = tier
        self.agenda = agenda
        self.meter = StageMeter()
        self.on_room: Callable[[], None] = lambda: None
        """Told when the hand-over to compute has room."""
        self._forward = forward
        sigma, seed = noise
        factors, begin = _factors(sigma), random.Random(seed).randrange(FACTORS)
        self._factor = itertools.cycle(factors[begin:] + factors[:begin]).__next__
        self._arrived: deque[Job] = deque()
        self._unpacking = self._computing = self._packing = False
        self._unpacked: Job | None = None
        self._aside: Job | None = None
        """A frame of which some pieces are computed: others go between them."""
        self._piece_s = self._ahead_s = 0.0
        """What the latest piece took, and what all frames did that went ahead of the next one."""
        self._unpacked_behind: Job | None = None
        self._computed: Job | None = None
        self._computed_behind: Job | None = None

    @property
    def has_room(self) -> bool:
        """Whether the hand-over to compute is empty."""
        return self._unpacked is None

    def arrive(self, job: Job) -> None:
        """A frame's message came in whole."""
        job.received_s = self.agenda.now
        self._arrived.append(job)
        self._unpack()

    def submit(self, job: Job) -> None:
        """Enter a frame that needs no unpacking; only while `has_room`."""
        job.unpack_s = 0.0
        self._unpacked = job
        self._compute()

    def _unpack(self) -> None:
        if self._unpacking or not self._arrived:
            return
        job = self._arrived.popleft()
        self._unpacking = True
        job.unpack_s = job.route.hops[job.hop].unpack_s * self._factor()
        self.agenda.after(job.unpack_s, self._has_unpacked, job)

    def _has_unpacked(self, job: Job) -> None:
        if self._unpacked is not None:
            self._unpacked_behind = job
            return
        self._unpacking = False
        self._unpacked = job
        self._compute()
        self._unpack()

    def _compute(self) -> None:
        if self._computing:
            return
        if self._aside is not None and not self._aside.is_wanted:
            self._aside = None
        job = self._unpacked
        if self._aside is not None and (job is None or self._computed is not None or self._ahead_s > self._piece_s):
            self._compute_piece(self._aside)
            return
        if job is None:
            return
        self._unpacked, self._unpacked_behind = self._unpacked_behind, None
        self._computing = True
        if job.pieces_s and self._aside is None:
            self._computing, self._aside = False, job
            self._compute()
        else:
            job.compute_s = job.route.hops[job.hop].compute_s * self._factor()
            self._ahead_s += job.compute_s
            self.agenda.after(job.compute_s, self._has_computed, job)
        if self._unpacked is not None:
            self._unpacking = False
            self._unpack()
        else:
            self.on_room()

    def _compute_piece(self, job: Job) -> None:
        self._computing, self._ahead_s = True, 0.0
        self._piece_s = piece_s = job.pieces_s[job.pieces] * self._factor()
        job.pieces += 1
        job.compute_s += piece_s
        if job.pieces < len(job.pieces_s):
            self.agenda.after(piece_s, self._has_computed_piece)
        else:
            self._aside = None
            self.agenda.after(piece_s, self._has_computed, job)

    def _has_computed_piece(self) -> None:
        self._computing = False
        self._compute()

    def _has_computed(self, job: Job) -> None:
        if self._computed is not None:
            self._computed_behind = job
            return
        self._computing = False
        self._computed = job
        self._pack()
        self._compute()

    def _pack(self) -> None:
        job = self._computed
        if self._packing or job is None:
            return
        self._computed, self._computed_behind = self._computed_behind, None
        self._packing = True
        pack_s = job.route.hops[job.hop].pack_s * self._factor()
        self.agenda.after(pack_s, self._has_packed, job, pack_s)
        if self._computed is not None:
            self._computing = False
            self._compute()

    def _has_packed(self, job: Job, pack_s: float) -> None:
        now, plan = self.agenda.now, job.route.plan
        queue_s = now - job.received_s - job.unpack_s - job.compute_s - pack_s
        queue_s = queue_s if queue_s > 0.0 else 0.0
        job.queued_s += queue_s
        hop = Hop(self.name, queue_s, job.unpack_s, job.compute_s, pack_s, job.sent_bytes)
        self.meter.add(plan.stream, plan.epoch, hop, now)
        self._packing = False
        self._forward(self, job)
        self._pack()
