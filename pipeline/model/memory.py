"""How the process's allocator and garbage collector treat memory.

A convolution's maps are large, and the C library gives large blocks back to the kernel as soon as they are free, so
that every frame fetches, and the kernel clears, the same pages anew: a quarter of the time of VGG-16's first third.
A node computes the same maps for every frame, so it had better keep them.
"""

from __future__ import annotations

import ctypes
import gc

# Parameters of glibc's mallopt(3), from malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8

_KEPT_BYTES = 1 << 30
"""Blocks up to here come from the heap and go back to it."""

_NEVER = (1 << 31) - 1

TRIM_S = 60.0
"""Between two times at which free memory is given back: one frame of so many is slower by what its pages cost."""


def keep_freed() -> bool:
    """From now on keep freed memory for the next frame; returns whether the C library knows how (glibc does)."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    # One arena: what the warming thread frees, the computing thread takes.
    settings = ((_M_ARENA_MAX, 1), (_M_MMAP_THRESHOLD, _KEPT_BYTES), (_M_TRIM_THRESHOLD, _NEVER))
    return all(mallopt(name, value) for name, value in settings)


def give_back() -> None:
    """Give what is free now, and what only cycles hold, back to the kernel: behind the loading of something large."""
    gc.collect()
    trim()


def trim() -> None:
    """Give what is free now back to the kernel. The frame that comes then fetches its pages anew, once."""
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(0)


class Trimmer:
    """Gives back what is free, at most every `TRIM_S`.

    Plans and tile layouts that are over leave pages behind that the next one's maps do not lie in; a probe of a
    megabyte leaves a hole that small things fill before the next one comes. A process that kept all of that would
    grow, slowly and without an end.
    """

    def __init__(self) -> None:
        self._due_s = float("-inf")

    def look(self, now: float) -> None:
        """Trim where it is due; `now` is monotonic."""
        if now >= self._due_s:
            self._due_s = now + TRIM_S
            trim()


def settle(young: int = 0) -> None:
    """Take what is there now for permanent: the collector of cycles never walks through it again.

    To be called once, by a process that has loaded what it needs. torch alone brings 300,000 objects; walking through
    them holds all threads up for a tenth of a second, again and again, in the middle of a frame.

    The collection behind it tells the collector how little is left: it walks through old objects whenever they have
    grown by a quarter, and would wait for a quarter of those 300,000, the remains of hundreds of plans.

    Args:
        young: new objects that are not looked at before there are so many, where that is more than usual: for who makes
            many that live for a second, and few cycles.
    """
    gc.collect()
    gc.freeze()
    gc.collect()
    first, *older = gc.get_threshold()
    gc.set_threshold(max(first, young), *older)
