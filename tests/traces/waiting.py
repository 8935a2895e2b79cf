"""Waiting for what becomes true, with a limit."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


def until(condition: Callable[[], bool], limit_s: float = 20.0) -> None:
    """Waits for a condition; fails where it does not come true within the limit."""
    end_s, pause = time.monotonic() + limit_s, threading.Event()
    while not condition():
        assert time.monotonic() < end_s, "the condition did not come true"
        pause.wait(0.005)
