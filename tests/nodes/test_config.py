"""The deployment file: what is read of it, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from nodes.config import read_deployment
from pipeline.errors import ConfigError

SCHEDULER = '[scheduler]\nreports = "tcp://10.0.0.1:1"\nplans = "tcp://10.0.0.1:2"\n'
NODES = '[[node]]\nname = "camera"\ntier = "device"\n'


def test_paths_are_read(tmp_path: Path) -> None:
    file = tmp_path / "anabranch.toml"
    paths = 'weights = "a/w.pth"\nlabels = "labels.txt"\nkeys = "/etc/keys"\n'
    file.write_text(f'{paths}{SCHEDULER}calibration = "c.json"\n{NODES}')
    read = read_deployment(file)
    assert (read.weights, read.labels, read.keys) == (Path("a/w.pth"), Path("labels.txt"), Path("/etc/keys"))
    assert read.scheduler.calibration == Path("c.json")
    file.write_text(SCHEDULER + NODES)
    read = read_deployment(file)
    assert (read.weights, read.labels, read.keys, read.scheduler.calibration) == (None,) * 4


@pytest.mark.parametrize(
    ("top", "more", "says"),
    [
        ("keys = 3\n", "", "keys"),
        ('weights = ["a"]\n', "", "weights"),
        ("", "calibration = true\n", "calibration"),
        ('kyes = "keys"\n', "", "kyes"),
        ("", 'key = "x"\n', "key"),
        ("", NODES, "share a name"),
        ("", "[[node]]\nname = 'a'\ntier = 'king'\n", "king"),
    ],
)
def test_what_does_not_fit_is_refused_and_named(tmp_path: Path, top: str, more: str, says: str) -> None:
    file = tmp_path / "anabranch.toml"
    file.write_text(top + SCHEDULER + more + NODES)
    with pytest.raises(ConfigError, match=says):
        read_deployment(file)
