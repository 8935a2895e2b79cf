"""Segments in a row give what the whole network gives, wherever it is cut."""

from __future__ import annotations

import gc
import itertools
import linecache
import logging
import random
import threading
import weakref

import pytest
import torch
from torch import Tensor

from pipeline.errors import ModelError
from pipeline.model.capture import CapturedModel
from pipeline.model.graph import Cut
from pipeline.model.layouts import Layout
from pipeline.model.segment import Segment
from tests.pipeline.model.networks import captured, reference, relative_error

_log = logging.getLogger(__name__)

LIMIT = 1e-5
LAYOUTS = list(Layout)
SMALL = [("alexnet", 80), ("vgg16", 48), ("resnet18", 48), ("mobilenetv2_w1", 48)]
LARGE = [("darknet53", 32), ("inceptionv4", 96), ("resnet50", 48), ("densenet121", 48)]
OTHERS = [("shufflenetv2_w1", 64), ("efficientnet_b0", 64), ("seresnet18", 48), ("preresnet18", 48)]


def chain(model: CapturedModel, picture: Tensor, cuts: list[Cut], layouts: list[Layout | None]) -> Tensor:
    """Run the segments between consecutive cuts, each in its own layout."""
    tensors = {"input": picture}
    for (start, end), layout in zip(itertools.pairwise(cuts), layouts, strict=True):
        tensors = Segment(model, start, end, layout=layout).run(tensors)
        assert tuple(tensors) == end.tensors
        assert all(tuple(tensors[name].shape) == model.graph.tensors[name].shape for name in end.tensors)
    return tensors[model.graph.outputs[0]]


def check_every_cut(name: str, size: int, full: bool = False, layouts: list[Layout] = LAYOUTS) -> float:
    """Before and behind every cut, in all pairs of layouts in turn; the worst relative error."""
    net, model, picture = captured(name, size, full)
    expected = reference(net, picture)
    cuts, worst = model.graph.cuts, 0.0
    pairs = itertools.cycle(itertools.product(layouts, layouts))
    for cut, pair in zip(cuts, pairs, strict=False):
        answer = chain(model, picture, [cuts[0], cut, cuts[-1]], list(pair))
        worst = max(worst, relative_error(answer, expected))
        assert answer.argmax() == expected.argmax(), f"cut {cut.name}"
    return worst


def check_random_pairs(name: str, size: int, count: int, full: bool = False, layouts: list[Layout] = LAYOUTS) -> float:
    """Three segments at random nested cut pairs; the worst relative error."""
    net, model, picture = captured(name, size, full)
    expected = reference(net, picture)
    generator, worst, cuts = random.Random(7), 0.0, model.graph.cuts
    for _ in range(count):
        first = generator.choice(cuts)
        second = generator.choice([cut for cut in cuts if first.before(cut)])
        chosen = [generator.choice(layouts) for _ in range(3)]
        answer = chain(model, picture, [cuts[0], first, second, cuts[-1]], list(chosen))
        worst = max(worst, relative_error(answer, expected))
        assert answer.argmax() == expected.argmax(), f"cuts {first.name}, {second.name}"
    return worst


@pytest.mark.parametrize(("name", "size"), SMALL)
def test_every_cut_of_small_networks(name: str, size: int) -> None:
    assert check_every_cut(name, size) <= LIMIT


@pytest.mark.parametrize(("name", "size"), LARGE)
def test_random_cut_pairs_of_large_networks(name: str, size: int) -> None:
    assert check_random_pairs(name, size, 8) <= LIMIT


@pytest.mark.parametrize(("name", "size"), OTHERS)
def test_random_cut_pairs_of_splits_gates_and_preactivation(name: str, size: int) -> None:
    assert check_random_pairs(name, size, 4) <= LIMIT


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", ["alexnet", "vgg16", "resnet18", "mobilenetv2_w1"])
def test_every_cut_at_full_size(name: str) -> None:
    worst = check_every_cut(name, 224, full=True)
    _log.info("%s: worst relative error %.1e over %d cuts", name, worst, len(captured(name, 224, True)[1].graph.cuts))
    assert worst <= LIMIT


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("name", "size"), [("darknet53", 224), ("inceptionv4", 299), ("resnet50", 224), ("densenet121", 224)]
)
def test_hundred_cut_pairs_at_full_size(name: str, size: int) -> None:
    worst = check_random_pairs(name, size, 100, full=True)
    _log.info("%s: worst relative error %.1e over 100 cut pairs", name, worst)
    assert worst <= LIMIT


def test_batches_are_computed_frame_by_frame() -> None:
    for name, size in (("resnet18", 48), ("shufflenetv2_w1", 64)):
        net, model, _ = captured(name, size)
        assert model.supports_batch
        frames = torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(3))
        cuts = model.graph.cuts
        for layout in LAYOUTS:
            answer = chain(model, frames[:1], [cuts[0], cuts[-1]], [layout])
            tensors = {"input": frames}
            for start, end in itertools.pairwise([cuts[0], cuts[len(cuts) // 2], cuts[-1]]):
                tensors = Segment(model, start, end, layout=layout).run(tensors)
            batch = tensors[model.graph.outputs[0]]
            assert batch.shape[0] == 3
            assert relative_error(batch, reference(net, frames)) <= LIMIT
            assert relative_error(batch[:1], answer) <= LIMIT


def test_the_input_is_not_written_to() -> None:
    _, model, picture = captured("preresnet18", 48)
    cuts = model.graph.cuts
    for layout in LAYOUTS:
        for cut in cuts[1:-1:5]:
            given = Segment(model, cuts[0], cut, layout=layout).run({"input": picture})
            copies = {name: tensor.clone() for name, tensor in given.items()}
            Segment(model, cut, cuts[-1], layout=layout).run(given)
            assert all(torch.equal(given[name], copies[name]) for name in given)


def test_layout_is_measured_once_and_weights_are_shared() -> None:
    _, model, _ = captured("resnet18", 48)
    cuts = model.graph.cuts
    first = Segment(model, cuts[0], cuts[-1])
    first.warm()
    count = len(model.prepared)
    second = Segment(model, cuts[5], cuts[20])
    assert second.layout is first.layout
    assert len(model.prepared) == count
    assert first.nbytes == model.graph.weight_bytes > second.nbytes > 0


def test_nothing_is_left_of_a_segment_that_is_gone() -> None:
    _, model, picture = captured("resnet18", 48)
    cuts = model.graph.cuts

    def build() -> weakref.ref[Segment]:
        segment = Segment(model, cuts[0], cuts[-1], layout=Layout.CONTIGUOUS)
        segment.run({"input": picture})
        return weakref.ref(segment)

    build()
    sources = len(linecache.cache)
    gone = [build() for _ in range(5)]
    gc.collect()
    assert [each() for each in gone] == [None] * 5
    assert len(linecache.cache) == sources


def test_an_empty_segment_hands_its_tensors_through() -> None:
    _, model, picture = captured("resnet18", 48)
    start = model.graph.cuts[0]
    segment = Segment(model, start, start)
    assert segment.run({"input": picture})["input"] is picture
    assert segment.nbytes == 0


def test_threads_share_a_segment() -> None:
    net, model, _ = captured("resnet18", 48)
    segment = Segment(model, model.graph.cuts[0], model.graph.cuts[-1])
    pictures = [torch.randn(1, 3, 48, 48, generator=torch.Generator().manual_seed(seed)) for seed in range(4)]
    expected = [reference(net, picture) for picture in pictures]
    errors: list[float] = []

    def work(index: int) -> None:
        for _ in range(5):
            answer = segment.run({"input": pictures[index]})[model.graph.outputs[0]]
            errors.append(relative_error(answer, expected[index]))

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(errors) == 20
    assert max(errors) <= LIMIT


def test_refusals() -> None:
    _, model, picture = captured("resnet18", 48)
    cuts = model.graph.cuts
    with pytest.raises(ModelError, match="not before"):
        Segment(model, cuts[5], cuts[1])
    with pytest.raises(ModelError, match="not given input; it needs input"):
        Segment(model, cuts[0], cuts[1]).run({"picture": picture})
    if not torch.cuda.is_available():
        with pytest.raises(ModelError, match="torch device cuda: not available on this machine; use"):
            Segment(model, cuts[0], cuts[1], torch_device="cuda")
