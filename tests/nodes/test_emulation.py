"""A node that pretends to be another machine: its segments take the time that the machine's profile says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import nodes.emulation
from nodes.cloud import CloudNode
from nodes.emulation import EmulatedSpeed
from nodes.node import NodeSettings
from pipeline.errors import ModelMismatch
from pipeline.model.spec import load_model
from pipeline.plan import Tier
from scheduler.handmade import plan_of
from scheduler.profile import HeldOut, Profile, Timing
from tests.nodes.tiny import NAMES, SPEC


class Clock:
    """Time that passes only where somebody says so."""

    def __init__(self) -> None:
        self.now = 100.0
        self.own_s = 0.0
        self.queued_s = 0.0
        self.too_long_s = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0.0
        self.now += seconds
        if seconds:
            self.queue(self.too_long_s)

    def queue(self, seconds: float) -> None:
        """Be ready, and wait for a processor."""
        self.now += seconds
        self.queued_s += seconds

    def work(self, own_s: float, waited_s: float = 0.0) -> None:
        self.own_s += own_s
        self.now += own_s + waited_s

    def thread_time(self) -> float:
        return self.own_s


@given(st.floats(0.0, 1.0), st.floats(0.0, 1.0), st.integers(1, 4))
def test_a_frame_takes_what_the_profile_says_and_no_less_than_it_takes(
    own_s: float, frame_s: float, frames: int
) -> None:
    clock = Clock()

    def compute(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        clock.sleep(own_s)
        return tensors

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nodes.emulation, "time", clock)
        given_ = {"x": torch.zeros(frames, 1)}
        made = EmulatedSpeed(0.5).around(compute, frame_s)(given_)
    assert made is given_
    assert clock.now - 100.0 == pytest.approx(max(own_s, frames * frame_s), abs=1e-9)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(1.0, 2.0)), min_size=1, max_size=30), st.floats(0.0, 0.5))
def test_parts_of_a_frame_take_the_time_of_a_slower_machine_that_never_sleeps(
    parts: list[tuple[str, float]], too_long_s: float
) -> None:
    """However cold they find the caches, and however late they wake."""
    clock = Clock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nodes.emulation, "time", clock)
        speed = EmulatedSpeed(0.25)
        for key in "abc":
            speed.run(key, lambda: clock.work(1.0))
        begin_s, clock.too_long_s = clock.now, too_long_s
        for key, own_s in parts:
            speed.run(key, lambda own_s=own_s: clock.work(own_s, waited_s=0.1))  # type: ignore[misc]
    assert clock.now - begin_s == pytest.approx(4.0 * len(parts) + too_long_s, abs=1e-6)


@given(st.lists(st.floats(0.0, 0.5), min_size=1, max_size=30), st.floats(0.0, 0.5))
def test_waiting_for_a_processor_before_a_part_costs_the_emulated_machine_nothing(
    waits_s: list[float], too_long_s: float
) -> None:
    """And what a sleep was too long, which is such a wait as well, is not taken off twice."""
    clock, told_s = Clock(), 0.0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nodes.emulation, "time", clock)
        patch.setattr(nodes.emulation, "_queued_s", lambda: clock.queued_s)
        speed = EmulatedSpeed(0.25)
        speed.run("part", lambda: clock.work(1.0))
        begin_s, clock.too_long_s = clock.now, too_long_s
        for number, wait_s in enumerate(waits_s):
            clock.queue(wait_s)
            late_s = speed.catch_up()
            assert late_s == pytest.approx(wait_s, abs=1e-9)
            part_s = clock.now
            speed.run("part", lambda: clock.work(1.0))
            told_s += late_s + clock.now - part_s
            assert number or told_s == pytest.approx(4.0 + too_long_s, abs=1e-9)
    assert clock.now - begin_s == pytest.approx(4.0 * len(waits_s) + too_long_s, abs=1e-6)
    assert told_s == pytest.approx(clock.now - begin_s, abs=1e-6), "and it is part of what was computed in"


def test_a_real_machine_catches_up_with_nothing() -> None:
    assert EmulatedSpeed().catch_up() == 0.0


def test_a_node_takes_the_time_of_its_part_of_the_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model(SPEC)
    graph = model.captured.graph
    times = tuple(10.0 * (block.index + 1) for block in graph.blocks)
    profile = Profile(graph.fingerprint, graph.name, "slow", Timing(times), HeldOut(0, 0.0, 0.0))
    profile.save(tmp_path / "slow.json")
    node = CloudNode(NodeSettings(NAMES[Tier.CLOUD], emulate_profile=tmp_path / "slow.json"), model)
    try:
        plan = plan_of(graph, "camera", {tier: NAMES[tier] for tier in (Tier.DEVICE, Tier.CLOUD)}, "first")
        program = node.build(plan)
        assert program is not None
        clock = Clock()
        monkeypatch.setattr(nodes.emulation, "time", clock)
        program.compute({spec.name: torch.zeros(spec.shape) for spec in program.inputs})
    finally:
        node.stop()
    first = graph.cut(plan.stages[0].until)
    behind = [seconds for block, seconds in zip(graph.blocks, times, strict=True) if not first.mask >> block.index & 1]
    assert 0 < len(behind) < len(times)
    assert clock.now - 100.0 == pytest.approx(sum(behind))


def test_another_networks_profile_is_refused(tmp_path: Path) -> None:
    timing = Timing((1.0,))
    Profile("f00d" * 16, "other", "slow", timing, HeldOut(0, 0.0, 0.0)).save(tmp_path / "slow.json")
    with pytest.raises(ModelMismatch, match="profile"):
        CloudNode(NodeSettings("cloud-1", emulate_profile=tmp_path / "slow.json"), load_model(SPEC))
