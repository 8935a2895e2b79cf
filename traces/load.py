"""From what a user writes to a trace: a file, one run of a file, a name of the library, or a constant rate."""

from __future__ import annotations

import re
from pathlib import Path

from traces.errors import TraceError, quoted
from traces.formats import ReadOptions, read_trace
from traces.library import KINDS, is_library_name, library_pair, library_trace
from traces.trace import Trace
from traces.units import format_rate, parse_rate_bps


def load_trace(spec: str, options: ReadOptions | None = None) -> Trace:
    """The trace that a text names.

    - `drive.csv`, `AT&T.down`: a file, its first run; `drive.csv#3` its third;
    - `lte-driving`, `starlink-2.up`: a name of the library (a file of that name goes first);
    - `20Mbit`: a constant rate.

    Raises:
        TraceError: none of these, or a broken file.
    """
    path, _, part = spec.partition("#") if not Path(spec).exists() else (spec, "", "")
    if part and not part.isdigit():
        raise TraceError(quoted(spec), f"{quoted(part)} is no number of a run", "write FILE#1")
    if Path(path).is_file():
        return read_trace(path, options, int(part) if part else None)
    if is_library_name(spec):
        return library_trace(spec)
    if re.match(r"\s*[\d.]", spec) and "/" not in spec.replace("/s", ""):
        rate_bps = parse_rate_bps(spec)
        return Trace.constant(rate_bps, name=format_rate(rate_bps))
    kinds = ", ".join(KINDS)
    raise TraceError(f"trace {quoted(spec, 80)}", "is no file, name or rate", f"give a file, 20Mbit, or one of {kinds}")


def load_both_ways(spec: str, options: ReadOptions | None = None) -> tuple[Trace, Trace]:
    """Downlink and uplink: a library name without direction gives both, all else is the same in both directions."""
    if is_library_name(spec) and not spec.endswith((".down", ".up")) and not Path(spec).is_file():
        return library_pair(spec)
    trace = load_trace(spec, options)
    return trace, trace
