"""`anabranch model`."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from nodes.commands.model import app

SPEC = "pipeline.model.zoo:resnet20"


def invoke(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_show_prints_blocks_and_cuts() -> None:
    text = invoke("show", SPEC)
    assert "layer1.0.conv1" in text
    assert "36 blocks, 49 cuts, 0.08 GFLOPs" in text


def test_show_as_json_has_every_cut() -> None:
    described = json.loads(invoke("show", SPEC, "--json"))
    assert (len(described["blocks"]), len(described["cuts"])) == (36, 49)
    first = described["cuts"][0]
    assert first == {"index": 0, "name": "input", "tensors": ["input"], "nbytes": 3 * 32 * 32}
    assert described["blocks"][0]["attributes"]["kernel"] == [3, 3]
    assert all(block["untileable"] is None for block in described["blocks"] if block["kind"] == "conv")
    assert described["tensors"]["conv1"]["unsigned"] is True


def test_show_as_dot_has_every_edge() -> None:
    text = invoke("show", SPEC, "--dot")
    assert text.startswith("digraph model {")
    assert '"input" -> "conv1"' in text
    assert '"linear" -> "output";' in text


def test_save_writes_what_show_reads(tmp_path: Path) -> None:
    path = tmp_path / "net.pt2"
    invoke("save", SPEC, str(path))
    fingerprint = json.loads(invoke("show", SPEC, "--json"))["fingerprint"]
    assert json.loads(invoke("show", str(path), "--json"))["fingerprint"] == fingerprint
