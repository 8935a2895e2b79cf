"""The profiler, on a network small enough to measure in a moment."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nodes.profiler import ProfilerSettings, profile_node
from nodes.working_memory import peak_bytes
from pipeline.model.capture import CapturedModel, capture


def small() -> CapturedModel:
    torch.manual_seed(0)
    layers = [layer for n in range(6) for layer in (nn.Conv2d(3 if n == 0 else 16, 16, 3, padding=1), nn.ReLU())]
    return capture(nn.Sequential(*layers).eval(), torch.rand(1, 3, 64, 64), "small")


def test_profile_of_a_small_network() -> None:
    captured = small()
    told: list[float] = []
    found = profile_node(captured, "here", ProfilerSettings(budget_s=1.0), lambda share, _: told.append(share))
    found.check(captured.graph)
    assert found.segments >= 10
    assert told[-1] == 1.0
    assert told == sorted(told)
    times = found.bind(captured.graph)
    half = len(captured.graph.cuts) // 2
    assert 0 < float(times.segment_s(0, half)) < float(times.segment_s(0, -1 + len(captured.graph.cuts)))
    assert 0 <= found.contention <= 1
    if found.memory_error is not None:  # the kernel tells
        # Input and output of a convolution are alive at once, whatever else is.
        assert found.memory_scale > 0.9


def test_peak_memory_is_that_of_the_run() -> None:
    nbytes = 64 * 2**20
    found = peak_bytes(lambda: bytearray(nbytes))
    if found is None:
        pytest.skip("this kernel does not tell a process its peak memory")
    assert nbytes <= found < 1.2 * nbytes
    again = peak_bytes(lambda: bytearray(nbytes // 8))
    assert again is not None
    assert again < nbytes // 4
