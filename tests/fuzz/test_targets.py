"""The fuzz targets on hypothesis' inputs, on honest ones with damage, and on what once failed."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import TARGETS, Target, corpus

FAILURES = [(name, path) for name in TARGETS for path in corpus(name)]


@functools.cache
def target(name: str) -> Target:
    return TARGETS[name]()


@pytest.mark.parametrize("name", TARGETS)
def test_honest_inputs_pass(name: str) -> None:
    assert target(name).seeds
    for seed in target(name).seeds:
        target(name).run(seed)


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_damaged_inputs_are_refused_or_harmless(name: str, data: st.DataObject) -> None:
    damaged = bytearray(data.draw(st.sampled_from(target(name).seeds)))
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.integers(0, len(damaged) - 1))
        how = data.draw(st.sampled_from(("set", "cut", "double", "insert")))
        if how == "set":
            damaged[place] = data.draw(st.sampled_from((0x00, 0x01, 0x7F, 0x80, 0xCF, 0xD9, 0xDF, 0xFF)))
        elif how == "cut":
            del damaged[place : place + 8]
        elif how == "double":
            damaged[place:place] = damaged[place : place + 8]
        else:
            damaged[place:place] = data.draw(st.binary(min_size=1, max_size=9))
        if not damaged:
            break
    target(name).run(bytes(damaged))


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=30, deadline=None)
@given(data=st.binary(max_size=300))
def test_any_bytes_are_refused_or_harmless(name: str, data: bytes) -> None:
    target(name).run(data)


@pytest.mark.parametrize(("name", "path"), FAILURES, ids=[f"{name}/{path.name}" for name, path in FAILURES])
def test_past_failures_stay_mended(name: str, path: Path) -> None:
    target(name).run(path.read_bytes())
