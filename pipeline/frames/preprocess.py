"""What a network wants its picture to look like, and the part of it that is done beside the source.

Only the geometry (resize and central crop) happens here, on 8-bit pixels. The arithmetic (`mean`, `std`,
`bgr`, `rotate180`) belongs to the captured graph, whose first block takes the 8-bit picture: so the cut
before the first block carries a quarter of the bytes, and picture codecs apply to it as it is.

Resampling is Pillow's bilinear filter, whose support grows with the reduction: it does not alias, it is
deterministic (fixed-point arithmetic, the same on every machine), and it is what ImageNet networks are
evaluated with. Crop and resize are one step: only the pixels that the crop needs are resampled.
"""

from __future__ import annotations

import math

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pipeline.errors import ConfigError

Triple = tuple[float, float, float]
Box = tuple[float, float, float, float]


class Preprocess(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a picture is prepared for a network.

    Raises:
        ConfigError: a size, `resize` or `std` that is not positive.
    """

    size: tuple[int, int] = (224, 224)
    """Height and width of the network's input, in pixels."""
    resize: int | None = 256
    """Length of the shorter side before the central crop; None squashes the whole picture to `size`."""
    mean: Triple = (123.675, 116.28, 103.53)
    """Subtracted per channel, in units of 0..255, in the order in which the network wants the channels."""
    std: Triple = (58.395, 57.12, 57.375)
    """Divided by per channel, in the same units and order."""
    bgr: bool = False
    """Whether the network wants blue first (the graph turns the channels; pictures are always RGB)."""
    rotate180: bool = False
    """Whether the network wants the picture turned by 180 degrees (done in the graph)."""

    def __post_init__(self) -> None:
        if min(self.size) < 1 or (self.resize is not None and self.resize < 1) or min(self.std) <= 0:
            raise ConfigError("preprocess", f"size {self.size}, resize {self.resize}, std {self.std} must be positive")

    def picture(self, rgb: NDArray[np.uint8]) -> Tensor:
        """Resize and crop one picture.

        Args:
            rgb: (height, width, 3) of uint8.

        Returns:
            (1, 3, *size) of uint8, contiguous; a copy, whatever the size of `rgb`.
        """
        box = self.box(rgb.shape[0], rgb.shape[1])
        height, width = self.size
        if box[2] - box[0] == width and box[3] - box[1] == height:
            left, top = int(box[0]), int(box[1])
            pixels = rgb[top : top + height, left : left + width]
        else:
            pixels = _resample(rgb, box, (width, height))
        return torch.from_numpy(pixels.transpose(2, 0, 1).copy()).unsqueeze(0)

    def box(self, height: int, width: int) -> Box:
        """The part (left, top, right, bottom) of a picture that the network sees, in the picture's pixels."""
        if self.resize is None:
            return 0.0, 0.0, float(width), float(height)
        # A picture whose resized longer side would not cover the crop is enlarged until it does.
        scale = max(self.resize / min(height, width), self.size[0] / height, self.size[1] / width)
        top, bottom = _central(height, scale, self.size[0])
        left, right = _central(width, scale, self.size[1])
        return left, top, right, bottom


def _central(length: int, scale: float, wanted: int) -> tuple[float, float]:
    """First and last coordinate, in the unscaled picture, of the central `wanted` pixels of the scaled one."""
    scaled = max(round(length * scale), wanted)
    first = (scaled - wanted) // 2
    return first * length / scaled, (first + wanted) * length / scaled


def _resample(rgb: NDArray[np.uint8], box: Box, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Bilinear resampling of `box`; Pillow is handed no more of the picture than the filter can reach."""
    left, right = _reach(box[0], box[2], rgb.shape[1], size[0])
    top, bottom = _reach(box[1], box[3], rgb.shape[0], size[1])
    image = Image.fromarray(np.ascontiguousarray(rgb[top:bottom, left:right]))
    inner = (box[0] - left, box[1] - top, box[2] - left, box[3] - top)
    return np.asarray(image.resize(size, Image.Resampling.BILINEAR, inner))


def _reach(first: float, last: float, length: int, wanted: int) -> tuple[int, int]:
    margin = 1 + max(1.0, (last - first) / wanted)  # the triangle filter's half width, and a pixel for rounding
    return max(0, math.floor(first - margin)), min(length, math.ceil(last + margin))
