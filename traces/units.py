"""Rates, times and sizes as people write them: `20Mbit`, `1.5 Gbit/s`, `20ms`, `64KiB`."""

from __future__ import annotations

import math
import re

from traces.errors import TraceError, quoted

_NUMBER = re.compile(r"\s*([0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?)\s*(.*?)\s*$")

TIME_UNITS_S = {"s": 1.0, "sec": 1.0, "second": 1.0, "seconds": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
"""Seconds in one of the unit."""
TIME_UNITS_S |= {"min": 60.0, "m": 60.0, "h": 3600.0}

_PREFIXES = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9}
_SIZES = {"b": 1.0, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2.0**10, "mib": 2.0**20, "gib": 2.0**30}


def rate_unit_bps(unit: str) -> float | None:
    """Bits per second in one of a rate unit, or None where the text is no rate unit.

    `b` before `ps` or `/s` is bits (`Mbps`, `Mb/s`); bytes are written out (`bytes/s`) or with a capital `B/s`.
    """
    text = unit.strip().replace("per second", "/s").replace(" ", "").replace("_", "/")
    if re.fullmatch(r"[kKmMgG]?B(/s|ps)", text):
        return _PREFIXES[text[:-3].lower()] * 8.0
    match = re.fullmatch(r"([kmg]?)(bits?|b|bytes?)(/sec|/s|ps)?", text.lower())
    if match is None or (match[2] == "b" and match[3] is None):
        return None
    if match[2].startswith("byte") and match[3] is None:
        return None
    return _PREFIXES[match[1]] * (8.0 if match[2].startswith("byte") else 1.0)


def parse_rate_bps(text: str) -> float:
    """`20Mbit`, `1 Gbit/s`, `250kbps`, `1e6` (plain numbers are bit/s) as bit/s."""
    value, unit = _split(text, "a rate", "write it as 20Mbit, 250kbit/s or 1Gbit")
    factor = 1.0 if not unit else rate_unit_bps(unit)
    if factor is None and unit.lower() in ("k", "m", "g"):
        factor = _PREFIXES[unit.lower()]
    if factor is None:
        raise TraceError(f"rate {quoted(text)}", "has an unknown unit", "use bit, kbit, Mbit or Gbit")
    return value * factor


def parse_time_s(text: str) -> float:
    """`20ms`, `1.5s`, `2min`, `0.5` (plain numbers are seconds) as seconds."""
    value, unit = _split(text, "a time", "write it as 20ms, 1.5s or 2min")
    if not unit:
        return value
    if unit.lower() not in TIME_UNITS_S:
        raise TraceError(f"time {quoted(text)}", "has an unknown unit", "use us, ms, s, min or h")
    return value * TIME_UNITS_S[unit.lower()]


def parse_bytes(text: str) -> int:
    """`64KiB`, `1MB`, `1500` (plain numbers are bytes) as bytes."""
    value, unit = _split(text, "a size", "write it as 64KiB, 1MB or 1500")
    factor = _SIZES.get(unit.lower() or "b")
    if factor is None:
        raise TraceError(f"size {quoted(text)}", "has an unknown unit", "use B, kB, KiB, MB or MiB")
    return round(value * factor)


def parse_share(text: str) -> float:
    """`0.1%` or `0.001` as a share between 0 and 1."""
    value, unit = _split(text, "a share", "write it as 0.1% or 0.001")
    share = value / 100.0 if unit == "%" else value
    if unit not in ("", "%") or share > 1.0:
        raise TraceError(f"share {quoted(text)}", "is not between 0 and 1", "write it as 0.1% or 0.001")
    return share


def format_rate(rate_bps: float) -> str:
    """A rate with three figures and its unit, for people."""
    for factor, unit in ((1e9, "Gbit/s"), (1e6, "Mbit/s"), (1e3, "kbit/s")):
        if rate_bps >= 0.9995 * factor:  # 999.9 Mbit/s is 1 Gbit/s in three figures
            return f"{rate_bps / factor:.3g} {unit}" if rate_bps < 1000 * factor else f"{rate_bps / factor:.0f} {unit}"
    return f"{rate_bps:.3g} bit/s"


def _split(text: str, what: str, mend: str) -> tuple[float, str]:
    match = _NUMBER.match(text)
    if match is None or not math.isfinite(float(match[1])):
        raise TraceError(quoted(text), f"is not {what}", mend)
    return float(match[1]), match[2]
