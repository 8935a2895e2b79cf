"""`anabranch plan`, from its options to what it prints."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
import typer
from typer.testing import CliRunner

from nodes.commands.plan import plan
from nodes.planning import parse_link, parse_sweep
from pipeline.errors import ConfigError
from pipeline.plan import Plan
from scheduler.problem import DEVICE_EDGE

app = typer.Typer()
app.command()(plan)


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_table_drawing_and_flips() -> None:
    text = run("--objective", "latency", "--power", "4,1")
    for words in ("0.64 GFLOP", "predicted, ms per frame", "bottleneck", "runners-up", "the choice flips", "mJ"):
        assert words in text


def test_json_has_all_of_it_and_the_plan_file_runs_as_fixed(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    found = json.loads(run("--json", "--out", str(path)))
    assert {"plan", "cost", "runners_up", "active_bounds", "flips", "considered", "violated"} <= found.keys()
    assert msgspec.json.decode(path.read_bytes(), type=Plan) == msgspec.convert(found["plan"], Plan)
    again = json.loads(run("--json", "--planner", "fixed", "--fixed", str(path)))
    assert again["cost"]["latency_s"] == found["cost"]["latency_s"]


def test_bounds_that_cannot_be_met_are_named_and_the_nearest_plan_given() -> None:
    found = json.loads(run("--json", "--max-latency", "100us", "--objective", "latency"))
    assert found["violated"] == "max_latency_s"
    least = json.loads(run("--json", "--objective", "latency"))
    assert found["plan"]["stages"] == least["plan"]["stages"]
    assert "no plan keeps the bound max_latency_s" in run("--max-latency", "100us")


def test_privacy() -> None:
    """On a device so slow that the picture would go at once, the first blocks stay all the same."""
    slow = ("--json", "--node", "device=1G", "--node", "edge=200G", "--node", "cloud=2T")
    assert json.loads(run(*slow))["plan"]["stages"][0]["until"] == "input"
    kept = json.loads(run(*slow, "--private-until", "stem.3"))
    assert kept["violated"] is None
    assert kept["plan"]["stages"][0]["until"] not in {"input", "stem.0"}
    near = json.loads(run(*slow, "--pictures-stay"))
    cloud = [index for index, stage in enumerate(near["plan"]["stages"]) if stage["tier"] == "cloud"]
    assert all(near["plan"]["stages"][index - 1]["until"] != "input" for index in cloud)


def test_sweep() -> None:
    points = json.loads(run("--sweep", "device-edge=1:200Mbps", "--json"))
    assert points[0]["bps"] == pytest.approx(1e6)
    assert points[-1]["bps"] == pytest.approx(2e8)
    assert points[-1]["cost"]["period_s"] <= points[0]["cost"]["period_s"]
    assert "frames/s" in run("--sweep", "device-edge=1:200Mbps")


def test_options_that_make_no_sense() -> None:
    assert parse_link("device-edge=20Mbit,5ms,0.3")[0] == DEVICE_EDGE
    assert parse_sweep("device-edge=500Kbit:2Mbit")[1:] == (5e5, 2e6)
    for text in ("device=20Mbit", "device-edge", "device-edge=1Mbit,2ms,3,4", "device-edge=1Mbit,2ms,x"):
        with pytest.raises(ConfigError):
            parse_link(text)
    for text in ("device-edge=1Mbit", "up=1:2Mbit", "device-edge=5:2Mbit"):
        with pytest.raises(ConfigError):
            parse_sweep(text)
