"""Fixtures for all tests: nothing that a test starts may outlive it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import psutil
import pytest
from zmq.utils.garbage import GarbageCollectorThread

GRACE_S = 5.0
"""Time in which threads and processes that are already told to stop must be gone."""


@pytest.fixture(autouse=True)
def no_leaks() -> Iterator[None]:
    """Fail a test that leaves a thread or a child process behind."""
    threads = _running()
    children = {child.pid for child in psutil.Process().children(recursive=True)}
    yield
    deadline_s = time.monotonic() + GRACE_S
    for thread in _running() - threads:
        thread.join(max(0.0, deadline_s - time.monotonic()))
    left = [thread.name for thread in _running() - threads if not thread.name.startswith("pydevd")]
    assert not left, f"threads left behind: {left}"
    new = [child for child in psutil.Process().children(recursive=True) if child.pid not in children]
    _, alive = psutil.wait_procs(new, timeout=max(0.0, deadline_s - time.monotonic()))
    assert not alive, f"processes left behind: {alive}"


def _running() -> set[threading.Thread]:
    """All threads but pyzmq's own: the first message that is sent without a copy starts it, and it stays."""
    return {thread for thread in threading.enumerate() if not isinstance(thread, GarbageCollectorThread)}
