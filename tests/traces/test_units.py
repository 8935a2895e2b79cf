"""Rates, times, sizes and shares as people write them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from traces.errors import TraceError
from traces.units import format_rate, parse_bytes, parse_rate_bps, parse_share, parse_time_s


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (parse_rate_bps, "20Mbit", 20e6),
        (parse_rate_bps, "1.5 Gbit/s", 1.5e9),
        (parse_rate_bps, "250kbps", 250e3),
        (parse_rate_bps, "2 MB/s", 16e6),
        (parse_rate_bps, "3 Mb/s", 3e6),
        (parse_rate_bps, "1e6", 1e6),
        (parse_time_s, "20ms", 0.02),
        (parse_time_s, "2min", 120.0),
        (parse_time_s, "0.5", 0.5),
        (parse_bytes, "64KiB", 65536),
        (parse_bytes, "1MB", 1_000_000),
        (parse_share, "0.1%", 0.001),
        (parse_share, "0.2", 0.2),
    ],
)
def test_what_people_write(parse: Callable[[str], float], text: str, value: float) -> None:
    assert parse(text) == pytest.approx(value)


@pytest.mark.parametrize("parse", [parse_rate_bps, parse_time_s, parse_bytes, parse_share])
@pytest.mark.parametrize("text", ["", "fast", "-5", "5 furlongs", "1e999"])
def test_what_makes_no_sense(parse: Callable[[str], float], text: str) -> None:
    with pytest.raises(TraceError):
        parse(text)


def test_rates_for_people() -> None:
    written = [format_rate(rate) for rate in (0.0, 950.0, 1.26e3, 999_990.0, 20e6, 999.9e6, 1.6e9, 2e12)]
    assert written[:4] == ["0 bit/s", "950 bit/s", "1.26 kbit/s", "1 Mbit/s"]
    assert written[4:] == ["20 Mbit/s", "1 Gbit/s", "1.6 Gbit/s", "2000 Gbit/s"]
