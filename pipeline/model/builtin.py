"""The built-in network: a small residual network that tells the objects of `scene:` apart.

Its weights lie beside this file, trained by `scripts/train_builtin` on scenes rendered here (docs/builtin-model.md).
It is a plain residual network of the shape that split computing cares about: the maps shrink by half a stage, so
that every stage boundary is a cheaper cut than the one before.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import torch
from torch import Tensor, nn

from pipeline.errors import ModelError
from pipeline.frames.preprocess import Preprocess
from pipeline.frames.shapes import LABELS

WEIGHTS = Path(__file__).with_name("builtin.pt")
"""State dict; matrices and kernels in half precision, vectors in single."""

STAGES = ((32, 1), (64, 2), (128, 2), (256, 1))
"""Channels and residual blocks of each stage."""


class Residual(nn.Module):
    """Two 3x3 convolutions around a shortcut (He et al., 2016, basic block)."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels_in, H, W) to (N, channels, H/stride, W/stride)."""
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class BuiltinNet(nn.Module):
    """0.32 G multiply-adds (0.64 GFLOPs) at 224x224; 1.6 M parameters."""

    preprocess = Preprocess(resize=224, mean=(110.0, 110.0, 110.0), std=(60.0, 60.0, 60.0))
    """What `input` pictures need before this network."""
    labels = LABELS
    """Class names by index."""

    def __init__(self) -> None:
        super().__init__()
        first = STAGES[0][0]
        self.stem = nn.Sequential(
            nn.Conv2d(3, first, 3, 2, 1, bias=False), nn.BatchNorm2d(first), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        )
        self.layer1 = _stage(first, *STAGES[0], stride=1)
        self.layer2 = _stage(STAGES[0][0], *STAGES[1], stride=2)
        self.layer3 = _stage(STAGES[1][0], *STAGES[2], stride=2)
        self.layer4 = _stage(STAGES[2][0], *STAGES[3], stride=2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(STAGES[3][0], len(LABELS))

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, 224, 224) of normalised float to (N, classes) of logits."""
        x = self.layer4(self.layer3(self.layer2(self.layer1(self.stem(x)))))
        logits: Tensor = self.head(torch.flatten(self.pool(x), 1))
        return logits


def _stage(channels_in: int, channels: int, blocks: int, *, stride: int) -> nn.Sequential:
    """Residual blocks, of which the first changes channels and size."""
    first = Residual(channels_in, channels, stride)
    return nn.Sequential(first, *(Residual(channels, channels, 1) for _ in range(blocks - 1)))


def build() -> BuiltinNet:
    """The trained network, in eval mode.

    Raises:
        ModelError: the weights file is missing or does not fit.
    """
    net = BuiltinNet()
    thing, mend = f"weights {WEIGHTS.name}", "run scripts/train_builtin, or install again"
    if not zipfile.is_zipfile(WEIGHTS):
        raise ModelError(thing, "missing, or not a file of weights", mend)
    try:
        state = torch.load(WEIGHTS, map_location="cpu", weights_only=True)
        net.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    except (OSError, RuntimeError) as error:
        raise ModelError(thing, str(error).splitlines()[0], mend) from error
    return net.eval()


def compact_state(net: nn.Module) -> dict[str, Tensor]:
    """The state dict as it is kept in `WEIGHTS`: only what has many elements is stored in half precision."""
    return {name: tensor.half() if tensor.ndim > 1 else tensor.clone() for name, tensor in net.state_dict().items()}
