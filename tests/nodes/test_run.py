"""`anabranch run`: real processes, what they leave behind, and what happens when they are hurt."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
from pathlib import Path

import av
import msgspec
import numpy as np
import psutil
import pytest
import zmq

from nodes.local.ports import Ports
from nodes.sockets import SocketFactory
from nodes.summary import Summary
from pipeline.frames.results import Result
from pipeline.model.spec import load_model
from tests.nodes.processes import LIMIT_S, ROOT, Running, anabranch, command, environment, eventually, lines
from tests.nodes.tiny import SPEC, picture_folder, reference

FRAMES = 120
SLOW = ("--emulate-speed", "device=0.05,edge=0.05,cloud=0.05")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pictures for all tests of this module."""
    return picture_folder(tmp_path_factory.mktemp("run") / "pictures", FRAMES)


def _run_arguments(pictures: Path, run_dir: Path, *more: str) -> list[str | Path]:
    return ["run", "--source", pictures, "--model", SPEC, "--run-dir", run_dir, *more]


def _check_results(run_dir: Path, frames: int) -> list[Result]:
    """Every frame once, in order, with the whole network's answer."""
    text = (run_dir / "results.jsonl").read_bytes().splitlines()
    results = [msgspec.json.decode(line, type=Result) for line in text]
    assert [result.frame for result in results] == list(range(frames))
    model = load_model(SPEC)
    for result in results[:: max(1, frames // 20)]:
        scores = reference(model, result.frame).softmax(1).flatten()
        assert result.top[0].index == int(scores.argmax())
        assert result.top[0].probability == pytest.approx(float(scores.max()), abs=1e-5)
    return results


def test_a_run_leaves_a_whole_account(pictures: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    done = anabranch(*_run_arguments(pictures, run_dir, "--json"))
    assert done.returncode == 0, done.stderr
    summary = msgspec.json.decode(done.stdout, type=Summary)
    assert summary.frames_admitted == summary.results == FRAMES
    assert summary.epochs == {1: FRAMES}
    assert [stage.node for stage in summary.stages] == ["device-1", "edge-1", "cloud-1"]
    assert set(summary.link_bytes) == {"device-1 -> edge-1", "edge-1 -> cloud-1"}
    results = _check_results(run_dir, FRAMES)
    assert all([hop.node for hop in result.hops] == ["device-1", "edge-1", "cloud-1"] for result in results)
    (entry,) = json.loads((run_dir / "plan.json").read_bytes())
    assert entry["first_frame"] == 0 and entry["plan"]["epoch"] == 1
    header, *events = (run_dir / "events.jsonl").read_bytes().splitlines()
    assert json.loads(header)["log"] == "anabranch events"
    kinds = {
        json.loads(line).get("instruction", {}).get("record", {}).get("kind") for line in events if b'"log"' in line
    }
    assert {"join", "prepare", "commit", "switched"} <= kinds


def test_keys_change_no_answer(pictures: Path, tmp_path: Path) -> None:
    """Every process of the run has its keys, and a stranger on this machine is turned away meanwhile."""
    runs = {keys: tmp_path / (keys or "none") for keys in ("", "new")}
    done = anabranch(*_run_arguments(pictures, runs[""]))
    assert done.returncode == 0, done.stderr
    stranger = SocketFactory(zmq.Context())
    try:
        with Running(_run_arguments(pictures, runs["new"], "--keys", "new")) as running:
            eventually(lambda: len(running.family()) == 4, "all processes")
            arguments = running.node("edge").cmdline()
            folder = Path(arguments[arguments.index("--keys") + 1])
            plans = arguments[arguments.index("--scheduler") + 1].partition(",")[2]
            with stranger.subscriber(plans, bind=False)[0] as inbox:
                eventually(lambda: stranger.trouble(plans) is not None, "the refusal")
                code, output, errors = running.finish()
                assert not inbox.poll(0)
        assert code == 0, errors + output
    finally:
        stranger.context.term()
    assert not folder.exists()
    without, with_keys = (_check_results(run_dir, FRAMES) for run_dir in runs.values())
    for one, other in zip(without, with_keys, strict=True):
        assert [label.index for label in one.top] == [label.index for label in other.top]
        assert [label.probability for label in other.top] == pytest.approx(
            [label.probability for label in one.top], abs=1e-5
        )


@pytest.mark.parametrize("kind", ["edge", "cloud"])
@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "frozen"])
def test_a_node_that_is_hurt_costs_no_frame(pictures: Path, tmp_path: Path, kind: str, blow: signal.Signals) -> None:
    run_dir = tmp_path / "run"
    with Running(_run_arguments(pictures, run_dir, *SLOW)) as running:
        eventually(lambda: lines(run_dir / "results.jsonl") > 10, "ten results")
        running.node(kind).send_signal(blow)
        code, output, errors = running.finish()
    assert code == 0, errors + output
    results = _check_results(run_dir, FRAMES)
    assert {result.epoch for result in results} > {1}
    summary = msgspec.json.decode((run_dir / "summary.json").read_bytes(), type=Summary)
    assert sum(summary.readmitted.values()) > 0


def test_ctrl_c_stops_everything_and_keeps_the_account(pictures: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    with Running(_run_arguments(pictures, run_dir, *SLOW)) as running:
        eventually(lambda: lines(run_dir / "results.jsonl") > 10, "ten results")
        family = running.family()
        running.process.send_signal(signal.SIGINT)
        code, output, errors = running.finish()
    assert code == 0, errors + output
    _, alive = psutil.wait_procs(family, timeout=30)
    assert not alive
    summary = msgspec.json.decode((run_dir / "summary.json").read_bytes(), type=Summary)
    assert 10 < summary.results == lines(run_dir / "results.jsonl") < FRAMES
    assert "Traceback" not in errors


def test_no_orphan_outlives_a_killed_parent(pictures: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    with Running(_run_arguments(pictures, run_dir, *SLOW)) as running:
        eventually(lambda: lines(run_dir / "results.jsonl") > 2, "two results")
        family = running.family()
        assert len(family) == 4
        running.process.kill()
        _, alive = psutil.wait_procs(family, timeout=30)
        assert not alive, [child.cmdline() for child in alive]


WRONG = {
    "missing video": (["--source", "no-such.mp4"], "no-such.mp4: not found"),
    "unknown cut": (["--cut", "nonsense,second"], "cut 'nonsense'"),
    "unknown codec": (["--codec", "nonsense"], "codec 'nonsense'"),
    "codec that cannot carry the picture": (["--cut", "input,second", "--codec", "q8"], "q8 does not carry uint8"),
    "unknown model": (["--model", "tests.nodes.tiny:nonsense"], "nonsense"),
    "weights that are none": (["--weights", "pyproject.toml"], "not a readable state dict"),
    "run folder on a file": (["--run-dir", "pyproject.toml/run"], "run folder"),
    "tiers out of order": (["--tiers", "cloud,device"], "--tiers"),
    "speed above one": (["--emulate-speed", "device=2"], "--emulate-speed"),
}


@pytest.mark.parametrize("case", WRONG, ids=list(WRONG))
def test_wrong_input_gets_one_line_that_names_it(case: str, pictures: Path, tmp_path: Path) -> None:
    arguments, says = WRONG[case]
    done = anabranch(*_run_arguments(pictures, tmp_path / "run", *arguments))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.strip()]
    assert line.startswith("error: ") and says in line


def test_a_taken_port_is_named() -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        with context.socket(zmq.PULL) as socket:
            port = socket.bind_to_random_port("tcp://127.0.0.1")
            done = anabranch("edge", "--model", SPEC, "--listen", f"tcp://127.0.0.1:{port}")
    finally:
        context.term()
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: address tcp://127.0.0.1:{port}: address already in use")


def test_an_address_beyond_loopback_needs_to_be_wanted() -> None:
    done = anabranch("edge", "--model", SPEC, "--listen", "tcp://0.0.0.0:*")
    assert done.returncode == 1 and "--insecure" in done.stderr


def test_a_film_that_breaks_off_counts_until_there(tmp_path: Path) -> None:
    film = tmp_path / "film.mkv"
    with av.open(str(film), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width = stream.height = 64
        for number in range(200):
            rgb = np.random.default_rng(number).integers(0, 256, (64, 64, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24")))
        container.mux(stream.encode(None))
    whole = film.read_bytes()
    film.write_bytes(whole[: len(whole) // 2])
    done = anabranch("run", "--source", film, "--model", SPEC, "--run-dir", tmp_path / "run")
    assert done.returncode == 1
    assert "film.mkv" in done.stderr and "Traceback" not in done.stderr
    summary = msgspec.json.decode((tmp_path / "run" / "summary.json").read_bytes(), type=Summary)
    assert 60 < summary.results == summary.frames_admitted == lines(tmp_path / "run" / "results.jsonl") < 140
    assert summary.source_error


def test_results_that_cannot_be_written_end_the_run_with_one_line(pictures: Path, tmp_path: Path) -> None:
    arguments = command(*_run_arguments(pictures, tmp_path / "run"))
    # A file size limit stands in for a full disk: the same write fails in the same place.
    limited = ["bash", "-c", 'ulimit -f 16; exec "$@"', "bash", *arguments]
    done = subprocess.run(
        limited, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert done.returncode == 1, done.stdout
    assert "results.jsonl" in done.stderr and "Traceback" not in done.stderr


def test_one_file_describes_a_deployment(pictures: Path, tmp_path: Path) -> None:
    reserved = Ports()
    ports = [reserved.reserve() for _ in range(2)]
    config = tmp_path / "anabranch.toml"
    config.write_text(
        f"""
        model = "{SPEC}"
        [scheduler]
        reports = "tcp://127.0.0.1:{ports[0]}"
        plans = "tcp://127.0.0.1:{ports[1]}"
        [[node]]
        name = "camera"
        tier = "device"
        source = "{pictures}"
        admit = "every"
        [[node]]
        name = "shed"
        tier = "edge"
        [[node]]
        name = "attic"
        tier = "cloud"
        """
    )
    with reserved, contextlib.ExitStack() as stack:
        for arguments in (["scheduler"], ["edge", "--name", "shed"], ["cloud", "--name", "attic"]):
            stack.enter_context(Running([*arguments, "--config", config]))
        run_dir = tmp_path / "run"
        done = anabranch(
            "device", "--name", "camera", "--config", config, "--run-dir", run_dir,
            "--first-plan-timeout", "60", "--needs-plan",
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    results = _check_results(run_dir, FRAMES)
    assert [hop.node for hop in results[0].hops] == ["camera", "shed", "attic"]
