"""A simulated node's compute: a frame that is computed in pieces is in no other's way."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.frames.envelope import Envelope
from pipeline.plan import Tier, device_only
from scheduler.simulate.agenda import Agenda
from scheduler.simulate.device import SimulatedDevice
from scheduler.simulate.node import Job, SimulatedNode
from scheduler.simulate.routes import HopWork, Route

PIECES = 4
PIECE_S = 0.25
FRAME_S = 0.01


class Bench:
    """A node, and when it is done with which frame."""

    def __init__(self) -> None:
        self.agenda = Agenda()
        self.done: dict[int, float] = {}
        self.unwanted: set[int] = set()
        self.node = SimulatedNode("device-1", Tier.DEVICE, self.agenda, self._forward, (0.0, 0))
        self.node.on_room = self._submit_next
        self._waiting: list[Job] = []

    def frame(self, number: int, compute_s: float, pieces_s: tuple[float, ...] = ()) -> None:
        """A frame comes now."""
        ledger = SimpleNamespace(expects=lambda frame, attempt: frame not in self.unwanted)
        route = Route(
            device_only("stream-1", "device-1", "model", 1),
            (HopWork("device-1", 0.0, compute_s, 0.0, 0, Envelope(0, 0)),),
            0.0,
            0,
        )
        device = cast(SimulatedDevice, SimpleNamespace(ledger=ledger))
        job = Job(device, number, 0, route, received_s=self.agenda.now, pieces_s=pieces_s)
        self._waiting.append(job)
        self._submit_next()

    def _submit_next(self) -> None:
        if self._waiting and self.node.has_room:
            self.node.submit(self._waiting.pop(0))

    def _forward(self, node: SimulatedNode, job: Job) -> None:
        self.done[job.frame] = self.agenda.now


@settings(deadline=None, max_examples=100)
@given(st.lists(st.floats(0.0, 1.5), max_size=6, unique=True))
def test_frames_wait_for_one_piece_at_most_and_none_is_left_behind(at_s: list[float]) -> None:
    bench = Bench()
    bench.agenda.at(0.0, bench.frame, 0, PIECES * PIECE_S, (PIECE_S,) * PIECES)
    for number, begin_s in enumerate(sorted(at_s), start=1):
        bench.agenda.at(begin_s, bench.frame, number, FRAME_S)
    bench.agenda.run(100.0)
    assert sorted(bench.done) == list(range(len(at_s) + 1))
    for number, begin_s in enumerate(sorted(at_s), start=1):
        before = sum(1 for other_s in at_s if other_s < begin_s)
        assert bench.done[number] - begin_s <= (before + 1) * (PIECE_S + FRAME_S) + 1e-9
    assert bench.done[0] <= PIECES * PIECE_S + len(at_s) * FRAME_S + 1e-9, "a piece goes between any two frames"


def test_what_is_wanted_no_more_is_not_computed_to_its_end() -> None:
    bench = Bench()
    bench.agenda.at(0.0, bench.frame, 0, PIECES * PIECE_S, (PIECE_S,) * PIECES)
    bench.agenda.at(0.6, bench.unwanted.add, 0)
    bench.agenda.at(0.6, bench.frame, 1, FRAME_S)
    bench.agenda.run(100.0)
    assert set(bench.done) == {1}
    assert math.isclose(bench.done[1], 3 * PIECE_S + FRAME_S)


def test_without_pieces_a_frame_is_computed_in_one_go() -> None:
    bench = Bench()
    bench.agenda.at(0.0, bench.frame, 0, 1.0)
    bench.agenda.at(0.1, bench.frame, 1, FRAME_S)
    bench.agenda.run(100.0)
    assert bench.done == pytest.approx({0: 1.0, 1: 1.0 + FRAME_S})
