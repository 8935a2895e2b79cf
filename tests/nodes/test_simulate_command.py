"""`anabranch simulate` and `anabranch compare`."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from nodes.commands.compare import compare
from nodes.commands.simulate import simulate
from nodes.report.comparison import comparison_picture
from nodes.report.html import write_comparison, write_report
from nodes.report.plots import bits_of, png, run_picture
from nodes.simulation import SimulationOptions, build_scenario, parse_speed
from pipeline.errors import ConfigError
from pipeline.model.capture import CapturedModel
from pipeline.plan import Tier
from scheduler.profile import Profile
from scheduler.simulate import RunRecord, Scenario
from scheduler.simulate import simulate as run_simulation
from scheduler.simulate.figures import Machine
from tests.scheduler.simulate.nets import scenario

SPEC = "pipeline.model.zoo:resnet20"
TRACES = ("--trace", "device-edge=10Mbit", "--trace", "edge-cloud=50Mbit")

app = typer.Typer()
app.command("simulate")(simulate)
app.command("compare")(compare)


def invoke(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def is_self_contained(page: str) -> bool:
    return not re.search(r"""(src|href)=(?!["']?data:)|@import|url\(""", page) and "data:image/png;base64," in page


def test_simulate_writes_a_report_and_compare_lays_runs_side_by_side(tmp_path: Path) -> None:
    folders = []
    for policy in ("joint", "device-only"):
        folders.append(str(tmp_path / policy))
        arguments = ("--model", SPEC, "--policy", policy, "--seconds", "5", "--out", folders[-1], "--json")
        found = json.loads(invoke("simulate", *TRACES, *arguments))
        assert found["totals"]["results"] == found["totals"]["frames_admitted"] > 0
        assert is_self_contained((tmp_path / policy / "report.html").read_text())
        assert (tmp_path / policy / "report.png").read_bytes().startswith(b"\x89PNG")
    text = invoke("compare", *folders, "--out", str(tmp_path))
    assert "joint" in text
    page = (tmp_path / "compare.html").read_text()
    assert is_self_contained(page)
    assert "device-only" in page


def test_simulate_prints_a_table() -> None:
    text = invoke("simulate", *TRACES, "--model", SPEC, "--seconds", "2")
    assert "frames/s" in text
    assert "events in" in text


def test_a_fixed_plan_is_simulated_as_given() -> None:
    options = SimulationOptions(
        SPEC, "fixed", traces=("device-edge=10Mbit", "edge-cloud=50Mbit"), cut="layer1.2.add,layer2.2.add", codec="q8"
    )
    record = run_simulation(build_scenario(options).alike(seconds=3.0))
    plan = record.plans[0].plan
    assert [stage.until for stage in plan.stages] == ["layer1.2.add", "layer2.2.add", "output"]
    assert [link.codec for link in plan.links] == ["q8", "q8"]


def replayed(monkeypatch: pytest.MonkeyPatch, **changes: object) -> Scenario:
    """A simulated replay, on a machine that nothing is measured of."""

    def profile(captured: CapturedModel, node: str, speed: float) -> Profile:
        return Machine(speed * 20e9).profile(captured.graph, node)

    monkeypatch.setattr("nodes.simulation.emulated_profile", profile)
    traces = ("device-edge=10Mbit", "edge-cloud=50Mbit")
    return build_scenario(SimulationOptions(traces=traces, emulated={Tier.DEVICE: 0.5}, seconds=1.0, **changes))  # type: ignore[arg-type]


def test_the_source_of_a_simulated_replay_begins_with_the_first_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    run = replayed(monkeypatch, model=SPEC, policy="cloud-only")
    prepared = [remark.at_s for remark in run_simulation(run).remarks if remark.kind == "prepare"]
    assert -1.0 < prepared[0] < 0.0


def test_pictures_of_a_simulated_replay_differ_as_they_did_in_the_calibration(monkeypatch: pytest.MonkeyPatch) -> None:
    run = replayed(monkeypatch, model="builtin", policy="joint")
    assert 0.2 < run.spread["input", "webp40"] < 1.0
    assert run.spread["input", "fp32"] == 0.0


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"traces": ("device-moon=1Mbit",)}, "hops are device-edge"),
        ({"profiles": ("moon=file",)}, "tiers are device"),
        ({"speeds": {"device": "fast", "edge": "1G", "cloud": "1G"}}, "for example 20G"),
        ({"policy": "best"}, "known are joint"),
    ],
)
def test_bad_options_are_refused(changes: dict[str, object], says: str) -> None:
    options = SimulationOptions(**{"model": SPEC, "traces": ("device-edge=10Mbit",), **changes})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=says):
        build_scenario(options)


def test_one_run_is_nothing_to_compare(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="name at least two"):
        compare([tmp_path])


@pytest.mark.parametrize(("text", "value"), [("20G", 20e9), ("1.5t", 1.5e12), ("300", 300.0)])
def test_speeds(text: str, value: float) -> None:
    assert parse_speed(text) == value


@pytest.mark.parametrize(
    ("codec", "bits"), [("q4", 4), ("q3z", 3), ("c2", 2), ("fp16", None), ("jpeg75", None), ("webp60", None)]
)
def test_bits_of_codecs(codec: str, bits: int | None) -> None:
    assert bits_of(codec) == bits


def test_a_run_without_links_and_one_with_many_streams_can_be_drawn(tmp_path: Path) -> None:
    alone = run_simulation(scenario(channels={}, seconds=2.0))
    many = run_simulation(scenario(streams=3, seconds=2.0))
    for record in (alone, many):
        assert png(run_picture(record)).startswith(b"\x89PNG")
    assert png(comparison_picture([alone, many])).startswith(b"\x89PNG")


def test_what_a_record_says_is_escaped(tmp_path: Path) -> None:
    record: RunRecord = run_simulation(scenario(seconds=1.0))
    record.title = record.about["source"] = "<script>alert(1)</script>"
    assert "<script>" not in write_report(record, tmp_path).read_text()
    assert "<script>" not in write_comparison([record, record], tmp_path).read_text()
