"""Real films through three processes: every frame has one result, equal to the plain network's."""

from __future__ import annotations

from pathlib import Path

import av
import msgspec
import pytest
import torch

from pipeline.frames.results import Result, as_labels, top_k
from pipeline.frames.sources import open_source
from pipeline.model.spec import load_plain
from scheduler.events import LogDecision, decode_line
from tests.data import DATA, needs_data
from tests.nodes.processes import anabranch

SPEC = "pipeline.model.zoo:mobilenet_v2"
WEIGHTS = DATA / "weights" / "mobilenet_v2_imagenet_rot180.pth"
FILMS = {"car-detection": 377, "one-by-one-person-detection": 1394, "solidWhiteRight": 221}


def _check(film: str, frames: int, folder: Path, *more: str) -> None:
    source, annotated = DATA / "video" / f"{film}.mp4", folder / "out.mp4"
    done = anabranch(
        "run", "--source", source, "--model", SPEC, "--weights", WEIGHTS, "--annotate", annotated,
        "--run-dir", folder / "run", *more, limit_s=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = (folder / "run" / "results.jsonl").read_bytes().splitlines()
    results = [msgspec.json.decode(line, type=Result) for line in lines]
    assert [result.frame for result in results] == list(range(frames))
    _compare(source, results)
    with av.open(str(annotated)) as container:
        assert sum(1 for _ in container.decode(video=0)) == frames


def _compare(source: Path, results: list[Result]) -> None:
    """Each result against the plain module on the same decoded frame."""
    plain = load_plain(SPEC, weights=WEIGHTS)
    plain.module.eval()
    opened = open_source(str(source), limit=len(results))
    with torch.inference_mode():
        for frame, result in zip(opened.frames(), results, strict=True):
            (expected, *_) = top_k(plain.module(plain.preprocess.picture(frame.rgb)), as_labels(()))
            assert result.top[0].index == expected.index, frame.number
            assert result.top[0].probability == pytest.approx(expected.probability, rel=1e-4)
    opened.close()


@needs_data
def test_the_first_frames_of_a_film(tmp_path: Path) -> None:
    _check("car-detection", 40, tmp_path, "--frames", "40")


@needs_data
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("film", FILMS)
def test_a_whole_film(film: str, tmp_path: Path) -> None:
    _check(film, FILMS[film], tmp_path)


@needs_data
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_planner_weighs_a_tile_worker_and_commits_a_plan_with_it(tmp_path: Path) -> None:
    """An edge so slow that a frame takes a tenth of a second, and a worker as fast; the way to the edge is shaped."""
    source, frames = DATA / "video" / "car-detection.mp4", 120
    done = anabranch(
        "run", "--source", source, "--frames", str(frames), "--tiers", "device,edge", "--policy", "joint",
        "--objective", "latency", "--tiles", "2", "--emulate-speed", "device=0.02,edge=0.05",
        "--trace", "device-edge=50Mbit", "--run-dir", tmp_path / "run", limit_s=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "run" / "results.jsonl").read_bytes().splitlines()
    assert [msgspec.json.decode(line, type=Result).frame for line in lines] == list(range(frames))
    logged = map(decode_line, (tmp_path / "run" / "events.jsonl").read_bytes().splitlines()[1:])
    records = [line.instruction.record for line in logged if isinstance(line.instruction, LogDecision)]
    plans = [record.plan for record in records if record.kind == "switched" and record.plan is not None]
    assert any(plan.tiles is not None and plan.tiles.workers == ("edge-1", "tile-1") for plan in plans)
