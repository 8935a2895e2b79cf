"""The traces that ship with the project: made from seeds when asked for, the same on every machine.

A name is `KIND-SEED.DIRECTION`: `lte-driving-1.down`, `starlink-2.up`. The seed may be left out (1) and so may the
direction (down). Every whole number is a seed; `names()` lists the first two of each kind.
"""

from __future__ import annotations

import re
from functools import lru_cache

from traces.errors import TraceError, quoted
from traces.library.kinds import KINDS
from traces.library.model import Kind, synthesise
from traces.trace import Trace

__all__ = ["KINDS", "LISTED_SEEDS", "Kind", "is_library_name", "library_pair", "library_trace", "names", "synthesise"]

LISTED_SEEDS = (1, 2)

_NAME = re.compile(r"(?P<kind>[a-z0-9]+(?:-[a-z]+)*)(?:-(?P<seed>\d{1,9}))?(?:\.(?P<direction>down|up))?")


def names() -> list[str]:
    """The names of the listed traces."""
    return [f"{kind}-{seed}.{way}" for kind in KINDS for seed in LISTED_SEEDS for way in ("down", "up")]


def is_library_name(name: str) -> bool:
    """Whether the name is one of this library."""
    match = _NAME.fullmatch(name)
    return match is not None and match["kind"] in KINDS


def library_trace(name: str) -> Trace:
    """One trace by its name.

    Raises:
        TraceError: no such kind.
    """
    match = _match(name)
    down, up = _pair(match["kind"], int(match["seed"] or 1))
    return up if match["direction"] == "up" else down


def library_pair(name: str) -> tuple[Trace, Trace]:
    """Downlink and uplink of one name, given without direction."""
    match = _match(name)
    return _pair(match["kind"], int(match["seed"] or 1))


@lru_cache(maxsize=32)
def _pair(kind: str, seed: int) -> tuple[Trace, Trace]:
    return synthesise(kind, KINDS[kind], seed)


def _match(name: str) -> re.Match[str]:
    match = _NAME.fullmatch(name)
    if match is None or match["kind"] not in KINDS:
        raise TraceError(f"trace {quoted(name)}", "is not in the library", f"its kinds: {', '.join(KINDS)}")
    return match
