"""Tile workers as processes that are killed, frozen, and started in the middle: every frame, the same results."""

from __future__ import annotations

import math
import signal
import subprocess
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path

import msgspec
import pytest
import torch
from torch import Tensor

from nodes.summary import Summary
from pipeline.frames.results import Result
from pipeline.frames.sources import open_source
from pipeline.model.spec import load_model, load_plain
from scheduler.events import ReportReceived, decode_line
from tests.data import DATA, needs_data
from tests.nodes.processes import ROOT, Running, anabranch, command, environment, eventually, lines
from tests.nodes.tiny import SPEC, picture_folder, reference

STACKS = "first,second"
BOUND = 1e-5
"""Of a merged map's largest magnitude (docs/tiling.md)."""

FRAMES = 160
SLOW = ("--emulate-speed", "edge=0.02")


def _arguments(pictures: Path, run_dir: Path, tiles: int) -> list[str | Path]:
    return [
        "run", "--source", pictures, "--model", SPEC, "--run-dir", run_dir, "--tiers", "device,edge", "--cut", "input",
        "--tiles", str(tiles), "--tile-stacks", STACKS, *SLOW,
    ]  # fmt: skip


def _results(run_dir: Path, frames: int = FRAMES) -> list[Result]:
    found = [msgspec.json.decode(line, type=Result) for line in (run_dir / "results.jsonl").read_bytes().splitlines()]
    assert [result.frame for result in found] == list(range(frames))
    return found


def _top(logits: Tensor) -> tuple[int, float]:
    """Class and probability of the likeliest."""
    index = int(logits.argmax())
    return index, float(torch.softmax(logits.double(), -1).flatten()[index])


def test_workers_killed_and_frozen_cost_no_frame_and_change_no_result(tmp_path: Path) -> None:
    """In one run, for starting the processes takes longer than all else: both are in a chain when they are hurt."""
    run_dir, pictures = tmp_path / "run", picture_folder(tmp_path / "pictures", FRAMES)
    with Running(_arguments(pictures, run_dir, 3)) as running:
        eventually(lambda: lines(run_dir / "results.jsonl") > 20, "twenty results")
        running.node("tile", "tile-1").send_signal(signal.SIGKILL)
        before = _computed(run_dir)["tile-2"]
        eventually(lambda: _computed(run_dir)["tile-2"] > before + 2, "tiles of the worker that is left")
        running.node("tile", "tile-2").send_signal(signal.SIGSTOP)
        hurt = lines(run_dir / "results.jsonl")
        code, output, errors = running.finish()
    assert code == 0, errors + output
    assert hurt < FRAMES, "frames were left"
    model = load_model(SPEC)
    logits = [reference(model, frame) for frame in range(FRAMES)]
    _check_same(_results(run_dir), [_top(each) for each in logits], [float(each.abs().max()) for each in logits])
    summary = msgspec.json.decode((run_dir / "summary.json").read_bytes(), type=Summary)
    assert summary.epochs == {1: FRAMES}, "the edge node goes on without the workers"


def _check_same(results: list[Result], alone: list[tuple[int, float]], largest: Sequence[float]) -> None:
    """Results against class and probability by one machine; `largest` is the largest magnitude of a frame's logits.

    Maps agree within BOUND of their largest magnitude; from logits x + d to their softmax p, |d ln p| <= 2 max |d|.
    """
    for result, expected, magnitude in zip(results, alone, largest, strict=True):
        index, probability = expected
        assert result.top[0].index == index
        apart = abs(math.log(result.top[0].probability / probability))
        assert apart <= 2 * BOUND * magnitude


# --- a real film

ZOO = "pipeline.model.zoo:mobilenet_v2"
WEIGHTS = DATA / "weights" / "mobilenet_v2_imagenet_rot180.pth"
FILM, FILM_FRAMES = DATA / "video" / "car-detection.mp4", 377


def _film(run_dir: Path, tiles: int) -> list[str | Path]:
    return [
        "run", "--source", FILM, "--model", ZOO, "--weights", WEIGHTS, "--run-dir", run_dir, "--tiers", "device,edge",
        "--cut", "input", "--tiles", str(tiles), "--tile-stacks", "features.4.conv.2,features.11.conv.2",
        "--emulate-speed", "edge=0.05",
    ]  # fmt: skip


def _magnitudes() -> list[float]:
    """Largest logit of each frame of the film."""
    plain = load_plain(ZOO, weights=WEIGHTS)
    plain.module.eval()
    with torch.inference_mode(), closing(open_source(str(FILM), limit=FILM_FRAMES)) as opened:
        return [float(plain.module(plain.preprocess.picture(frame.rgb)).abs().max()) for frame in opened.frames()]


@needs_data
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_film_with_a_worker_killed_one_frozen_and_one_that_joins(tmp_path: Path) -> None:
    done = anabranch(*_film(tmp_path / "alone", 1), limit_s=400)
    assert done.returncode == 0, done.stderr
    run_dir = tmp_path / "run"
    with ExitStack() as stack:
        running = stack.enter_context(Running(_film(run_dir, 3)))
        eventually(lambda: lines(run_dir / "results.jsonl") > 20, "twenty results")
        given = running.node("tile", "tile-1").cmdline()
        running.node("tile", "tile-1").send_signal(signal.SIGKILL)
        scheduler = given[given.index("--scheduler") + 1]
        joins = command("tile", "--name", "tile-7", "--model", ZOO, "--weights", WEIGHTS, "--scheduler", scheduler)
        joined = subprocess.Popen(
            joins, cwd=ROOT, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        stack.callback(joined.communicate)
        stack.callback(joined.kill)
        eventually(lambda: _computed(run_dir)["tile-7"] > 0, "tiles of the worker that joined", 120)
        running.node("tile", "tile-2").send_signal(signal.SIGSTOP)
        code, output, errors = running.finish()
    assert code == 0, errors + output
    alone = [(result.top[0].index, result.top[0].probability) for result in _results(tmp_path / "alone", FILM_FRAMES)]
    _check_same(_results(run_dir, FILM_FRAMES), alone, _magnitudes())
    summary = msgspec.json.decode((run_dir / "summary.json").read_bytes(), type=Summary)
    assert summary.epochs == {1: FILM_FRAMES}
    computed = _computed(run_dir)
    assert all(computed[name] > 0 for name in ("tile-1", "tile-2", "tile-7"))


def _computed(run_dir: Path) -> Counter[str]:
    """Tiles that each node has reported, so far."""
    found = Counter[str]()
    whole, _, _ = (run_dir / "events.jsonl").read_bytes().rpartition(b"\n")
    for line in whole.splitlines()[1:]:
        event = decode_line(line).event
        if isinstance(event, ReportReceived):
            found[event.report.node] = sum(stage.frames for stage in event.report.stages)
    return found
