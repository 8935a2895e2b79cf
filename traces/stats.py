"""What a trace is like, in a few figures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from traces.trace import FloatArray, Trace

WINDOW_S = 1.0
"""Rates are averaged over this time before anything is counted: a mahimahi file is a row of single packets, whose
instant rate says nothing."""
OUTAGE_BPS = 64e3
"""Below this mean over a window, a link is called down."""


@dataclass(frozen=True)
class TraceStats:
    """Figures of one trace, over windows of one second (or the whole trace, where it is shorter)."""

    duration_s: float
    mean_bps: float
    p5_bps: float
    p50_bps: float
    p95_bps: float
    cv: float
    """Standard deviation of the windows' rates over their mean; 0 where the mean is 0."""
    outage_share: float
    """Share of time in windows below `OUTAGE_BPS`."""
    longest_outage_s: float
    correlation_s: float
    """First lag at which the autocorrelation of the windows' rates falls below 1/e; 0 for a constant rate."""


def trace_stats(trace: Trace, window_s: float = WINDOW_S) -> TraceStats:
    """The figures of a trace."""
    window_s = min(window_s, trace.duration_s)
    whole = int(trace.duration_s / window_s + 1e-9)
    rates = trace.slice(0.0, whole * window_s).resample(window_s).rates_bps
    down = rates < OUTAGE_BPS
    p5, p50, p95 = (float(value) for value in np.percentile(rates, [5, 50, 95]))
    mean = float(rates.mean())
    return TraceStats(
        duration_s=trace.duration_s,
        mean_bps=trace.mean_bps,
        p5_bps=p5,
        p50_bps=p50,
        p95_bps=p95,
        cv=float(rates.std() / mean) if mean > 0 else 0.0,
        outage_share=float(down.mean()),
        longest_outage_s=_longest_run(down) * window_s,
        correlation_s=_correlation_windows(rates) * window_s,
    )


def autocorrelation(rates: FloatArray) -> FloatArray:
    """(n,) autocorrelation at lags 0..n-1 of a series, by FFT; zeros for a constant series."""
    centred = rates - rates.mean()
    if float(np.abs(centred).max(initial=0.0)) <= 1e-12 * max(1.0, float(np.abs(rates).max(initial=0.0))):
        return np.zeros(len(rates))
    spectrum = np.abs(np.fft.rfft(centred, 2 * len(rates))) ** 2
    correlation = np.fft.irfft(spectrum)[: len(rates)]
    return np.asarray(correlation / correlation[0], dtype=np.float64)


def _correlation_windows(rates: FloatArray) -> float:
    below = np.flatnonzero(autocorrelation(rates) < np.exp(-1))
    return float(below[0]) if len(below) else float(len(rates))


def _longest_run(flags: np.typing.NDArray[np.bool_]) -> int:
    longest = current = 0
    for flag in flags.tolist():
        current = current + 1 if flag else 0
        longest = max(longest, current)
    return longest
