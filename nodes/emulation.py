"""Nodes that pretend to be slower machines: they sleep behind their computing."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from functools import partial
from pathlib import Path
from typing import TypeVar

from torch import Tensor

from pipeline.stage import Compute

KEYS = 1024
"""Parts of which it is known how long they take; the one known for longest is forgotten first."""

RECENT = 32
"""Times of each part that are known."""

Item = TypeVar("Item")


class EmulatedSpeed:
    """Makes a node slower by sleeping behind its computing, so that a slow device costs no CPU.

    What else keeps this machine busy is not the emulated node's business: what counts is the thread's own time. Of that
    the least of the last ones, since neighbours on the same memory make it longer, and since what is computed behind a
    sleep finds the caches cold, which takes a millisecond or two however small it is; a slow machine, which does not
    sleep, is spared that. What a sleep was too long is taken off the next one, for a frame may have many; so is what a
    thread waited for a processor before its part (`catch_up`).
    """

    def __init__(self, factor: float = 1.0) -> None:
        self.factor = factor
        self._recent: OrderedDict[Hashable, deque[float]] = OrderedDict()
        self._late_s = 0.0
        self._lock = threading.Lock()
        self._own = threading.local()

    def catch_up(self) -> float:
        """Take off the next sleep what this thread, ready to go on, waited for a processor since its last one.

        Returns:
            Seconds of it beyond those that the last sleep was too long: the emulated machine was at work in them.
        """
        if self.factor >= 1.0:
            return 0.0
        begin_s, queued_s = time.monotonic(), _queued_s()
        with self._lock:
            known_s = self._late_s
            self._late_s = max(known_s, queued_s - getattr(self._own, "queued_s", queued_s))
            self._late_s += time.monotonic() - begin_s
            return self._late_s - known_s

    def run(self, key: Hashable, compute: Callable[[], Item]) -> Item:
        """A part of a frame, or all of it, made slower; as it is where the speed is the real one.

        Args:
            key: what is computed; the same takes as long on the emulated machine.
            compute: does it.
        """
        if self.factor >= 1.0:
            return compute()
        begin_s, own_s = time.monotonic(), time.thread_time()
        made = compute()
        self._fill(begin_s, self._least_s(key, time.thread_time() - own_s) / self.factor)
        return made

    def around(self, compute: Compute, frame_s: float | None = None) -> Compute:
        """`compute`, made slower; as it is where the speed is the real one.

        Args:
            compute: to be slowed.
            frame_s: what a frame takes on the emulated machine, where its profile tells.
        """
        if frame_s is None and self.factor >= 1.0:
            return compute
        segment = object()

        def slowed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            frames = next((len(tensor) for tensor in tensors.values()), 1)
            if frame_s is None:
                return self.run((segment, frames), partial(compute, tensors))
            begin_s = time.monotonic()
            made = compute(tensors)
            self._fill(begin_s, frames * frame_s)
            return made

        return slowed

    def _least_s(self, key: Hashable, spent_s: float) -> float:
        with self._lock:
            recent = self._recent.setdefault(key, deque(maxlen=RECENT))
            recent.append(spent_s)
            if len(self._recent) > KEYS:
                self._recent.popitem(last=False)
            return min(recent)

    def _fill(self, begin_s: float, lasts_s: float) -> None:
        """Sleep until what began at `begin_s` has taken as long as it is to last, or longer where it already has."""
        with self._lock:
            due_s = begin_s + lasts_s - self._late_s
            self._late_s = 0.0
        self._own.queued_s = _queued_s()
        if (rest_s := due_s - time.monotonic()) > 0.0:
            time.sleep(rest_s)
            with self._lock:
                self._late_s = max(0.0, time.monotonic() - due_s)


def _queued_s() -> float:
    """Seconds that this thread has been ready, and waited for a processor; 0 where the system does not say."""
    try:
        return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) * 1e-9
    except OSError:
        return 0.0
