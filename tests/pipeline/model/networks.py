"""Networks for the tests: pytorchcv's, made for small pictures and with weights that keep activations alive."""

from __future__ import annotations

import functools

import torch
from pytorchcv.model_provider import get_model
from torch import Tensor, nn

from pipeline.model.capture import CapturedModel, capture


def network(name: str, size: int, full: bool = False) -> nn.Module:
    """pytorchcv's network of that name for `size` pixels; `full` leaves its layers as they are.

    Freshly initialised deep networks tend to answer with their last bias alone, which would make every comparison
    hold; so weights are scaled to keep the variance (He et al., 2015), and batch norms given real statistics.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net: nn.Module = get_model(name)
        if not full:
            _shrink(net, size)
        for module in net.modules():
            _enliven(module)
    return net.eval()


@functools.cache
def captured(name: str, size: int, full: bool = False) -> tuple[nn.Module, CapturedModel, Tensor]:
    """The network, captured, and a picture of noise."""
    net = network(name, size, full)
    generator = torch.Generator().manual_seed(1)
    picture = torch.randn(1, 3, size, size, generator=generator)
    return net, capture(net, picture, name), picture


def reference(net: nn.Module, picture: Tensor) -> Tensor:
    """The plain network's answer."""
    with torch.inference_mode():
        answer: Tensor = net(picture)
    return answer


def relative_error(answer: Tensor, expected: Tensor) -> float:
    """Greatest absolute difference, in units of the greatest magnitude."""
    return float((answer - expected).abs().max() / expected.abs().max())


def _enliven(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.uniform_(module.bias, -0.1, 0.1)
    if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None and module.running_var is not None:
        nn.init.uniform_(module.running_mean, -0.3, 0.3)
        nn.init.uniform_(module.running_var, 0.6, 1.6)
        nn.init.uniform_(module.weight, 0.6, 1.2)
        nn.init.uniform_(module.bias, -0.3, 0.3)


def _shrink(net: nn.Module, size: int) -> None:
    features = net.get_submodule("features")
    if hasattr(features, "final_pool"):
        features.final_pool = nn.AdaptiveAvgPool2d(1)
    output = net.get_submodule("output")
    if hasattr(output, "fc1"):  # AlexNet and VGG: their first linear layer knows the picture's size
        with torch.inference_mode():
            width = features.eval()(torch.zeros(1, 3, size, size)).numel()
        fc1, fc2, fc3 = (output.get_submodule(path) for path in ("fc1", "fc2", "fc3"))
        fc1.fc, fc2.fc = nn.Linear(width, 128), nn.Linear(128, 128)
        output.fc3 = nn.Linear(128, 1000)
        del fc3
