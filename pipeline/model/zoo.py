"""Networks whose published weights need names of their own.

`mobilenet_v2` and the CIFAR residual networks are written here so that the keys of widely used weight files fit.
Everything else comes from the user's code or another package, such as `pytorchcv.models.resnet:resnet18`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.frames.preprocess import Preprocess

CIFAR_LABELS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

_MOBILENET_STAGES = (
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
)  # fmt: skip
"""Expansion, output channels, repetitions, first stride (Sandler et al., 2018, table 2)."""


def _conv_norm(channels_in: int, channels: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(channels_in, channels, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(channels), nn.ReLU6())


class InvertedResidual(nn.Module):
    """Expand, filter depthwise, project; with a shortcut where the shape stays."""

    def __init__(self, channels_in: int, channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = channels_in * expansion
        parts: list[nn.Module] = [_conv_norm(channels_in, hidden, 1)] if expansion != 1 else []
        parts += [_conv_norm(hidden, hidden, 3, stride, hidden)]
        parts += [nn.Conv2d(hidden, channels, 1, bias=False), nn.BatchNorm2d(channels)]
        self.conv = nn.Sequential(*parts)
        self.shortcut = stride == 1 and channels_in == channels

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels_in, H, W) to (N, channels, H/stride, W/stride)."""
        y: Tensor = self.conv(x)
        return x + y if self.shortcut else y


class MobileNetV2(nn.Module):
    """MobileNetV2 1.0 at 224x224: 0.6 GFLOPs, 3.5 M parameters, 1,000 classes.

    `preprocess` is that of weights converted from a framework that pads on the other side: the picture is turned.
    """

    preprocess = Preprocess(mean=(127.5,) * 3, std=(127.5,) * 3, rotate180=True)

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [_conv_norm(3, 32, 3, 2)]
        channels_in = 32
        for expansion, channels, repetitions, stride in _MOBILENET_STAGES:
            for repetition in range(repetitions):
                layers.append(InvertedResidual(channels_in, channels, 1 if repetition else stride, expansion))
                channels_in = channels
        layers.append(_conv_norm(channels_in, 1280, 1))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, 1000))

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, 224, 224) of normalised float to (N, 1000) of logits."""
        pooled = functional.adaptive_avg_pool2d(self.features(x), 1)
        logits: Tensor = self.classifier(torch.flatten(pooled, 1))
        return logits


class CifarBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut without parameters (He et al., 2016, option A)."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.stride, self.margin = stride, (channels - channels_in) // 2

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels_in, H, W) to (N, channels, H/stride, W/stride)."""
        y = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        if self.stride != 1 or self.margin:
            # Every second pixel, and as many zero channels on each side as the block adds.
            x = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.margin, self.margin))
        return functional.relu(y + x)


class CifarResNet(nn.Module):
    """The residual networks of He et al. (2016) for CIFAR-10: 6n+2 layers."""

    preprocess = Preprocess(size=(32, 32), resize=None, mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))
    """These weights were trained with ImageNet's mean and deviation."""
    labels = CIFAR_LABELS

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._stage(16, 16, blocks, 1)
        self.layer2 = self._stage(16, 32, blocks, 2)
        self.layer3 = self._stage(32, 64, blocks, 2)
        self.linear = nn.Linear(64, 10)

    @staticmethod
    def _stage(channels_in: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
        first = CifarBlock(channels_in, channels, stride)
        return nn.Sequential(first, *(CifarBlock(channels, channels, 1) for _ in range(blocks - 1)))

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, 32, 32) of normalised float to (N, 10) of logits."""
        x = functional.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(torch.flatten(functional.adaptive_avg_pool2d(x, 1), 1))
        return logits


def mobilenet_v2() -> MobileNetV2:
    """MobileNetV2 with the key names that most weight files for PyTorch have."""
    return MobileNetV2()


def resnet20() -> CifarResNet:
    """The 20-layer CIFAR-10 network: 82 MFLOPs."""
    return CifarResNet(3)


def resnet56() -> CifarResNet:
    """The 56-layer CIFAR-10 network: 251 MFLOPs."""
    return CifarResNet(9)
