"""Everybody but the watched device is killed, frozen and restarted at random under a running stream."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from nodes.bench._chaos import NAMES, Chaos, Scene
from nodes.bench._data import video
from pipeline.model.spec import LoadedModel, load_model
from pipeline.plan import Tier
from tests.nodes.tiny import SPEC

ALL_TIERS = tuple(NAMES[tier] for tier in Tier)


@pytest.fixture(scope="module")
def builtin() -> LoadedModel:
    """Loaded outside of the test: a library that it imports keeps a thread of its own."""
    return load_model("builtin")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """The watched device, as all others, computes in one."""
    torch.set_num_threads(1)


def test_a_few_faults_cost_no_frame(tmp_path: Path) -> None:
    rampage(Chaos(tmp_path, load_model(SPEC), Scene(SPEC, video(), tile_workers=1, cameras=1)), seed=1, faults=4)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_fifty_faults_cost_no_frame(tmp_path: Path, builtin: LoadedModel) -> None:
    rampage(Chaos(tmp_path, builtin, Scene("builtin", video(), fps=10.0, tile_workers=1, cameras=1)), seed=6, faults=50)


def rampage(chaos: Chaos, seed: int, faults: int) -> None:
    """Hurt somebody at random, `faults` times, and check all that must hold. The seed is printed."""
    print(f"seed {seed}")  # noqa: T201  (to do the same again)
    rng = random.Random(seed)
    with chaos.running():
        assert chaos.runs(ALL_TIERS, 30.0), chaos.state()
        chaos.recover()
        while len(chaos.faults) < faults:
            chaos.hurt(rng)
            chaos.recover()
        chaos.mend_all()
        assert chaos.runs(ALL_TIERS, 30.0), chaos.state()
        chaos.recover()
    account, ledger = chaos.account, chaos.device.admission.ledger
    assert (account.results, account.out_of_order) == (ledger.admitted, 0)
    assert account.wrong == 0
    print(f"{ledger.admitted} frames, admitted again: {dict(ledger.readmissions)}, {dict(ledger.drops)}")  # noqa: T201
    print(f"back after at most {max(chaos.recoveries_s):.1f} s: {chaos.faults}")  # noqa: T201
