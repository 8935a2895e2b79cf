"""Keeps a log readable, and its file small, whatever strangers send: few lines a minute from any one place."""

from __future__ import annotations

import logging
from dataclasses import dataclass

LINES = 20
WINDOW_S = 60.0
"""So many lines in so long from one statement; the next one after that says how many were left out. At 150 bytes a
line and one statement that never stops, a log grows by 4 MB a day."""


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
