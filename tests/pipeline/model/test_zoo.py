"""Our own factories, with the published weights on the real pictures where those are at hand."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.model.segment import Segment
from pipeline.model.spec import LoadedModel, load_model
from pipeline.model.zoo import CIFAR_LABELS, mobilenet_v2
from tests.data import DATA, needs_data

WEIGHTS = DATA / "weights"
CIFAR = (("resnet20", "cifar10_resnet20-12fca82f.th", 80.45), ("resnet56", "cifar10_resnet56-4bfd9763.th", 84.15))


def whole(loaded: LoadedModel) -> Segment:
    """The network as one segment."""
    cuts = loaded.captured.graph.cuts
    return Segment(loaded.captured, cuts[0], cuts[-1])


def cifar_accuracy(loaded: LoadedModel, count: int) -> float:
    """Percent of the first `count` test pictures."""
    archive = np.load(DATA / "cifar10" / "cifar10_test_2000_jpeg.npz")
    assert tuple(archive["classes"]) == CIFAR_LABELS == loaded.labels
    segment, right = whole(loaded), 0
    for start in range(0, count, 100):
        pictures = torch.from_numpy(archive["images"][start : start + 100]).permute(0, 3, 1, 2).contiguous()
        answers = segment.run({"input": pictures})[loaded.captured.graph.outputs[0]].argmax(1).numpy()
        right += int((answers == archive["labels"][start : start + 100]).sum())
    return 100 * right / count


def imagenet_accuracy(loaded: LoadedModel, step: int) -> tuple[float, float]:
    """Top-1 and top-5 in percent, of every `step`-th picture."""
    segment, ranks = whole(loaded), []
    with (DATA / "imagenet" / "labels.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if (DATA / "imagenet" / row["filename"]).exists()][::step]
    for row in rows:
        rgb = np.asarray(Image.open(DATA / "imagenet" / row["filename"]).convert("RGB"))
        logits = segment.run({"input": loaded.preprocess.picture(rgb)})[loaded.captured.graph.outputs[0]][0]
        ranks.append(int((logits > logits[int(row["class_index"])]).sum()))
    return 100 * sum(rank < 1 for rank in ranks) / len(ranks), 100 * sum(rank < 5 for rank in ranks) / len(ranks)


def test_mobilenet_v2_is_the_published_architecture() -> None:
    net = mobilenet_v2()
    assert sum(parameter.numel() for parameter in net.parameters()) == 3_504_872
    keys = net.state_dict().keys()
    assert {"features.0.0.weight", "features.1.conv.1.weight", "features.18.1.bias", "classifier.1.bias"} <= keys


@needs_data
@pytest.mark.parametrize(("name", "weights", "published"), CIFAR)
def test_cifar_networks_on_the_first_pictures(name: str, weights: str, published: float) -> None:
    loaded = load_model(f"pipeline.model.zoo:{name}", weights=WEIGHTS / weights)
    assert abs(cifar_accuracy(loaded, 300) - published) < 6  # three standard errors of 300 pictures


@needs_data
def test_mobilenet_v2_on_some_pictures() -> None:
    loaded = load_model("pipeline.model.zoo:mobilenet_v2", weights=WEIGHTS / "mobilenet_v2_imagenet_rot180.pth")
    top1, top5 = imagenet_accuracy(loaded, 10)
    assert top1 >= 75
    assert top5 >= 90


@pytest.mark.slow
@needs_data
@pytest.mark.parametrize(("name", "weights", "published"), CIFAR)
def test_cifar_networks_on_all_pictures(name: str, weights: str, published: float) -> None:
    loaded = load_model(f"pipeline.model.zoo:{name}", weights=WEIGHTS / weights)
    assert cifar_accuracy(loaded, 2000) == pytest.approx(published, abs=0.051)  # one picture is 0.05


@pytest.mark.slow
@needs_data
def test_mobilenet_v2_on_all_pictures() -> None:
    loaded = load_model("pipeline.model.zoo:mobilenet_v2", weights=WEIGHTS / "mobilenet_v2_imagenet_rot180.pth")
    top1, top5 = imagenet_accuracy(loaded, 1)
    # 87.4 and 97.8 are known for a thousand pictures, of which these are a half: within two standard errors.
    assert top1 == pytest.approx(87.4, abs=3.0)
    assert top5 == pytest.approx(97.8, abs=1.3)
