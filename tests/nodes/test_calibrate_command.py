"""`anabranch calibrate` from the command line: a table, a plot, and what it says."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import typer
from typer.testing import CliRunner

from nodes.commands import calibrate as command
from pipeline.calibrate import Calibration, Entry, Estimate
from pipeline.model.spec import load_model

CUTS = "layer3.1.add,pool"
CODECS = "q4,e20,t-e20"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A calibration of the built-in network on six frames of a scene, and what was printed."""
    folder = tmp_path_factory.mktemp("calibration")
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(command.calibrate)
    out = folder / "builtin.calibration"
    options = ["--frames", "scene:", "--limit", "6", "--batch", "3", "--pairs", "1", "--max-drop", "1"]
    more = ["--cuts", CUTS, "--codecs", CODECS, "--out", str(out), "--plot", str(folder / "plot.svg")]
    result = CliRunner().invoke(app, [*options, *more])
    assert result.exit_code == 0, result.output
    return out, result.output


def test_the_table_is_for_this_model_and_complete(made: tuple[Path, str]) -> None:
    table = Calibration.load(made[0], load_model("builtin").captured.graph.fingerprint)
    assert table.frames == 6 and list(table.by_cut) == CUTS.split(",") and len(table.pairs) == 1
    assert all(list(by_codec) == CODECS.split(",") for by_codec in table.by_cut.values())
    assert table.bytes("layer3.1.add", "t-e20")[0] < table.bytes("layer3.1.add", "e20")[0]


def test_what_is_printed_and_drawn(made: tuple[Path, str]) -> None:
    out, text = made
    assert "layer3.1.add" in text and "t-e20" in text and "6 rows and 1 pairs" in text
    assert "<svg" in (out.parent / "plot.svg").read_text()[:500]


def test_json_is_the_table(tmp_path: Path) -> None:
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(command.calibrate)
    options = ["--frames", "scene:", "--limit", "2", "--pairs", "0", "--cuts", "pool", "--codecs", "q8", "--json"]
    result = CliRunner().invoke(app, [*options, "--out", str(tmp_path / "t")])
    assert msgspec.json.decode(result.stdout, type=Calibration) == msgspec.json.decode(
        (tmp_path / "t").read_bytes(), type=Calibration
    )


def entry(codec: str, nbytes: float, drop: float) -> Entry:
    one = Estimate(1.0, 0.9, 1.0)
    return Entry("a", codec, 9, nbytes, nbytes, 0.0, 0.0, None, one, Estimate(drop, drop, drop))


def test_only_what_is_not_beaten_is_drawn() -> None:
    entries = [entry("x", 10, 0.3), entry("y", 20, 0.4), entry("z", 30, 0.1), entry("w", 30, 0.0)]
    assert [one.codec for one in command.pareto(entries)] == ["x", "w"]


def test_the_smallest_within_the_bound_are_shown() -> None:
    entries = [entry("x", 10, 0.3), entry("y", 20, 0.01), entry("z", 15, 0.01), entry("w", 30, 0.0)]
    assert [one.codec for one in command.best_entries(entries, 0.02, 2)] == ["z", "y"]
    assert [one.codec for one in command.best_entries(entries, -1, 2)] == ["w"]
