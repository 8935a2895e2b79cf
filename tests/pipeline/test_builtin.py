"""The committed weights of the built-in network, on scenes that they were not trained on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from pipeline.errors import ModelError
from pipeline.frames.scene import Scene, SceneOptions
from pipeline.frames.shapes import LABELS
from pipeline.model import builtin

UNSEEN = range(7000, 7006)
SCENES, MOMENTS = 12, (1, 5, 10, 14, 18)


@pytest.fixture(scope="module")
def net() -> builtin.BuiltinNet:
    return builtin.build()


def answer(net: builtin.BuiltinNet, pictures: list[Tensor]) -> list[int]:
    wanted = net.preprocess
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (wanted.mean, wanted.std))
    with torch.inference_mode():
        return [int(net((picture.float() - mean) / std).argmax()) for picture in pictures]


@pytest.mark.parametrize(("width", "height"), [(224, 224), (320, 240)])
def test_top1_on_unseen_seeds_is_at_least_95_percent(net: builtin.BuiltinNet, width: int, height: int) -> None:
    pictures, truth = [], []
    for seed in UNSEEN:
        scene = Scene(SceneOptions(seed=seed, width=width, height=height))
        for number in (index * scene.options.every + moment for index in range(SCENES) for moment in MOMENTS):
            pictures.append(net.preprocess.picture(scene.render(number)))
            truth.append(scene.truth(number))
    right = sum(a == b for a, b in zip(answer(net, pictures), truth, strict=True))
    assert len(truth) == 360
    assert right / len(truth) >= 0.95


def test_it_is_a_network_worth_splitting(net: builtin.BuiltinNet) -> None:
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        output = net(torch.zeros(1, 3, 224, 224))
    assert output.shape == (1, len(LABELS)) and not net.training
    assert counter.get_total_flops() / 2 >= 0.3e9  # multiply-adds


def test_the_weights_file_is_small_and_plain(net: builtin.BuiltinNet) -> None:
    assert builtin.WEIGHTS.stat().st_size <= 8e6
    state = torch.load(builtin.WEIGHTS, weights_only=True)
    again = builtin.compact_state(net)
    assert state.keys() == again.keys() and all(torch.equal(state[name], again[name]) for name in state)


def test_missing_or_foreign_weights_are_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builtin, "WEIGHTS", tmp_path / "builtin.pt")
    with pytest.raises(ModelError, match=r"weights builtin\.pt: missing, .*; run scripts/train_builtin"):
        builtin.build()
    torch.save({"stem.0.weight": torch.zeros(1)}, tmp_path / "builtin.pt")
    with pytest.raises(ModelError, match=r"weights builtin\.pt: .*; run scripts/train_builtin"):
        builtin.build()
    (tmp_path / "builtin.pt").write_bytes(b"no weights at all")
    with pytest.raises(
        ModelError, match=r"weights builtin\.pt: missing, or not a file of weights; run scripts/train_builtin"
    ):
        builtin.build()
