"""Processes of a bench kept to one core each, as machines of one core would be.

Left to the kernel, a thread that has a message to move may be queued behind another process's computing while a core is
idle, for up to a tick (4 ms): the search for an idle core is cut short where all were busy of late.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator


def keep_to_core(number: int, process: int = 0) -> None:
    """Keep a process that has just started, and the threads that it will start, to one core.

    Args:
        number: of the core; the last one stands for all beyond it. Nothing is done where there is one only, or where
            the system knows of no such thing.
        process: its id; 0 is the calling thread.
    """
    if not hasattr(os, "sched_setaffinity"):
        return
    cores = os.cpu_count() or 1
    if cores > 1:
        os.sched_setaffinity(process, {min(number, cores - 1)})


def on_any_core(process: int) -> None:
    """Let a process, which began on its parent's core, run on all of them."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(process, range(os.cpu_count() or 1))


@contextlib.contextmanager
def on_core(number: int) -> Iterator[None]:
    """Keep the calling thread, and threads and processes that it starts, to one core meanwhile."""
    before = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    keep_to_core(number)
    try:
        yield
    finally:
        if before is not None:
            os.sched_setaffinity(0, before)
