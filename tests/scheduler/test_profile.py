"""Profiles: the fit to measured segments, the file, and the regression for nodes without one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import ConfigError, ModelMismatch
from pipeline.model.graph import ModelGraph
from scheduler import profile as profiles
from scheduler.fitting import Sample, fit, steady
from scheduler.profile import HeldOut, Profile, Timing
from scheduler.regression import block_features, regress
from scheduler.tables import Floats
from tests.scheduler import worlds

NO_ERROR = HeldOut(1, 0.0, 0.0)


def chain(seed: int = 0, blocks: int = 24) -> ModelGraph:
    """A random network large enough to fit."""
    return worlds.network(np.random.default_rng(seed), blocks)


def profile(graph: ModelGraph, timing: Timing) -> Profile:
    return Profile(graph.fingerprint, graph.name, "camera", timing, NO_ERROR)


def truth(graph: ModelGraph) -> Timing:
    """Block times that operations explain in part only."""
    rng = np.random.default_rng(1)
    seconds = [1e-6 * block.flops * float(rng.uniform(0.5, 2.0)) + 1e-4 for block in graph.blocks]
    return Timing(tuple(seconds), 5e-5, 1e-8, 2e-8)


def samples(graph: ModelGraph, timing: Timing, noise: float, count: int = 200) -> list[Sample]:
    """Segments measured on a node of that timing."""
    rng = np.random.default_rng(2)
    times = profile(graph, timing).bind(graph)
    found: list[Sample] = []
    while len(found) < count:
        a, b = sorted(int(x) for x in rng.integers(0, len(graph.cuts), 2))
        start, end = graph.cuts[a], graph.cuts[b]
        if a < b and start.before(end):
            found.append(Sample(start, end, float(times.segment_s(a, b)) * float(rng.normal(1, noise))))
    return found


def test_fit_predicts_segments_that_it_has_not_seen() -> None:
    graph = chain()
    timing, error = fit(graph, samples(graph, truth(graph), noise=0.02))
    assert error.p95 < 0.1
    predicted, real = profile(graph, timing).bind(graph), profile(graph, truth(graph)).bind(graph)
    for sample in samples(graph, truth(graph), noise=0.0, count=300)[200:]:
        where = sample.start.index, sample.end.index
        assert float(predicted.segment_s(*where)) == pytest.approx(float(real.segment_s(*where)), rel=0.1)


def test_fit_needs_times() -> None:
    graph = chain()
    with pytest.raises(ConfigError, match="0 segments"):
        fit(graph, [])
    with pytest.raises(ConfigError, match="not all with a time"):
        fit(graph, [Sample(graph.cuts[0], graph.cuts[-1], 0.0)])


def test_segment_times_are_sums_over_the_blocks_between() -> None:
    graph = chain(3, 8)
    timing = truth(graph)
    times = profile(graph, timing).bind(graph)
    for start in graph.cuts:
        for end in graph.cuts:
            if start.before(end) and start is not end:
                blocks = sum(timing.block_s[block.index] for block in graph.between(start, end))
                ends = 1e-8 * graph.cut_bytes(start) + 2e-8 * graph.cut_bytes(end) + 5e-5
                assert float(times.segment_s(start.index, end.index)) == pytest.approx(blocks + ends)
    assert float(times.segment_s(3, 3)) == 0.0


def test_memory_grows_with_the_prefix_and_holds_all_weights_in_the_end() -> None:
    graph = chain(4, 10)
    memory = profile(graph, truth(graph)).bind(graph).memory_bytes
    for start in graph.cuts:
        for end in graph.cuts:
            if start.before(end):
                assert memory[start.index] <= memory[end.index]
    assert memory[-1] >= graph.weight_bytes


def test_file_round_trip_and_refusals(tmp_path: Path) -> None:
    graph, path = chain(5, 6), tmp_path / "camera.json"
    saved = profile(graph, truth(graph))
    saved.save(path)
    assert profiles.load(path, graph) == saved
    with pytest.raises(ModelMismatch, match="made for model"):
        profiles.load(path, chain(6, 6))
    path.write_text(path.read_text().replace('"version":1', '"version":2'))
    with pytest.raises(ConfigError, match="version 2, not 1"):
        profiles.load(path)
    path.write_text("{")
    with pytest.raises(ConfigError, match="make it with"):
        profiles.load(path)


def test_packing_times_scale_with_the_machine() -> None:
    graph = chain(7, 4)
    fast, slow = (
        Profile(graph.fingerprint, graph.name, node, truth(graph), NO_ERROR, packing_s_per_byte=speed)
        for node, speed in (("calibrator", 1e-10), ("camera", 5e-10))
    )
    assert slow.bind(graph, fast).packing_scale == pytest.approx(5.0)
    assert slow.bind(graph).packing_scale == 1.0


def test_regression_predicts_a_network_of_the_same_layers() -> None:
    coefficients = np.zeros(18)
    coefficients[0:3] = 20.0, 1000.0, 2.0
    graphs = [chain(seed, 20) for seed in (1, 2, 3, 4)]
    known = [(g, profile(g, Timing(tuple(float(s) for s in block_features(g) @ coefficients)))) for g in graphs]
    found = regress(known[:3])
    assert found.error.p95 < 0.05
    graph, real = known[3]
    predicted = found.predict(graph, "new", speed=2.0)
    assert sum(predicted.timing.block_s) == pytest.approx(sum(real.timing.block_s) / 2, rel=0.05)
    assert predicted.segments == 0
    predicted.check(graph)


def test_regression_needs_a_profile() -> None:
    with pytest.raises(ConfigError, match="no profile to learn from"):
        regress([])


def test_steady_takes_the_machine_s_wandering_speed_out() -> None:
    """Slowdowns that last for many visits fall on some segments only; relative to each other they come out right."""
    rng = np.random.default_rng(3)
    truth_s = 10.0 ** rng.uniform(-4, -2, 60)
    segments = np.concatenate([rng.permutation(60) for _ in range(5)])
    slowdown = 1.0 + 0.6 * (np.sin(np.arange(300) / 25.0) > 0.2)
    seconds = truth_s[segments] * slowdown * rng.normal(1.0, 0.02, 300)
    by_itself = np.array([np.median(seconds[segments == number]) for number in range(60)])

    def spread(found: Floats) -> float:
        ratio = found / truth_s
        return float(np.quantile(ratio, 0.95) / np.quantile(ratio, 0.05))

    assert spread(steady(segments, seconds)) < 1.1
    assert spread(by_itself) > 1.4
    assert float(np.median(steady(segments, seconds) / truth_s)) == pytest.approx(1.0, rel=0.05)
