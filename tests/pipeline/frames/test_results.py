"""Guesses, labels, and the record of a result."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ConfigError
from pipeline.frames.results import Guess, Result, as_labels, read_labels, top_k
from pipeline.frames.wire import Hop
from tests.data import DATA, needs_data


def result(top: tuple[Guess, ...], truth: int | str | None) -> Result:
    return Result(3, 0.12, top, 2, 0.05, (Hop("cloud", compute_s=0.01),), truth)


@given(st.lists(st.floats(-20, 20, width=32), min_size=1, max_size=40), st.integers(1, 50))
def test_guesses_are_the_best_in_order(scores: list[float], k: int) -> None:
    guesses = top_k(torch.tensor([scores]), {}, k)
    assert len(guesses) == min(k, len(scores))
    assert [scores[g.index] for g in guesses] == sorted(scores, reverse=True)[:k]
    probabilities = [g.probability for g in guesses]
    assert probabilities == sorted(probabilities, reverse=True) and sum(probabilities) <= 1 + 1e-5


def test_logits_become_probabilities_and_probabilities_stay() -> None:
    logits = torch.tensor([2.0, -1.0, 0.5])
    expected = logits.softmax(0)
    assert top_k(logits, {}, 1)[0].probability == pytest.approx(float(expected[0]))
    assert top_k(expected[None, :, None, None], {}, 1)[0].probability == pytest.approx(float(expected[0]))


def test_a_detectors_map_has_no_top() -> None:
    assert top_k(torch.zeros(1, 85, 22, 22), {}) == ()
    assert top_k(torch.zeros(2, 10), {}) == ()


def test_classes_without_a_name_are_shown_by_index() -> None:
    first, second = top_k(torch.tensor([1.0, 3.0]), {1: "ring"})
    assert (first.title, second.title) == ("ring", "class 0")
    assert second.label is None


@pytest.mark.parametrize(("truth", "right"), [(1, True), (0, False), ("ring", True), ("disc", False), (None, None)])
def test_a_result_knows_whether_it_is_right(truth: int | str | None, right: bool | None) -> None:
    assert result(top_k(torch.tensor([1.0, 3.0]), as_labels(["disc", "ring"])), truth).right is right
    assert result((), truth).right is None


def test_a_result_survives_json() -> None:
    wanted = result(top_k(torch.tensor([1.0, 3.0]), {}), "x")
    assert msgspec.json.decode(msgspec.json.encode(wanted), type=Result) == wanted


def test_labels_are_read_from_text_and_table(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("disc\nring\n\n")
    (tmp_path / "names.csv").write_text("filename,class_index,wnid,class_name\na.jpg,7,n1,cock\nb.jpg,9,n2,ostrich\n")
    assert read_labels(tmp_path / "names.txt") == {0: "disc", 1: "ring"}
    assert read_labels(tmp_path / "names.csv") == {7: "cock", 9: "ostrich"}


@pytest.mark.parametrize("text", ["", "filename,x\na,b\n", "index,name\nseven,cock\n", "index,name\n7\n"])
def test_tables_that_make_no_sense_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "names.csv").write_text(text)
    with pytest.raises(ConfigError, match=r"names\.csv: cannot be read .*; give a text file"):
        read_labels(tmp_path / "names.csv")


def test_missing_labels_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        read_labels(tmp_path / "names.txt")


@needs_data
def test_the_truth_file_of_a_folder_serves_as_labels() -> None:
    labels = read_labels(DATA / "imagenet" / "labels.csv")
    assert len(labels) == 500 and labels[0] == "tench, Tinca tinca"
