"""The model behind the project's own traces: a semi-Markov chain of states with correlated fading in each.

    rate(t) = 0                                                         in an outage
    rate(t) = min(cap, median[state(t)] * exp(slow(t) + fast(t) + slot(t)))   otherwise

- `state(t)`: the situation of the link (near the mast, at the cell's edge, handover, outage). It stays in a state
  for an exponential time, then draws the next by weight: the usual two-level picture of a mobile channel.
- `slow(t)` (shadowing by buildings and crowds) and `fast(t)` (scheduling, multipath left over after link adaptation)
  are first-order Gauss-Markov processes in the logarithm of the rate, each with its standard deviation and its
  correlation time: Gudmundson's model of shadowing, moved from the signal's dB to the rate.
- `slot(t)`: a level drawn anew every so often, for links that are re-scheduled on a grid (Starlink: every 15 s, with
  a short dip at each hand-over).
- The uplink goes through the same states at the same times; its slow fading is partly the downlink's.

Every draw comes from the raw bits of PCG64 and the standard library's normal quantile, both of which are fixed, so a
seed gives the same trace with every version of NumPy.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from traces.trace import Trace

STEP_S = 0.1
GRAIN_BPS = 1000.0
"""Rates are rounded to this, so that the last bits of a processor's exp() never show."""


@dataclass(frozen=True)
class State:
    """One situation that a link is in."""

    median_bps: float
    """Median downlink rate; 0 is an outage."""
    up_median_bps: float
    dwell_s: float
    """Mean time in the state."""
    weight: float = 1.0
    """How often it is entered, relative to the others."""


@dataclass(frozen=True)
class Fading:
    """A Gauss-Markov process in the logarithm of the rate."""

    sigma: float
    """Standard deviation, natural logarithm."""
    correlation_s: float


@dataclass(frozen=True)
class Slots:
    """A level drawn anew on a fixed grid of times."""

    period_s: float
    sigma: float
    dip_s: float
    """How long the rate is low after each change."""
    dip_factor: float


@dataclass(frozen=True)
class Kind:
    """One kind of link."""

    about: str
    states: tuple[State, ...]
    slow: Fading
    fast: Fading
    cap_bps: float
    """Ceiling of the downlink: the technology's or the contract's."""
    up_cap_bps: float
    slots: Slots | None = None
    duration_s: float = 240.0
    up_shared: float = 0.7
    """Correlation of the uplink's slow fading with the downlink's."""


class Draws:
    """Uniform and normal draws that are the same with every version of NumPy."""

    def __init__(self, *key: str) -> None:
        digest = hashlib.sha256("/".join(key).encode()).digest()
        self._bits = np.random.PCG64(int.from_bytes(digest[:8], "little"))
        self._normal = NormalDist()

    def uniform(self) -> float:
        """Strictly between 0 and 1."""
        return ((int(self._bits.random_raw()) >> 11) + 0.5) * 2.0**-53

    def normal(self) -> float:
        """Standard normal, by inversion."""
        return self._normal.inv_cdf(self.uniform())

    def exponential(self, mean: float) -> float:
        """Exponential with a mean."""
        return -mean * math.log(self.uniform())


def synthesise(name: str, kind: Kind, seed: int, duration_s: float | None = None) -> tuple[Trace, Trace]:
    """A pair of traces, downlink and uplink, of one kind.

    The same name, seed and parameters always give the same pair; a longer one begins with the shorter one.
    """
    steps = max(1, round((duration_s or kind.duration_s) / STEP_S))
    states = _state_sequence(kind, steps, Draws(name, str(seed), "states"))
    shadow = _gauss_markov(kind.slow, steps, Draws(name, str(seed), "slow"))
    own = _gauss_markov(kind.slow, steps, Draws(name, str(seed), "slow-up"))
    rest = math.sqrt(1 - kind.up_shared**2)
    up_shadow = [kind.up_shared * shared + rest * alone for shared, alone in zip(shadow, own, strict=True)]
    levels = _slot_levels(kind.slots, steps, Draws(name, str(seed), "slots"))
    traces = []
    for direction, slow in (("down", shadow), ("up", up_shadow)):
        fast = _gauss_markov(kind.fast, steps, Draws(name, str(seed), f"fast-{direction}"))
        logarithms = [sum(parts) for parts in zip(slow, fast, levels, strict=True)]
        medians = [state.median_bps if direction == "down" else state.up_median_bps for state in states]
        cap = kind.cap_bps if direction == "down" else kind.up_cap_bps
        traces.append(_trace(f"{name}-{seed}.{direction}", medians, logarithms, cap))
    return traces[0], traces[1]


def _trace(name: str, medians: list[float], logarithms: list[float], cap_bps: float) -> Trace:
    rates = [min(cap_bps, median * math.exp(log)) for median, log in zip(medians, logarithms, strict=True)]
    rounded = np.round(np.array(rates) / GRAIN_BPS) * GRAIN_BPS
    starts = np.arange(len(rates)) / round(1 / STEP_S)
    return Trace(starts, rounded, len(rates) / round(1 / STEP_S), name)


def _state_sequence(kind: Kind, steps: int, draws: Draws) -> list[State]:
    sequence: list[State] = []
    current = kind.states[0]
    while len(sequence) < steps:
        stay = max(1, round(draws.exponential(current.dwell_s) / STEP_S))
        sequence += [current] * stay
        current = _next_state(kind.states, current, draws)
    return sequence[:steps]


def _next_state(states: tuple[State, ...], current: State, draws: Draws) -> State:
    others = [state for state in states if state is not current]
    left = draws.uniform() * sum(state.weight for state in others)
    for state in others:
        left -= state.weight
        if left <= 0:
            return state
    return current


def _gauss_markov(fading: Fading, steps: int, draws: Draws) -> list[float]:
    keep = math.exp(-STEP_S / fading.correlation_s)
    spread = fading.sigma * math.sqrt(1 - keep * keep)
    value = fading.sigma * draws.normal()
    series = []
    for _ in range(steps):
        series.append(value)
        value = keep * value + spread * draws.normal()
    return series


def _slot_levels(slots: Slots | None, steps: int, draws: Draws) -> list[float]:
    if slots is None:
        return [0.0] * steps
    length, dip = round(slots.period_s / STEP_S), round(slots.dip_s / STEP_S)
    offset = int(draws.uniform() * length)
    levels = []
    level = slots.sigma * draws.normal()
    for index in range(offset, offset + steps):
        if index % length == 0:
            level = slots.sigma * draws.normal()
        levels.append(level + (math.log(slots.dip_factor) if index % length < dip else 0.0))
    return levels
