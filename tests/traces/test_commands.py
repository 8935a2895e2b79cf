"""`anabranch traces` and `anabranch link`, as a user types them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from nodes.commands.link import link
from nodes.commands.traces import app
from pipeline.errors import ConfigError
from traces.formats import read_trace

runner = CliRunner()
link_app = typer.Typer()
link_app.command()(link)


def test_the_library_is_listed() -> None:
    found = json.loads(runner.invoke(app, ["list", "--json"]).stdout)
    assert len(found) == 32 and {"name", "mean_bps", "p95_bps", "outage_share"} <= found[0].keys()
    assert "lte-walking-2.up" in runner.invoke(app, ["list"]).stdout


def test_a_folder_is_listed_and_what_is_no_trace_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("0 1\n1 2\n")
    (tmp_path / "b.txt").write_text("0 1\n1 two\n")
    result = runner.invoke(app, ["list", str(tmp_path), "--json"])
    assert [row["name"] for row in json.loads(result.stdout)] == ["a.txt"]
    assert "skipped: b.txt, line 2: rate 'two' is not a number" in result.stderr


def test_show_with_named_columns(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("when,what,up\n0,8,1\n1,8,3\n")
    arguments = ["show", str(path), "--time-column", "when", "--rate-column", "up", "--rate-unit", "kbit/s", "--json"]
    (found,) = json.loads(runner.invoke(app, arguments).stdout)
    assert found["mean_bps"] == 2000
    failed = runner.invoke(app, ["show", str(path)])
    assert isinstance(failed.exception, ConfigError) and "log.csv, line 1" in str(failed.exception)


def test_convert_cuts_scales_and_resamples(tmp_path: Path) -> None:
    out = tmp_path / "walk.csv"
    arguments = ["convert", "10Mbit", str(out), "--start", "1s", "--end", "5s", "--scale", "0.5", "--step", "2s"]
    result = runner.invoke(app, arguments)
    assert result.exit_code == 0 and "4.0 s, mean 5 Mbit/s" in result.stdout
    assert read_trace(out).starts_s.tolist() == [0.0, 2.0]


def test_synth_writes_both_directions(tmp_path: Path) -> None:
    for name, files in (("x.csv", ("x-down.csv", "x-up.csv")), ("y", ("y.down", "y.up"))):
        result = runner.invoke(app, ["synth", "3g", str(tmp_path / name), "--seed", "4", "--duration", "20s"])
        assert result.exit_code == 0
        for file in files:
            assert read_trace(tmp_path / file).duration_s == 20
    failed = runner.invoke(app, ["synth", "6g", str(tmp_path / "z")])
    assert "use one of 3g" in str(failed.exception)


def test_plot(tmp_path: Path) -> None:
    out = tmp_path / "plot.png"
    assert runner.invoke(app, ["plot", "wifi", "20Mbit", "-o", str(out)]).exit_code == 0
    assert out.read_bytes().startswith(b"\x89PNG")


def test_link_refuses_what_makes_no_sense() -> None:
    for arguments, condition in (
        (["--trace", "20Mbit", "--to", "nowhere"], "HOST:PORT"),
        (["--trace", "missing", "--to", ":9"], "is no file"),
        (["--trace", "20Mbit", "--to", ":9", "--loss-pause", "200%"], "between 0 and 1"),
        (["--trace", "20Mbit", "--to", ":9", "--queue", "12"], "holds no packet"),
    ):
        failed = runner.invoke(link_app, arguments)
        assert isinstance(failed.exception, ConfigError) and condition in str(failed.exception)


@pytest.mark.parametrize("control", [True, False])
def test_link_runs_until_it_is_told_to_stop(control: bool) -> None:
    code = "import sys, typer; from nodes.commands.link import link; typer.run(link)"
    arguments = ["--trace", "lte-driving", "--delay", "5ms", "--loss-pause", "0.1%:50ms"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with socket.create_server(("127.0.0.1", 0)) as target:
        command = [sys.executable, "-c", code, *arguments, "--to", f":{target.getsockname()[1]}"]
        with subprocess.Popen(command + ["--control"] * control, text=True, **pipes) as process:  # type: ignore[call-overload]
            hello = (process.stderr if control else process.stdout).readline()
            assert "up lte-driving-1.up, down lte-driving-1.down" in hello
            host, _, port = hello.split()[1].rpartition(":")
            with socket.create_connection((host, int(port)), timeout=10), target.accept()[0]:
                if control:
                    answers = process.communicate("stats\nstop\n", timeout=20)[0].splitlines()
                    assert json.loads(answers[0])["connections"] == 1 and json.loads(answers[1])["ok"]
                else:
                    os.kill(process.pid, signal.SIGTERM)
            assert process.wait(20) == 0
