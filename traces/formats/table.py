"""Tables with a time and a throughput column: which column is which, and in what unit."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from traces.errors import TraceError, quoted
from traces.units import TIME_UNITS_S, rate_unit_bps

BYTES_PER_STEP = ("bytes", "byte")
MISSING = frozenset({"", "-", "na", "n/a", "nan", "null", "none"})
"""What loggers write where they have no value."""

_TIME_NAMES = ("time", "timestamp", "datetime", "date", "seconds", "second", "sec", "elapsed", "epoch", "ts", "t")
_RATE_NAMES = (
    *("throughput", "goodput", "bandwidth", "dl_bitrate", "bitrate", "capacity", "datarate", "rate"),
    *("downlink", "download", "dl", "mbps", "kbps", "bps", "bytes", "uplink", "upload", "ul", "bw"),
)

_KNOWN_UNITS = {"dl_bitrate": "kbit/s", "ul_bitrate": "kbit/s"}
"""G-NetTrack, the logger of the UCC data sets, writes kbit/s and does not say so in its header."""

_DATES = ("%Y.%m.%d_%H.%M.%S", "%Y-%m-%d %H:%M:%S", "%Y/%m/%d %H:%M:%S", "%d/%m/%Y %H:%M:%S", "%H:%M:%S")


def column_named(header: list[str], wanted: str, name: str, line: int) -> int:
    """The index of a column that the caller named, by name or by number from 1."""
    lowered = [title.strip().lower() for title in header]
    if wanted.strip().lower() in lowered:
        return lowered.index(wanted.strip().lower())
    if wanted.isdigit() and 1 <= int(wanted) <= len(header):
        return int(wanted) - 1
    columns = ", ".join(title.strip() for title in header)
    raise TraceError(name, f"has no column {quoted(wanted)}", f"its columns: {columns}", line)


def find_time_column(header: list[str]) -> int | None:
    """The column that most looks like a time, by its name."""
    return _best(header, _TIME_NAMES)


def find_rate_column(header: list[str]) -> int | None:
    """The column that most looks like a downlink throughput, by its name."""
    by_name = _best(header, _RATE_NAMES)
    if by_name is not None:
        return by_name
    with_unit = [index for index, title in enumerate(header) if _unit_in(title) is not None]
    # A logger's `speed` is how fast the car goes, unless it is all there is.
    return with_unit[0] if with_unit else _best(header, ("speed",))


def rate_unit_of(title: str) -> str | None:
    """The rate unit that a column's name states: `rate_kbps`, `Throughput (Mbit/s)`, `bytes`."""
    known = _KNOWN_UNITS.get(title.strip().lower())
    if known is not None:
        return known
    if re.search(r"\bbytes?\b", title.lower().replace("_", " ")) and _unit_in(title) is None:
        return "bytes"
    return _unit_in(title)


def time_unit_of(title: str) -> str | None:
    """The time unit that a column's name states: `time_ms`, `t [s]`."""
    words = re.split(r"[^a-zµ]+", title.strip().lower())
    stated = words[1:] if len(words) > 1 else [word for word in words if len(word) > 1]
    return next((word for word in stated if word in TIME_UNITS_S), None)


def unit_rate_bps(unit: str) -> float | None:
    """Bit/s in one of a unit that the caller named; None for bytes per step.

    Raises:
        TraceError: no such unit.
    """
    if unit.strip().lower() in BYTES_PER_STEP:
        return None
    factor = rate_unit_bps(unit)
    if factor is None:
        raise TraceError(f"rate unit {quoted(unit)}", "is unknown", "use bit/s, kbit/s, Mbit/s, Gbit/s or bytes")
    return factor


def unit_time_s(unit: str) -> float:
    """Seconds in one of a unit that the caller named."""
    if unit.strip().lower() not in TIME_UNITS_S:
        raise TraceError(f"time unit {quoted(unit)}", "is unknown", "use s, ms, us, ns, min or h")
    return TIME_UNITS_S[unit.strip().lower()]


def parse_date(text: str) -> float | None:
    """Seconds since 1970 of a date and time, or None where the text is none.

    A zone's name (`CDT`) is dropped: only differences matter.
    """
    plain = re.sub(r"\s+[A-Z]{2,5}$", "", text.strip())
    for pattern in _DATES:
        try:
            return datetime.strptime(plain, pattern).replace(tzinfo=UTC).timestamp()
        except ValueError:
            continue
    try:
        moment = datetime.fromisoformat(plain)
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def guess_time_unit(first: float, median_step: float, whole: bool) -> str:
    """The unit of numeric times with an unnamed unit: by the size of an epoch, else by the step.

    Seconds since 1970 are near 2e9, milliseconds 2e12, microseconds 2e15. Otherwise whole numbers that step by 50
    or more are milliseconds: no logger of links is slower than one line in 50 s.
    """
    for unit, size in (("ns", 1e17), ("us", 1e14), ("ms", 1e11), ("s", 1e8)):
        if abs(first) >= size:
            return unit
    return "ms" if whole and median_step >= 50 else "s"


def _best(header: list[str], names: tuple[str, ...]) -> int | None:
    titles = [re.split(r"[\s(\[]", title.strip().lower())[0] for title in header]
    for word in names:
        if word in titles:
            return titles.index(word)
    parts = [re.split(r"[^a-z]+", title) for title in titles]
    for word in names:
        for index, title in enumerate(titles):
            if word in parts[index] or (len(word) > 4 and word in title):
                return index
    return None


def _unit_in(title: str) -> str | None:
    inside = re.findall(r"[(\[]([^)\]]+)[)\]]", title)
    words = [*inside, *re.split(r"[\s_]+", title), "/".join(re.split(r"_", title)[-2:])]
    return next((word for word in words if word and rate_unit_bps(word) is not None), None)
