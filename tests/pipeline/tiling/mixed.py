"""A small network that has everything tiling must deal with."""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

from pipeline.model.capture import CapturedModel, capture
from pipeline.model.graph import Cut


class Inception(nn.Module):
    """Branches of different receptive fields, joined by channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.across = nn.Conv2d(channels, 6, (1, 7), padding=(0, 3))
        self.down = nn.Conv2d(channels, 6, (7, 1), padding=(3, 0))
        self.pool = nn.AvgPool2d(3, 1, 1, count_include_pad=False)
        self.after = nn.Conv2d(channels, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.across(x), self.down(x), self.after(self.pool(x))], 1)


class SqueezeExcite(nn.Module):
    """A gate for each channel, from the mean of the whole map."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce, self.widen = nn.Conv2d(channels, 4, 1), nn.Conv2d(4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.sigmoid(self.widen(torch.relu(self.reduce(x.mean((2, 3), keepdim=True)))))
        return x * gate


class Mixed(nn.Module):
    """64x48 pictures to 10 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 8, 7, 2, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(3, 2, ceil_mode=True)
        )
        self.wide = nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=4)
        self.narrow = nn.Conv2d(8, 8, 3, padding=1)
        self.mix = Inception(8)
        self.gate = SqueezeExcite(16)
        self.stride = nn.Conv2d(16, 16, 3, 2, 1)
        self.up = nn.Upsample(scale_factor=2, mode="bilinear")
        self.last = nn.Conv2d(32, 8, (5, 3), padding=(2, 1))
        self.head = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.relu(self.narrow(torch.relu(self.wide(x))) + x)
        x = self.gate(self.mix(x))
        low = torch.relu(self.stride(x))
        x = self.last(torch.cat([x, self.up(low)], 1))
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


@functools.cache
def mixed() -> CapturedModel:
    """The captured network; do not change it."""
    torch.manual_seed(5)
    return capture(Mixed(), torch.zeros(1, 3, 64, 48), "mixed")


def cut_before(captured: CapturedModel, block: str) -> Cut:
    """The largest cut that does not have the block."""
    index = next(each.index for each in captured.graph.blocks if each.name == block)
    return next(cut for cut in reversed(captured.graph.cuts) if not cut.mask >> index & 1)


class Attention(nn.Module):
    """Tokens from patches, attention between them, and a map again."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, 4)
        self.keys = nn.Linear(8, 8)
        self.after = nn.Conv2d(8, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x)
        tokens = x.flatten(2).transpose(1, 2)
        tokens = tokens + torch.softmax(self.keys(tokens) @ tokens.transpose(1, 2), -1) @ tokens
        return self.after(tokens.transpose(1, 2).reshape(1, 8, 8, 8))  # type: ignore[no-any-return]
