"""The library's traces: pinned, repeatable, and like the links that they are named after."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from traces.errors import TraceError
from traces.library import KINDS, library_pair, library_trace, names
from traces.library.model import synthesise
from traces.load import load_both_ways, load_trace
from traces.stats import autocorrelation, trace_stats

PINNED = "cf264bc4210350ff7c718d4a476c6f6d18a2e10dd1dae41158620a1f5e0d1a17"
"""SHA-256 over the digests of all listed traces. If it changes, so do the results of all who use the library."""

PUBLISHED_MEAN_BPS = {
    "3g": (0.7e6, 3e6),
    "lte-walking": (15e6, 50e6),
    "lte-driving": (10e6, 40e6),
    "5g-walking": (300e6, 900e6),
    "5g-driving": (80e6, 250e6),
    "wifi": (25e6, 100e6),
    "starlink": (60e6, 180e6),
    "broadband": (80e6, 130e6),
}
"""Ranges that the figures in docs/traces.md give for each kind."""


def test_the_library_is_pinned() -> None:
    digests = "".join(library_trace(name).digest() for name in names())
    assert hashlib.sha256(digests.encode()).hexdigest() == PINNED


@pytest.mark.parametrize("kind", KINDS)
def test_long_traces_are_like_the_kind(kind: str) -> None:
    down, up = synthesise(kind, KINDS[kind], seed=99, duration_s=1800)
    stats = trace_stats(down)
    low, high = PUBLISHED_MEAN_BPS[kind]
    assert low <= stats.mean_bps <= high
    assert up.mean_bps < down.mean_bps
    has_outages = any(state.median_bps == 0 for state in KINDS[kind].states)
    assert (float((down.rates_bps == 0).mean()) > 0) == has_outages
    # An outage is one in both directions.
    assert ((down.rates_bps == 0) == (up.rates_bps == 0)).mean() > 0.999
    assert down.rates_bps.max() <= KINDS[kind].cap_bps and up.rates_bps.max() <= KINDS[kind].up_cap_bps


def test_up_and_down_swing_together() -> None:
    down, up = synthesise("lte-driving", KINDS["lte-driving"], 3, 1800)
    assert np.corrcoef(down.resample(1.0).rates_bps, up.resample(1.0).rates_bps)[0, 1] > 0.5


def test_starlink_changes_every_15_s() -> None:
    levels = np.log(synthesise("starlink", KINDS["starlink"], 5, 3600)[0].resample(0.5).rates_bps + 1e3)
    jumps = np.abs(np.diff(levels))
    # Medians: an obstruction jumps further than a new satellite, but seldom.
    by_phase = sorted(float(np.median(jumps[phase::30])) for phase in range(30))
    assert by_phase[-1] > 2 * by_phase[-4]


def test_rates_are_correlated_over_seconds_not_over_minutes() -> None:
    correlation = autocorrelation(synthesise("lte-walking", KINDS["lte-walking"], 8, 3600)[0].resample(1.0).rates_bps)
    assert correlation[1] > 0.8 and abs(correlation[600:900].mean()) < 0.2


def test_a_longer_trace_begins_with_the_shorter_one() -> None:
    short, long = (synthesise("wifi", KINDS["wifi"], 1, duration_s)[0] for duration_s in (60.0, 120.0))
    assert (long.rates_bps[: len(short.rates_bps)] == short.rates_bps).all()


def test_names() -> None:
    assert len(names()) == 2 * 2 * len(KINDS)
    assert library_trace("3g").digest() == library_trace("3g-1.down").digest() != library_trace("3g-2").digest()
    assert [trace.name for trace in library_pair("starlink-7")] == ["starlink-7.down", "starlink-7.up"]
    with pytest.raises(TraceError, match="is not in the library; its kinds: 3g, lte-walking"):
        library_trace("6g")


def test_loading_by_what_the_user_writes() -> None:
    assert load_trace("20Mbit").rate_at(3.0) == 20e6
    assert load_trace("1.5 Gbit/s").rate_at(3.0) == 1.5e9
    assert load_trace("lte-driving-2.up").name == "lte-driving-2.up"
    assert [trace.name for trace in load_both_ways("3g")] == ["3g-1.down", "3g-1.up"]
    assert [trace.name for trace in load_both_ways("3g.up")] == ["3g-1.up", "3g-1.up"]
    for spec in ("nothing", "missing/file.csv", "x.csv#a"):
        with pytest.raises(TraceError):
            load_trace(spec)
