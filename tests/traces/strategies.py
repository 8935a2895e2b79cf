"""Random traces for the property tests."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from traces.trace import Trace

STEPS_S = st.floats(0.001, 20.0)
RATES_BPS = st.one_of(st.just(0.0), st.floats(1e3, 1e9))


@st.composite
def traces(draw: st.DrawFn, loop: bool | None = None, some_capacity: bool = False) -> Trace:
    """A trace of up to 12 steps, with outages."""
    steps = draw(st.lists(STEPS_S, min_size=1, max_size=12))
    rates = draw(st.lists(RATES_BPS, min_size=len(steps), max_size=len(steps)))
    if some_capacity and not any(rates):
        rates[draw(st.integers(0, len(rates) - 1))] = 1e6
    edges = np.concatenate([[0.0], np.cumsum(steps)])
    looping = draw(st.booleans()) if loop is None else loop
    return Trace(edges[:-1], np.array(rates), float(edges[-1]), "random", looping)


@st.composite
def millisecond_traces(draw: st.DrawFn) -> Trace:
    """A trace whose steps are whole milliseconds and whose rates are whole packets: what mahimahi can tell exactly."""
    steps = draw(st.lists(st.integers(1, 50), min_size=1, max_size=8))
    packets = draw(st.lists(st.integers(0, 3), min_size=len(steps), max_size=len(steps)))
    edges = np.concatenate([[0], np.cumsum(steps)])
    rates = np.array(packets) * 12e6
    rates[-1] = 12e6
    return Trace(edges[:-1] / 1000.0, rates, float(edges[-1]) / 1000.0, "random")
