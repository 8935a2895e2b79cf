"""How much memory running something takes beyond what is held before and after, as the kernel sees it (Linux only)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pipeline.model import memory

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")

RESET_PEAK = "5"
"""Written to `CLEAR`: the peak of the resident memory is now what is resident (proc_pid_clear_refs(5))."""


def peak_bytes(run: Callable[[], object]) -> int | None:
    """Peak resident memory of the process while `run` runs, above what it had before.

    Returns:
        None where the kernel does not tell.
    """
    memory.give_back()
    try:
        CLEAR.write_text(RESET_PEAK)
        before = _resident("VmRSS")
        kept = run()
        peak = _resident("VmHWM")
    except OSError:
        return None
    del kept
    return None if before is None or peak is None else max(peak - before, 0)


def _resident(field: str) -> int | None:
    for line in STATUS.read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return None
