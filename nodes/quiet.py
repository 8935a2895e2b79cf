"""Keeps a log readable, and its file small, whatever strangers send and however long it runs: few lines a minute from
any one place, and a file that is begun anew where it is full."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

LINES = 20
WINDOW_S = 60.0
"""So many lines in so long from one statement; the next one after that says how many were left out. At 150 bytes a
line and one statement that never stops, a log grows by 4 MB a day."""

OWN_LOG = "ANABRANCH_OWN_LOG"
"""Environment variable by which a parent tells the file that standard error goes to, which it has opened to append."""

MAX_LOG_BYTES = 16 << 20
"""Of that file, and of the earlier one that is kept beside it."""


@dataclass
class _Place:
    since_s: float
    lines: int = 0
    left_out: int = 0


class FewLines(logging.Filter):
    """A filter for a handler. Holds one entry per logging statement of the program."""

    def __init__(self) -> None:
        super().__init__()
        self._places: dict[tuple[str, int], _Place] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is written; amends the first line after some that were not."""
        place = self._places.setdefault((record.pathname, record.lineno), _Place(record.created))
        if not 0.0 <= record.created - place.since_s < WINDOW_S:  # also where the clock was put back
            if place.left_out:
                record.msg = f"{record.getMessage()} ({place.left_out} more like this in between)"
                record.args = None
            place.since_s, place.lines, place.left_out = record.created, 0, 0
        if place.lines >= LINES:
            place.left_out += 1
            return False
        place.lines += 1
        return True


class OwnLog(logging.StreamHandler[TextIO]):
    """Writes to a stream; where that is the file `own`, it is begun anew whenever it is full, and the earlier one kept.

    Args:
        stream: standard error.
        own: the file, opened to append; empty where the stream is somebody else's.
        limit: bytes of a full file.
    """

    def __init__(self, stream: TextIO, own: str = "", limit: int = MAX_LOG_BYTES) -> None:
        super().__init__(stream)
        self._own, self._limit = own, limit

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line."""
        super().emit(record)
        if self._own:
            with contextlib.suppress(OSError):
                self._begin_anew(self.stream.fileno())

    def _begin_anew(self, file: int) -> None:
        path = Path(self._own)
        if os.fstat(file).st_size <= self._limit:
            return
        with contextlib.suppress(OSError):  # a full disk
            shutil.copyfile(path, path.with_name(f"earlier-{path.name}"))
        os.ftruncate(file, 0)
