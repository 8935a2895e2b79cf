"""What an edge node knows of its tile workers: who is there, how fast, who is out. Pure: time is an argument.

A worker that is new, or that missed a deadline, is *out*: it gets no tiles until it answers an order without tasks (a
sign of life). So a frozen worker costs the stream one deadline, not one a frame. Each sign of life that does not come
doubles the time to the next one.
"""

from __future__ import annotations

import math
import statistics
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from nodes.tiles.deadlines import NORMAL, Deadlines, TileId
from nodes.tiles.wire import FEW, Wire, fit_wire

SAMPLES = 16
"""Frames over which speeds look back: at 10 frames/s one and a half seconds."""

FIRST_BACK_OFF_S = 0.25
MAX_BACK_OFF_S = 30.0

DOUBT_S = 30.0
"""A speed that was not measured for this long counts no more: the worker is given tiles to measure it again."""

ALIKE = 0.05
"""Speeds that differ by less than this share count as the same speed, and more noisy ones by more (`speeds`)."""

MAX_STREAMS = 256
"""Streams whose announcements are remembered; the one heard of longest ago is forgotten first."""

CROSSINGS = 64
"""Tiles, of all workers, over which the wire's figures look back."""


@dataclass
class Worker:
    """One node that computes tiles."""

    speeds: deque[float] = field(default_factory=lambda: deque(maxlen=SAMPLES))
    """Modelled over measured time of tiles: 2 is twice as fast as the edge node was when its blocks were timed."""
    deadlines: Deadlines = field(default_factory=Deadlines)
    measured_s: float = float("-inf")
    is_out: bool = True
    ask_at_s: float = float("-inf")
    """When the next sign of life is asked for, while it is out."""
    back_off_s: float = FIRST_BACK_OFF_S
    missed: int = 0
    """Deadlines missed since the start."""

    @property
    def speed(self) -> float:
        """Median of the latest; 1 before the first."""
        return statistics.median(self.speeds) if self.speeds else 1.0


@dataclass(frozen=True)
class Timing:
    """What one tile's computation took."""

    tile: TileId
    turnaround_s: float
    """From the edge node's hand-over to its own receipt of the answer."""
    spent_s: float
    """Of the turn-around, inside the worker."""
    nbytes: int
    """Both ways."""


class Roster:
    """All tile workers of one edge node, which is one itself. Safe to use from several threads."""

    def __init__(self, own: str) -> None:
        self.own = own
        self._workers: dict[str, Worker] = {own: Worker(is_out=False)}
        self._present: OrderedDict[str, frozenset[str]] = OrderedDict()
        self._crossings: deque[tuple[int, float]] = deque(maxlen=CROSSINGS)
        self._meetings: deque[float] = deque(maxlen=SAMPLES)
        self._lock = threading.Lock()

    def see(self, stream: str, names: Iterable[str]) -> bool:
        """Take who is alive, as an announcement of `stream` says.

        Returns:
            Whether that changed.
        """
        found = frozenset(names) - {self.own}
        with self._lock:
            changed = self._present.get(stream) != found
            self._present[stream] = found
            self._present.move_to_end(stream)
            while len(self._present) > MAX_STREAMS:
                self._present.popitem(last=False)
            alive = frozenset().union(*self._present.values()) | {self.own}
            for name in [name for name in self._workers if name not in alive]:
                del self._workers[name]
            for name in found:
                self._workers.setdefault(name, Worker())
        return changed

    def crew(self, stream: str, allowed: Iterable[str] | None) -> tuple[str, ...]:
        """The edge node, then the workers that can be given tiles, the fastest first.

        Args:
            stream: whose announcements count.
            allowed: names that may take part; None for all.
        """
        with self._lock:
            names = self._present.get(stream, frozenset())
            if allowed is not None:
                names = names & frozenset(allowed)
            ready = [name for name in names if not self._workers[name].is_out]
            return (self.own, *sorted(ready, key=lambda name: (-self._workers[name].speed, name)))

    def expects(self, stream: str, allowed: Iterable[str] | None) -> bool:
        """Whether a worker that may take part has been asked for its first sign of life and not answered."""
        with self._lock:
            names = self._present.get(stream, frozenset())
            if allowed is not None:
                names = names & frozenset(allowed)
            return any(self._workers[name].is_out for name in names)

    def is_ready(self, name: str) -> bool:
        """Whether tiles may be sent to a worker."""
        with self._lock:
            return name in self._workers and not self._workers[name].is_out

    def due(self, now: float) -> tuple[str, ...]:
        """Workers to be asked for a sign of life now; each is counted as asked."""
        with self._lock:
            found = []
            for name, worker in self._workers.items():
                if worker.is_out and worker.ask_at_s <= now:
                    worker.ask_at_s = now + worker.back_off_s
                    worker.back_off_s = min(2 * worker.back_off_s, MAX_BACK_OFF_S)
                    found.append(name)
            return tuple(found)

    def answered(self, name: str) -> bool:
        """A sign of life (or an answer that came late after all).

        Returns:
            Whether the worker was out until now.
        """
        with self._lock:
            worker = self._workers.get(name)
            if worker is None or not worker.is_out:
                return False
            worker.is_out = False
            return True

    def missed(self, name: str, now: float) -> None:
        """A worker did not do what it was asked for in time."""
        with self._lock:
            worker = self._workers.get(name)
            if worker is not None and not worker.is_out and name != self.own:
                worker.is_out = True
                worker.missed += 1
                worker.ask_at_s = now

    def late(self, name: str, tile: TileId, turnaround_s: float) -> bool:
        """An answer came behind its deadline: the deadlines to come allow for it. As `answered`."""
        with self._lock:
            if name in self._workers:
                self._workers[name].deadlines.took(tile, turnaround_s)
        return self.answered(name)

    def warmed(self, name: str, order: int, seconds: Sequence[float]) -> None:
        """A worker says what computing each tile of an order takes once it is warm."""
        with self._lock:
            if name in self._workers:
                self._workers[name].deadlines.warmed(order, seconds)

    def is_known(self, name: str) -> bool:
        """Whether the worker's speed was ever measured (and is not in doubt)."""
        with self._lock:
            worker = self._workers.get(name)
            return worker is not None and bool(worker.speeds)

    def done(self, name: str, timing: Timing) -> None:
        """A tile came back in time."""
        with self._lock:
            worker = self._workers.get(name)
            if worker is None:
                return
            worker.back_off_s = FIRST_BACK_OFF_S
            worker.deadlines.took(timing.tile, timing.turnaround_s)
            self._crossings.append((timing.nbytes, max(0.0, timing.turnaround_s - timing.spent_s)))

    def computed(self, name: str, work_s: float, compute_s: float, now: float) -> None:
        """A worker took `compute_s` for its part of a frame, which is modelled to take `work_s`."""
        with self._lock:
            worker = self._workers.get(name)
            if worker is not None and work_s > 0 and compute_s > 0:
                worker.speeds.append(work_s / compute_s)
                worker.measured_s = now

    def met(self, meeting_s: float) -> None:
        """A frame's meetings took so long each, crossing included."""
        with self._lock:
            self._meetings.append(meeting_s)

    def doubt(self, name: str, now: float) -> bool:
        """Forget a speed that was measured long ago.

        Returns:
            Whether it was forgotten.
        """
        with self._lock:
            worker = self._workers.get(name)
            if worker is None or not worker.speeds or now - worker.measured_s < DOUBT_S:
                return False
            worker.speeds.clear()
            return True

    def speed(self, name: str) -> float:
        """Of a worker; 1 where it is not known."""
        with self._lock:
            worker = self._workers.get(name)
            return 1.0 if worker is None else worker.speed

    def speeds(self, names: Sequence[str]) -> dict[str, float]:
        """Of several workers, those that do not differ significantly taken together.

        Speeds are noisy, and tiles fitted to noise are worse than equal ones. From the fastest down, a worker whose
        median lies within two standard errors of a group's first belongs to that group, and counts as fast as it.
        """
        with self._lock:
            known = {name: self._workers.get(name, Worker()) for name in names}
            errors = {name: _standard_error(worker.speeds) for name, worker in known.items()}
            medians = {name: worker.speed for name, worker in known.items()}
        groups: list[list[str]] = []
        for name in sorted(names, key=lambda each: -medians[each]):
            first = groups[-1][0] if groups else name
            apart = max(ALIKE * medians[first], 2 * math.hypot(errors[name], errors[first]))
            if groups and medians[first] - medians[name] <= apart:
                groups[-1].append(name)
            else:
                groups.append([name])
        common = {name: statistics.fmean(medians[each] for each in group) for group in groups for name in group}
        return {name: common[name] for name in names}

    def wire(self, crossing: Callable[[Wire], float] = lambda _: 0.0) -> Wire:
        """What crossing takes, from the latest tiles of all workers, there and back.

        Args:
            crossing: modelled seconds of it in each meeting, over such a wire. What meetings took beyond that is put
                down to them: were it reckoned over the wire of before, time that is now known not to be the bytes'
                would be nobody's.
        """
        with self._lock:
            crossings, meetings = list(self._crossings), list(self._meetings)
        wire = fit_wire(crossings)
        return (
            wire
            if len(meetings) < FEW
            else replace(wire, meeting_s=max(0.0, statistics.median(meetings) - crossing(wire)))
        )

    def deadline_s(self, name: str, tile: TileId, predicted_s: float, local_s: float) -> float:
        """How long a worker's tile may take, see `Deadlines.of`."""
        with self._lock:
            worker = self._workers.get(name)
            deadlines = Deadlines() if worker is None else worker.deadlines
            return deadlines.of(tile, predicted_s, local_s)

    def misses(self) -> dict[str, int]:
        """Deadlines missed, by worker; those that missed none are left out."""
        with self._lock:
            return {name: worker.missed for name, worker in self._workers.items() if worker.missed}


def _standard_error(samples: Sequence[float]) -> float:
    """Of the samples' median, were they normally distributed; robust to outliers."""
    if len(samples) < FEW:
        return 0.0
    median = statistics.median(samples)
    spread = NORMAL * statistics.median(abs(sample - median) for sample in samples)
    return spread * math.sqrt(math.pi / 2 / len(samples))
