"""Reads and prepares frames in a thread of its own, beside compute."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from pipeline.frames.preprocess import Preprocess
from pipeline.frames.source import Frame, Source


class Prepared(NamedTuple):
    """A frame with the picture that the network takes."""

    frame: Frame
    picture: Tensor
    """(1, 3, height, width) of uint8."""


@dataclass(frozen=True)
class Pace:
    """Hands out a file's frames as a camera would: each when its time has come."""

    clock: Callable[[], float] = time.monotonic
    wait: Callable[[float], bool] | None = None
    """Waits so many seconds and tells whether to give up; None: until the source is closed."""


class Prefetcher:
    """A bounded queue between a source and its consumer.

    The reading thread waits while the queue is full: nothing is dropped here. It decodes and prepares the next
    frames while the consumer computes; FFmpeg, Pillow and NumPy let go of the interpreter lock for that.
    """

    def __init__(self, source: Source, preprocess: Preprocess, depth: int = 4, pace: Pace | None = None) -> None:
        self.source, self.preprocess, self.depth = source, preprocess, depth
        self._pace = pace
        self._ready: deque[Prepared] = deque()
        self._changed = threading.Condition()
        self._stopped = False
        self._ended = False
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="prefetch", daemon=True)
        self._thread.start()

    def get(self, timeout_s: float | None = None) -> Prepared | None:
        """The next frame, or None at the end.

        Raises:
            TimeoutError: none came in `timeout_s`.
            AnabranchError: what went wrong in the source; frames before it come first.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._ready or self._ended or self._stopped, timeout_s):
                raise TimeoutError(f"{self.source.name}: no frame in {timeout_s} s")
            if self._ready and not self._stopped:
                self._changed.notify_all()
                return self._ready.popleft()
            if self._error is not None:
                raise self._error
            return None

    def __iter__(self) -> Iterator[Prepared]:
        while (prepared := self.get()) is not None:
            yield prepared

    def close(self) -> None:
        """Stop reading, wait for the thread, close the source. Idempotent."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self.source.close()
        self._thread.join()

    def __enter__(self) -> Prefetcher:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> None:
        try:
            for frame in self._paced(self.source.frames()):
                if not self._put(Prepared(frame, self.preprocess.picture(frame.rgb))):
                    break
        except Exception as error:  # handed to the consumer, who raises it
            self._error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _put(self, prepared: Prepared) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: len(self._ready) < self.depth or self._stopped)
            if not self._stopped:
                self._ready.append(prepared)
                self._changed.notify_all()
            return not self._stopped

    def _paced(self, frames: Iterator[Frame]) -> Iterator[Frame]:
        if self._pace is None or self.source.live:
            yield from frames
            return
        wait = self._pace.wait or self.source.closed.wait
        start: float | None = None
        for frame in frames:
            now = self._pace.clock()
            start = now - frame.time_s if start is None else start
            if (early_s := start + frame.time_s - now) > 0 and wait(early_s):
                return
            yield frame
