"""What capture makes of a network: blocks, costs, signs, fingerprints, and what it refuses."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.errors import CaptureError
from pipeline.model.capture import CapturedModel, capture
from pipeline.model.graph import Block
from pipeline.model.layouts import Layout
from pipeline.model.operators import op
from pipeline.model.segment import Segment
from tests.pipeline.model.networks import captured, relative_error

PICTURE = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(5))


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    """The same weights in every run."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        yield


class Net(nn.Module):
    """A module whose forward is a function of itself and the picture."""

    def __init__(self, forward: Callable[[Any, Tensor], Any], **layers: nn.Module) -> None:
        super().__init__()
        self.function = forward
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


def conv(channels_in: int = 3, channels: int = 4, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels, 3, padding=1, **options)


def live_norm(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    nn.init.uniform_(norm.running_mean, -1, 1)
    nn.init.uniform_(norm.running_var, 0.5, 2)
    nn.init.uniform_(norm.weight, -1, 1)
    nn.init.uniform_(norm.bias, -1, 1)
    return norm


def kinds(model: CapturedModel) -> list[tuple[str, str]]:
    return [(block.name, block.kind) for block in model.graph.blocks]


def block_of(model: CapturedModel, name: str) -> Block:
    return next(block for block in model.graph.blocks if block.name == name)


def check_whole(net: nn.Module, model: CapturedModel, picture: Tensor = PICTURE) -> None:
    """Every layout, cut in two everywhere, against the module."""
    net.eval()
    with torch.inference_mode():
        expected = net(picture)
    expected = expected if isinstance(expected, tuple | list) else (expected,)
    cuts = model.graph.cuts
    for layout in Layout:
        for cut in cuts:
            between = Segment(model, cuts[0], cut, layout=layout).run({"input": picture})
            answers = Segment(model, cut, cuts[-1], layout=layout).run(between)
            for name, answer in zip(model.graph.outputs, expected, strict=True):
                assert relative_error(answers[name], answer) <= 1e-5, (layout, cut.name)


@pytest.mark.parametrize(
    ("name", "size", "blocks", "cuts"),
    [("alexnet", 80, 13, 14), ("vgg16", 48, 21, 22), ("resnet18", 48, 31, 38), ("resnet50", 48, 72, 85),
     ("darknet53", 32, 77, 78), ("inceptionv4", 96, 194, 2235)],
)  # fmt: skip
def test_numbers_of_blocks_and_cuts(name: str, size: int, blocks: int, cuts: int) -> None:
    # Pooling is a block of its own here; with it joined to its producer, these are 17, 36, 83, 77 for the last but
    # one four: one fewer for each pooling.
    graph = captured(name, size)[1].graph
    assert (len(graph.blocks), len(graph.cuts), graph.cuts_complete) == (blocks, cuts, True)


def test_flops_and_weights_of_known_networks() -> None:
    graph = captured("resnet18", 48)[1].graph
    first = graph.blocks[0]
    assert first.flops == 2 * 7 * 7 * 3 * 64 * 24 * 24 + 64 * 24 * 24
    assert first.weight_bytes == 4 * (7 * 7 * 3 * 64 + 64)
    assert first.attributes["kernel"] == (7, 7)
    assert (first.attributes["in_channels"], first.attributes["out_height"]) == (3, 24)
    assert graph.weight_bytes == 4 * 11_684_712  # parameters without the batch norms', and a bias for each


@pytest.mark.parametrize("layer", [conv(bias=False), conv(bias=True), nn.Conv2d(3, 4, 3, stride=2, dilation=2),
                                   nn.ConvTranspose2d(3, 4, 3), nn.ConvTranspose2d(3, 6, 3, groups=3)])  # fmt: skip
def test_batch_norms_fold(layer: nn.Module) -> None:
    channels = layer.out_channels
    assert isinstance(channels, int)
    net = Net(lambda self, x: self.norm(self.layer(x)), layer=layer, norm=live_norm(channels))
    model = capture(net, PICTURE, "net")
    assert not any(op(node) == "batch_norm" for node in model.module.graph.nodes)
    assert [block.name for block in model.graph.blocks] == ["layer"]
    check_whole(net, model)


def test_a_batch_norm_behind_a_shared_tensor_stays() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        y = self.layer(x)
        return torch.cat([y, self.norm(y)], 1)

    net = Net(forward, layer=conv(), norm=live_norm(4))
    model = capture(net, PICTURE, "net")
    assert any(op(node) == "batch_norm" for node in model.module.graph.nodes)
    assert kinds(model) == [("layer", "conv"), ("concat", "concat")]
    check_whole(net, model)


def test_element_wise_operators_join_their_producer() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        y = torch.clamp(self.first(x) * 2 + 1, 0, 4)
        y = self.drop(y) * torch.sigmoid(self.second(y))
        return torch.softmax(self.last(y.mean((2, 3))), 1)

    net = Net(forward, first=conv(), second=conv(4, 4), drop=nn.Dropout(), last=nn.Linear(4, 5))
    model = capture(net.train(), PICTURE, "net")
    assert net.training, "capture gives the module its mode back"
    assert [kind for _, kind in kinds(model)] == ["conv", "conv", "mul", "global_pool", "linear", "softmax"]
    tensors = model.graph.tensors
    signs = [tensors[block.outputs[0]].unsigned for block in model.graph.blocks]
    assert signs == [True, True, True, True, False, True]
    check_whole(net, model)


def test_normalisation_joins_the_first_block() -> None:
    net = Net(lambda self, x: functional.relu(self.layer((x.float() - 100.0) / 50.0)), layer=conv())
    picture = torch.randint(0, 256, (1, 3, 16, 16), dtype=torch.uint8)
    model = capture(net, picture, "net")
    assert [op(node) for node in model.operators(model.graph.blocks[0])] == ["to", "sub", "div", "conv2d", "relu"]
    assert model.graph.tensors["input"].dtype == "uint8"
    assert model.graph.tensors["input"].unsigned
    assert not capture(conv(), PICTURE, "net").graph.tensors["input"].unsigned
    check_whole(net, model, picture)


def test_normalisation_for_several_readers_is_a_block() -> None:
    def forward(self: Any, x: Tensor) -> Any:
        x = x * 2
        return functional.relu(self.one(x)) + self.two(x)

    net = Net(forward, one=conv(), two=conv())
    model = capture(net, PICTURE, "net")
    assert [kind for _, kind in kinds(model)] == ["activation", "conv", "conv", "add"]
    check_whole(net, model)


def test_sums_of_convolutions_that_share_inputs() -> None:
    """Sums computed in place must not overwrite what is read later."""

    def forward(self: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        x = functional.relu(self.a(x))
        y = self.b(x) + x  # the convolution reads what it is added to
        z = functional.relu(self.c(y) + x)  # the other operand is read again below
        first, second = z.chunk(2, 1)
        w = self.d(z) + z  # views of the other operand are read below
        return functional.relu(self.e(x) + w), torch.cat([second, first], 1) * w

    net = Net(forward, a=conv(), b=conv(4, 4), c=conv(4, 4), d=conv(4, 4), e=conv(4, 4))
    model = capture(net, PICTURE, "net")
    assert len(model.graph.outputs) == 2
    check_whole(net, model)


def test_a_convolution_that_waits_for_its_sum_keeps_its_input() -> None:
    def forward(self: Any, x: Tensor) -> Any:
        x = functional.relu(self.a(x))
        waiting = self.b(x)  # computed with the last sum, when the sum between would have overwritten x
        between = self.c(self.d(x)) + x
        return waiting + between

    net = Net(forward, a=conv(), b=conv(4, 4), c=conv(4, 4), d=conv(4, 4))
    check_whole(net, capture(net, PICTURE, "net"))


def test_one_layer_used_twice() -> None:
    def forward(self: Any, x: Tensor) -> Any:
        y = functional.relu(self.layer(self.layer(x)))
        return self.layer(functional.max_pool2d(y, 2))

    net = Net(forward, layer=conv(3, 3))
    model = capture(net, PICTURE, "net")
    assert [name for name, _ in kinds(model)] == ["layer", "layer_2", "max_pool", "layer_3"]
    check_whole(net, model)


@pytest.mark.parametrize("kernel", [3, 4])
def test_padding_by_name(kernel: int) -> None:
    net = Net(lambda self, x: self.layer(x), layer=nn.Conv2d(3, 4, kernel, padding="same"))
    model = capture(net, PICTURE, "net")
    assert [kind for _, kind in kinds(model)] == (["conv"] if kernel % 2 else ["pad", "conv"])
    check_whole(net, model)


def test_in_place_operators_and_views() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        y = self.layer(x)
        first = y.view(1, 4, -1)
        y.relu_()  # shows through the view
        y += 1
        product: Tensor = first * y.flatten(2)
        return product

    net = Net(forward, layer=conv())
    check_whole(net, capture(net, PICTURE, "net"))
    sequence = nn.Sequential(conv(), nn.ReLU(True), conv(4, 4), live_norm(4), nn.ReLU6(True), nn.Dropout(0.5, True))
    check_whole(sequence, capture(sequence, PICTURE, "net"))


def test_outputs_in_containers_are_flattened() -> None:
    net = Net(lambda self, x: {"one": self.a(x), "two": [self.b(x)]}, a=conv(), b=conv())
    assert len(capture(net, PICTURE, "net").graph.outputs) == 2


def test_batches_that_would_mix_frames_are_known() -> None:
    mixing: list[Callable[[Any, Tensor], Any]] = [
        lambda self, x: torch.softmax(self.layer(x), 0),
        lambda self, x: x - self.layer(x).mean(0, keepdim=True).mean(1, keepdim=True),
        lambda self, x: self.layer(x).flip(0),
    ]
    for forward in mixing:
        assert not capture(Net(forward, layer=conv()), PICTURE, "net").supports_batch
    net = Net(lambda self, x: self.layer(x).view(1, -1).softmax(1), layer=conv())
    model = capture(net, PICTURE, "net")
    assert model.supports_batch
    assert model.module(torch.cat([PICTURE, PICTURE]))[0].shape == (2, 4 * 16 * 16)


def branching(self: Any, x: Tensor) -> Any:
    return self.layer(x) if x.sum() > 0 else x


def test_refusals_name_the_operator_and_a_mend() -> None:
    cases: list[tuple[nn.Module, str]] = [
        (Net(branching, layer=conv()), r"branches on values of the picture \(at test_capture.py:\d+, `return"),
        (Net(lambda self, x: self.layer(x)[x[:, :1] > 0], layer=conv(3, 1)), "shape depends on the picture"),
        (Net(lambda self, x: self.layer(x) + torch.rand(1), layer=conv()), "operator rand.*draws random numbers"),
        (Net(lambda self, x: self.layer(x[:, :2]), layer=conv()), "torch.export refuses it"),
        (Net(lambda self, x: (self.layer(x), 3), layer=conv()), "not a tensor"),
        (Net(lambda self, x: x), "computes nothing"),
    ]
    for net, message in cases:
        with pytest.raises(CaptureError, match=message) as caught:
            capture(net, PICTURE, "net")
        assert "; " in str(caught.value), "a mend"
        assert "\n" not in str(caught.value)
    with pytest.raises(CaptureError, match="an example of one frame"):
        capture(conv(), torch.rand(2, 3, 8, 8), "net")


def test_control_flow_operators_are_refused() -> None:
    def forward(self: Any, x: Tensor) -> Any:
        return torch.cond(x.sum() > 0, lambda y: y + 1, lambda y: y - 1, (self.layer(x),))

    with pytest.raises(CaptureError, match="cond"):
        capture(Net(forward, layer=conv()), PICTURE, "net")


FINGERPRINT = (
    "import torch; from torch import nn; from pipeline.model.capture import capture; torch.manual_seed(0); "
    "net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()); "
    "print(capture(net, torch.zeros(1, 3, 8, 8), 'net').graph.fingerprint)"
)


def test_fingerprints() -> None:
    def build(seed: int = 0, kernel: int = 3) -> nn.Module:
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(3, 4, kernel), nn.BatchNorm2d(4), nn.ReLU())

    def digest(net: nn.Module, size: int = 8, name: str = "net") -> str:
        return capture(net, torch.rand(1, 3, size, size), name).graph.fingerprint

    with torch.random.fork_rng():
        same = digest(build())
        assert digest(build(), name="other") == same, "names and the example's values do not count"
        different = {
            digest(build(1)),
            digest(build(), 9),
            digest(build(kernel=5)),
            digest(nn.Sequential(build(), nn.ReLU())),
        }
        changed = build()
        changed.get_parameter("1.bias").data[2] += 1e-6
        different.add(digest(changed))
    assert len(different) == 5
    assert same not in different
    other_process = subprocess.run([sys.executable, "-c", FINGERPRINT], capture_output=True, text=True, check=True)
    assert other_process.stdout.strip() == same
