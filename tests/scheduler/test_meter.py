"""What a node tells of its stages stays small, however long it runs and however often its streams are planned anew."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipeline.frames.wire import Hop
from scheduler.meter import EPOCHS_KEPT, StageMeter
from scheduler.reports import MAX_STAGES

FRAMES = st.lists(st.tuples(st.sampled_from(["front", "back"]), st.integers(0, 12)), min_size=1, max_size=80)


@given(FRAMES)
def test_the_plans_of_each_stream_that_were_computed_last_are_told_of(frames: list[tuple[str, int]]) -> None:
    meter = StageMeter()
    for number, (stream, epoch) in enumerate(frames):
        meter.add(stream, epoch, Hop("edge-1", compute_s=0.01), float(number))
    told = meter.reports()
    for stream in ("front", "back"):
        latest = list(dict.fromkeys(epoch for each, epoch in reversed(frames) if each == stream))
        assert {each.epoch for each in told if each.stream == stream} == set(latest[:EPOCHS_KEPT])


def test_there_is_a_bound_over_all_streams() -> None:
    meter = StageMeter()
    for number in range(2 * MAX_STAGES):
        meter.add(f"camera-{number}", 1, Hop("edge-1", compute_s=0.01), float(number))
    assert {each.stream for each in meter.reports()} == {f"camera-{n}" for n in range(MAX_STAGES, 2 * MAX_STAGES)}
