"""Everybody but the watched device is killed, frozen and restarted at random under a running stream."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline.model.spec import LoadedModel, load_model
from tests.nodes.chaos import Chaos, rampage
from tests.nodes.tiny import SPEC


@pytest.fixture(scope="module")
def builtin() -> LoadedModel:
    """Loaded outside of the test: a library that it imports keeps a thread of its own."""
    return load_model("builtin")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """The watched device, as all others, computes in one."""
    torch.set_num_threads(1)


def test_a_few_faults_cost_no_frame(tmp_path: Path) -> None:
    rampage(Chaos(tmp_path, load_model(SPEC), SPEC, tile_workers=1), seed=1, faults=4)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_fifty_faults_cost_no_frame(tmp_path: Path, builtin: LoadedModel) -> None:
    rampage(Chaos(tmp_path, builtin, "builtin", fps=10.0, tile_workers=1), seed=6, faults=50)
