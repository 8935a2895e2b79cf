"""Weights as the kernels of tiles want them: oneDNN itself says when it rearranges one."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from pipeline.model.capture import CapturedModel, capture
from pipeline.model.graph import INPUT
from pipeline.model.layouts import Layout, candidates
from pipeline.tiling.execute import TiledStack
from pipeline.tiling.regions import Interval, Region

SIDE, CHANNELS = 13, (1024, 512)
BEGIN, END = "--- a warm tile begins", "--- and ends"


def pointwise() -> CapturedModel:
    """A convolution as deep networks have them: many channels, few positions."""
    return capture(nn.Conv2d(*CHANNELS, 1), torch.zeros(1, CHANNELS[0], SIDE, SIDE), "pointwise")


def strips(model: CapturedModel) -> TiledStack:
    """All of it as one fused stack."""
    return TiledStack(model, model.graph.cut(INPUT), model.graph.cuts[-1], layout=Layout.ONEDNN)


def heights() -> list[Region]:
    """A strip of every height."""
    return [Region(Interval(0, rows), Interval(0, SIDE)) for rows in range(1, SIDE + 1)]


pytestmark = pytest.mark.skipif(
    Layout.ONEDNN not in candidates(torch.device("cpu")), reason="this build of torch has no oneDNN"
)


def test_no_strip_rearranges_its_weight_again_in_every_call() -> None:
    environment = {**os.environ, "ONEDNN_VERBOSE": "1", "OMP_NUM_THREADS": "1"}
    ran = subprocess.run([sys.executable, "-m", __name__], env=environment, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    _, *warm = [each.partition(END)[0] for each in ran.stdout.split(BEGIN)]
    assert len(warm) == SIDE
    size = f"{CHANNELS[1]}x{CHANNELS[0]}x1x1"
    for rows, said in enumerate(warm, 1):
        assert "exec,cpu,convolution" in said
        assert [line for line in said.splitlines() if ",reorder," in line and size in line] == [], f"{rows} rows"


def test_strips_of_all_heights_share_few_copies_of_a_weight_and_agree_with_the_map() -> None:
    model = pointwise()
    stack, whole = strips(model), heights()[-1]
    x = torch.randn(1, CHANNELS[0], SIDE, SIDE, generator=torch.Generator().manual_seed(3))
    [(name, expected)] = stack.run_tile(whole, {INPUT: x}).items()
    for region in heights():
        made = stack.run_tile(region, {INPUT: x[:, :, : region.rows.stop]})[name]
        worst = (made - expected[:, :, : region.rows.stop]).abs().max() / expected.abs().max()
        assert float(worst) < 1e-5
    packed = {id(each) for each in model.prepared.values() if isinstance(each, torch.Tensor) and each.is_mkldnn}
    assert len(packed) <= 4


def _main() -> None:
    torch.set_num_threads(1)
    stack = strips(pointwise())
    for region in heights():
        zeros = stack.zeros(region)
        stack.run_tile(region, zeros)
        print(BEGIN, flush=True)  # noqa: T201
        stack.run_tile(region, zeros)
        print(END, flush=True)  # noqa: T201


if __name__ == "__main__":
    _main()
