"""What the user writes after `--model` and `--weights`, right and wrong."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from pipeline.errors import CaptureError, ConfigError, ModelError
from pipeline.frames.preprocess import Preprocess
from pipeline.model.picture import PictureModel
from pipeline.model.segment import Segment
from pipeline.model.spec import load_model, load_plain, load_weights, read_labels, save_pt2
from tests.pipeline.model.networks import reference, relative_error

RESNET20 = "pipeline.model.zoo:resnet20"
SOURCE = """
import torch
from torch import nn
from pipeline.frames.preprocess import Preprocess

class Net(nn.Module):
    preprocess = Preprocess(size=(16, 16), resize=None, mean=(1.0, 2.0, 3.0), std=(4.0, 5.0, 6.0), bgr=True)
    labels = ["one", "two"]
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 16)
    def forward(self, x):
        return self.conv(x).flatten(1)

class Holder:
    net = Net

instance = Net()
number = 3

def broken():
    raise ValueError("no such width")

def nothing():
    return None

def batch_of_two():
    class Two(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x
    return Two()
"""


@pytest.fixture
def user_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module in the working directory, which is not on the import path."""
    name = f"user_net_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(SOURCE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return name


def test_a_factory_in_the_working_directory(user_module: str) -> None:
    loaded = load_model(f"{user_module}:Net")
    assert loaded.labels == ("one", "two")
    assert (loaded.name, loaded.preprocess.size, loaded.preprocess.bgr) == ("Net", (16, 16), True)
    assert loaded.captured.graph.tensors["input"].dtype == "uint8"
    assert [block.name for block in loaded.captured.graph.blocks] == ["conv"]
    assert load_model(f"{user_module}:Holder.net").captured.graph.fingerprint == loaded.captured.graph.fingerprint
    assert load_model(f"{user_module}:instance").labels == ("one", "two")
    other = Preprocess(size=(16, 16))
    assert load_model(f"{user_module}:Net", preprocess=other).preprocess is other


def test_random_weights_are_the_same_every_time() -> None:
    spec = "pytorchcv.models.alexnet:alexnet"
    first, second = load_plain(spec).module.state_dict(), load_plain(spec).module.state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_the_picture_is_prepared_in_the_graph() -> None:
    preprocess = Preprocess(size=(4, 5), mean=(1.0, 2.0, 3.0), std=(4.0, 5.0, 6.0), bgr=True, rotate180=True)
    picture = torch.randint(0, 256, (2, 3, 4, 5), dtype=torch.uint8)
    made = PictureModel(nn.Identity(), preprocess)(picture)
    for channel, (mean, std) in enumerate(zip(preprocess.mean, preprocess.std, strict=True)):
        expected = (picture[:, 2 - channel].float().rot90(2, (1, 2)) - mean) / std
        assert torch.allclose(made[:, channel], expected)


def test_sizes_follow_the_network() -> None:
    inception = load_plain("pytorchcv.models.inceptionv4:inceptionv4").preprocess
    assert (inception.size, inception.resize) == ((299, 299), 342)
    assert load_plain(RESNET20).preprocess.size == (32, 32)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("resnet", "not a model spec; write package.module:factory"),
        ("no_such_package_here:net", "cannot import no_such_package_here"),
        ("pipeline.model.zoo:resnet2", r"has no resnet2; did you mean resnet20\?"),
        ("{user}:number", "not a function"),
        ("{user}:broken", r"broken\(\) raised ValueError: no such width"),
        ("{user}:nothing", r"nothing\(\) returned NoneType; return a torch.nn.Module"),
        ("missing.pt2", "no such file"),
    ],
)
def test_wrong_specs(user_module: str, spec: str, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        load_model(spec.format(user=user_module))
    assert "\n" not in str(caught.value)


def test_a_network_that_cannot_be_captured(user_module: str) -> None:
    with pytest.raises(CaptureError, match=rf"branches on values of the picture \(at {user_module}.py:\d+"):
        load_model(f"{user_module}:batch_of_two")


@pytest.mark.parametrize("form", ["bare", "state_dict", "module", "no counters"])
def test_weight_files(tmp_path: Path, form: str) -> None:
    torch.manual_seed(1)
    source = load_plain(RESNET20).module.get_submodule("network")
    nn.init.normal_(source.get_parameter("linear.weight"))
    state = {key: value for key, value in source.state_dict().items() if form != "no counters" or "num_b" not in key}
    path = tmp_path / "weights.pth"
    if form in ("state_dict", "module"):
        prefix = "module." if form == "module" else ""
        torch.save({"epoch": 3, "state_dict": {prefix + key: value for key, value in state.items()}}, path)
    else:
        torch.save(state, path)
    loaded = load_plain(RESNET20, weights=path).module.get_submodule("network")
    assert torch.equal(loaded.get_parameter("linear.weight"), source.get_parameter("linear.weight"))
    assert load_model(RESNET20, weights=path).captured.graph.fingerprint != (
        load_model(RESNET20).captured.graph.fingerprint
    )


class Dangerous:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("raise SystemExit('code ran')",))


def test_wrong_weights(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    good = network.state_dict()
    path = tmp_path / "weights.pth"
    cases: list[tuple[object, str]] = [
        ({}, r"6 keys missing \(0.bias, 0.weight, 1.bias, ...\)"),
        ({**good, "2.weight": torch.zeros(1)}, r"1 keys unexpected \(2.weight\); give the weights of this very"),
        ({**good, "0.weight": torch.zeros(4, 3, 5, 5)}, r"0.weight is \(4, 3, 5, 5\), the network's \(4, 3, 3, 3\)"),
        ([torch.zeros(1)], "holds no state dict"),
        ({"a": Dangerous()}, "not a readable state dict"),
    ]
    for content, message in cases:
        torch.save(content, path)
        with pytest.raises(ModelError, match=message) as caught:
            load_weights(network, path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(ModelError, match="not a readable state dict"):
        load_weights(network, path)
    with pytest.raises(ModelError, match="no such file"):
        load_weights(network, tmp_path / "none.pth")


def test_labels(tmp_path: Path) -> None:
    lines, table = tmp_path / "names.txt", tmp_path / "names.csv"
    lines.write_text("cat\ndog\n\n", encoding="utf-8")
    assert read_labels(lines) == ("cat", "dog")
    table.write_text('filename,class_index,class_name\na.jpg,2,"dog, hound"\nb.jpg,0,cat\n', encoding="utf-8")
    assert read_labels(table) == ("cat", "1", "dog, hound")
    assert load_plain(RESNET20, labels=lines).labels == ("cat", "dog")
    table.write_text("a,b\n1,2\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="no column"):
        read_labels(table)
    table.write_text(f"index,name\n{1 << 40},cat\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="an index is not in"):
        read_labels(table)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_labels(tmp_path / "none.txt")


def test_a_saved_network_comes_back_the_same(tmp_path: Path) -> None:
    plain = load_plain(RESNET20)
    path = tmp_path / "resnet20.pt2"
    save_pt2(plain, path)
    original, loaded = load_model(RESNET20), load_model(str(path))
    assert loaded.captured.graph.fingerprint == original.captured.graph.fingerprint
    assert [cut.name for cut in loaded.captured.graph.cuts] == [cut.name for cut in original.captured.graph.cuts]
    assert (loaded.preprocess, loaded.labels) == (original.preprocess, original.labels)
    with pytest.raises(ModelError, match="holds its own"):
        load_model(str(path), weights=tmp_path / "any.pth")


def test_a_foreign_pt2_of_floats_is_wrapped(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()
    path = tmp_path / "foreign.pt2"
    torch.export.save(torch.export.export(network, (torch.zeros(1, 3, 12, 10),)), path)
    loaded = load_model(str(path))
    graph = loaded.captured.graph
    assert (graph.tensors["input"].shape, graph.tensors["input"].dtype) == ((1, 3, 12, 10), "uint8")
    picture = torch.randint(0, 256, (1, 3, 12, 10), dtype=torch.uint8)
    answer = Segment(loaded.captured, graph.cuts[0], graph.cuts[-1]).run({"input": picture})[graph.outputs[0]]
    assert relative_error(answer, reference(PictureModel(network, loaded.preprocess), picture)) <= 1e-5
    with pytest.raises(ModelError, match=r"takes \(12, 10\) pixels"):
        load_model(str(path), preprocess=Preprocess())


def test_wrong_pt2_files(tmp_path: Path) -> None:
    path = tmp_path / "broken.pt2"
    path.write_bytes(b"PK not an archive")
    with pytest.raises(ModelError, match=r"not a \.pt2 of this torch"):
        load_model(str(path))
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    torch.export.save(torch.export.export(network.train(), (torch.zeros(1, 3, 8, 8),)), path)
    with pytest.raises(CaptureError, match="eval mode"):
        load_model(str(path))
    torch.export.save(torch.export.export(nn.Linear(3, 4), (torch.zeros(1, 3),)), path)
    with pytest.raises(ModelError, match="does not take one"):
        load_model(str(path))


def test_a_pt2_with_code_in_its_weights_is_refused(tmp_path: Path) -> None:
    path, evil = tmp_path / "good.pt2", tmp_path / "evil.pt2"
    torch.export.save(torch.export.export(nn.Conv2d(3, 4, 3).eval(), (torch.zeros(1, 3, 8, 8),)), path)
    replaced = 0
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(evil, "w") as target:
        for item in source.infolist():
            content = source.read(item)
            if "sample_inputs" in item.filename and item.filename.endswith(".pt"):
                content, replaced = pickle.dumps(Dangerous(), protocol=2), replaced + 1
            target.writestr(item, content)
    assert replaced == 1
    with pytest.raises(ModelError, match=r"not a \.pt2 of this torch"):
        load_model(str(evil))
