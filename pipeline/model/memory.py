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


def keep_freed() -> bool:
    """From now on keep freed memory for the next frame; returns whether the C library knows how (glibc does)."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    # One arena: what the warming thread frees, the computing thread takes.
    settings = ((_M_ARENA_MAX, 1), (_M_MMAP_THRESHOLD, _KEPT_BYTES), (_M_TRIM_THRESHOLD, _NEVER))
    return all(mallopt(name, value) for name, value in settings)


def give_back() -> None:
    """Give what is free now back to the kernel: behind something large that does not come again, such as loading."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def settle() -> None:
    """Take what is there now for permanent: the collector of cycles never walks through it again.

    To be called once, by a process that has loaded what it needs. torch alone brings 300,000 objects; walking through
    them holds all threads up for a tenth of a second, again and again, in the middle of a frame.
    """
    gc.collect()
    gc.freeze()
