"""Fitting segment times to measured segments: non-negative least squares on relative errors.

There are about as many blocks as measured segments, so each block's time is drawn towards a guess from its floating-
point operations and bytes, as weakly as the held-out segments allow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from pipeline.errors import ConfigError
from pipeline.model.graph import Cut, ModelGraph
from scheduler.profile import HeldOut, Timing
from scheduler.regression import block_features
from scheduler.tables import Floats, Ints

PULLS = (0.01, 0.03, 0.1, 0.3, 1.0)
"""Weights of the guess that are tried; the one with the least held-out error is taken."""

FOLDS = 5

NEIGHBOURS = 7
"""Visits before and behind one that tell how fast the machine is just then: a third of a second each way."""

POLISH_ROUNDS = 4

QUIET = 0.25
"""The quantile of the machine's slowdowns that counts."""

LONG = 0.05
"""Share of the longest segment's time from which on a segment counts as long."""


@dataclass(frozen=True)
class Sample:
    """One measured segment."""

    start: Cut
    end: Cut
    seconds: float


def fit(graph: ModelGraph, samples: Sequence[Sample]) -> tuple[Timing, HeldOut]:
    """Fit the model of segment times, and tell how it does on segments that it has not seen.

    Args:
        graph: the network.
        samples: measured segments, in random order (every fifth is held out in turn).

    Returns:
        The fit to all samples, and the error of fits to four fifths of them on the rest.

    Raises:
        ConfigError: no segment, or one without a time.
    """
    if not samples or any(sample.seconds <= 0 for sample in samples):
        raise ConfigError(f"profile of {graph.name}", f"{len(samples)} segments, not all with a time", "measure again")
    design = np.array([_row(graph, sample) for sample in samples])
    seconds = np.array([sample.seconds for sample in samples])
    guess = _guess(graph, design, seconds)
    errors = {pull: _held_out(design, seconds, guess, pull) for pull in PULLS}
    pull = min(PULLS, key=lambda each: float(np.mean(errors[each])))
    found = _solve(design, seconds, guess, pull)
    count = len(graph.blocks)
    timing = Timing(tuple(float(s) for s in found[:count]), *(float(s) for s in found[count:] / _SCALES))
    error = errors[pull]
    long = float(np.quantile(error[seconds >= LONG * seconds.max()], 0.95))
    return timing, HeldOut(len(samples), float(np.median(error)), float(np.quantile(error, 0.95)), long)


def steady(segments: Ints, seconds: Floats) -> Floats:
    """Typical seconds of each segment, out of visits in the order of time, on a machine whose speed wanders.

    A visit is taken for its segment's seconds times the machine's slowdown at that moment, which its neighbours in
    time share. Both are found in turn by medians (Tukey's median polish); the slowdown that counts for all segments is
    the `QUIET` quantile of all moments: what others slow down is the load's business, not the profile's.

    Args:
        segments: shape (visits,), which segment was visited; every number up to the largest one occurs.
        seconds: shape (visits,), how long it took.
    """
    visits = [np.flatnonzero(segments == number) for number in range(int(segments.max()) + 1)]
    slowdown = np.ones(len(seconds))
    for _ in range(POLISH_ROUNDS):
        typical = np.array([np.median(seconds[each] / slowdown[each]) for each in visits])
        slowdown = _running_median(seconds / typical[segments])
    return np.asarray(typical * np.quantile(slowdown, QUIET))


def _running_median(values: Floats) -> Floats:
    padded = np.pad(values, NEIGHBOURS, mode="reflect" if len(values) > NEIGHBOURS else "edge")
    return np.asarray(np.median(np.lib.stride_tricks.sliding_window_view(padded, 2 * NEIGHBOURS + 1), axis=1))


_SCALES = np.array([1.0, 1e9, 1e9])
"""Columns of the design are per segment and per gigabyte, so that all unknowns are of the order of seconds."""


def _row(graph: ModelGraph, sample: Sample) -> Floats:
    inside = sample.end.mask & ~sample.start.mask
    blocks = [inside >> index & 1 for index in range(len(graph.blocks))]
    ends = [1.0, graph.cut_bytes(sample.start), graph.cut_bytes(sample.end)]
    return np.array([*blocks, *(np.array(ends) / _SCALES)], dtype=np.float64)


def _guess(graph: ModelGraph, design: Floats, seconds: Floats) -> Floats:
    """Block times from their features by kind, and end costs, fitted to the segments."""
    features = block_features(graph)
    count = len(graph.blocks)
    coarse = np.hstack([design[:, :count] @ features, design[:, count:]])
    found, _ = nnls(coarse / seconds[:, None], np.ones(len(seconds)))
    return np.concatenate([features @ found[: features.shape[1]], found[features.shape[1] :]])


def _solve(design: Floats, seconds: Floats, guess: Floats, pull: float) -> Floats:
    """Least squares of relative errors, with `pull` times the relative distance from the guess."""
    floor = max(float(np.mean(guess[:-3])) * 0.05, 1e-9)
    pulled = np.maximum(guess, floor)
    pulled[-3:] = np.maximum(guess[-3:], 1e-6)
    weights = pull * np.sqrt(len(seconds) / len(guess)) / pulled
    system = np.vstack([design / seconds[:, None], np.diag(weights)])
    found, _ = nnls(system, np.concatenate([np.ones(len(seconds)), weights * guess]))
    return np.asarray(found, dtype=np.float64)


def _held_out(design: Floats, seconds: Floats, guess: Floats, pull: float) -> Floats:
    """Relative error of each segment, predicted without its fold."""
    error = np.zeros(len(seconds))
    for fold in range(FOLDS):
        out = np.arange(len(seconds)) % FOLDS == fold
        found = _solve(design[~out], seconds[~out], guess, pull)
        error[out] = np.abs(design[out] @ found - seconds[out]) / seconds[out]
    return error
