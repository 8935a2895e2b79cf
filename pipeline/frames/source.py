"""What every source is: a numbered stream of pictures with times, and perhaps with truth."""

from __future__ import annotations

import itertools
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Rgb = NDArray[np.uint8]
Notify = Callable[[str, str], None]
"""Called with the kind and the text of something that happened to a source, such as a lost camera."""


@dataclass(frozen=True)
class Frame:
    """One picture of a source."""

    number: int
    """Counts from 0 without gaps."""
    time_s: float
    """When the picture was taken, in the source's own time."""
    rgb: Rgb
    """(height, width, 3) of uint8."""
    truth: int | str | None = None
    """Class index, or class name, where it is known."""


class Shot(NamedTuple):
    """A frame before it has a number."""

    time_s: float
    rgb: Rgb
    truth: int | str | None = None


def ignore(kind: str, text: str) -> None:
    """A `Notify` for callers that do not care."""


@dataclass(frozen=True)
class SourceSettings:
    """What all kinds of sources can be told."""

    seed: int = 0
    """Of rendered scenes."""
    limit: int | None = None
    """Frames after which the source ends; None: when it has no more."""
    notify: Notify = ignore


class Source(ABC):
    """A stream of frames, read once from beginning to end by one thread; `close` may come from any thread."""

    name: str
    """How messages name it."""
    fps: float | None = None
    """Nominal rate; None where pictures have none of their own."""
    live: bool = False
    """Whether pictures that nobody takes in time are lost."""
    ended_early: str | None = None
    """Set when not everything came that should have: why, without the name, in one line. What came before is good."""

    def __init__(self, name: str, settings: SourceSettings) -> None:
        self.name = name
        self.settings = settings
        self.closed = threading.Event()

    def frames(self) -> Iterator[Frame]:
        """Frames in order, until the source ends, `limit` is reached or `close` is called."""
        shots = itertools.islice(self.shots(), self.settings.limit)
        for number, shot in enumerate(shots):
            if self.closed.is_set():
                return
            yield Frame(number, *shot)

    @abstractmethod
    def shots(self) -> Iterator[Shot]:
        """The pictures, without numbers and without regard to `limit`."""

    def close(self) -> None:
        """End `frames` before its next frame, and wake it where it waits. Idempotent."""
        self.closed.set()
