"""The wrapper that makes a network take 8-bit pictures."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.frames.preprocess import Preprocess


class PictureModel(nn.Module):
    """A network behind the arithmetic that its pictures need.

    The arithmetic is part of the captured graph and joins its first block, so that the cut `input` carries 8-bit
    pixels: a quarter of the bytes of floats, and what picture codecs want.

    Args:
        network: takes (N, 3, H, W) of normalised float32.
        preprocess: what to do to (N, 3, H, W) of uint8 in RGB before that; its geometry is not done here.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, preprocess: Preprocess) -> None:
        super().__init__()
        self.network = network
        self.preprocess = preprocess
        self.register_buffer("mean", torch.tensor(preprocess.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(preprocess.std).view(1, 3, 1, 1), persistent=False)

    def forward(self, picture: Tensor) -> Tensor:
        """(N, 3, H, W) of uint8 in RGB to whatever the network returns."""
        # Pixels are moved while they are single bytes.
        if self.preprocess.bgr:
            picture = picture.flip(1)
        if self.preprocess.rotate180:
            picture = picture.flip(2, 3)
        result: Tensor = self.network((picture.float() - self.mean) / self.std)
        return result

    def example(self) -> Tensor:
        """(1, 3, H, W) of zeros, as `capture` wants it."""
        return torch.zeros(1, 3, *self.preprocess.size, dtype=torch.uint8)
