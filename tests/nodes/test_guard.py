"""The accuracy guard: counts what differs, keeps to its budget, and says so once."""

from __future__ import annotations

import torch
from torch import Tensor

from nodes.admission import Outcome
from nodes.guard import MIN_FRAMES, Guard, is_lossy
from pipeline.frames.wire import FrameHeader
from pipeline.model.spec import load_model
from pipeline.plan import Link, Plan, Stage, Tier
from tests.nodes.processes import eventually
from tests.nodes.tiny import SPEC, waiting


def _plan(codec: str) -> Plan:
    stages = (Stage(Tier.DEVICE, "d", "input"), Stage(Tier.CLOUD, "c", "output"))
    return Plan(1, "camera", "m", stages, (Link(codec),))


def _outcome(number: int, scores: Tensor) -> Outcome:
    header = FrameHeader("camera", "m", 1, number, 0, 2, 0, ())
    return Outcome(waiting(number, MODEL), header, {"out": scores}, 0.01)


MODEL = load_model(SPEC)
RIGHT, WRONG = torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.0]])


def test_disagreement_is_counted_and_told_once() -> None:
    said: list[str] = []
    guard = Guard(lambda inputs: {"out": RIGHT}, "out", 0.01, said.append, budget=1.0)
    for number in range(2 * MIN_FRAMES):
        eventually(lambda: not len(guard._due), "room for the next frame")
        guard.saw(_outcome(number, WRONG if number % 2 else RIGHT), _plan("fp16"))
    guard.close()
    counts = guard.counts
    assert counts.guarded + counts.skipped == 2 * MIN_FRAMES
    assert counts.guarded > MIN_FRAMES and counts.disagreed > 0
    assert len(said) == 1 and "differ from full precision" in said[0]


def test_one_frame_in_a_hundred_by_default_and_none_of_exact_plans() -> None:
    guard = Guard(lambda inputs: {"out": RIGHT}, "out", 0.01, lambda words: None)
    for number in range(300):
        guard.saw(_outcome(number, RIGHT), _plan("fp32"))
    assert guard.counts.guarded + guard.counts.skipped == 0
    for number in range(301):
        guard.saw(_outcome(number, RIGHT), _plan("fp16"))
    guard.close()
    assert guard.counts.guarded + guard.counts.skipped == 4
    assert guard.counts.disagreed == 0


def test_which_plans_are_lossy() -> None:
    assert not is_lossy(_plan("fp32")) and is_lossy(_plan("fp16")) and is_lossy(_plan("q4"))
