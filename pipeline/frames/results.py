"""What the pipeline answers for a frame."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import torch
from torch import Tensor

from pipeline.errors import ConfigError
from pipeline.frames.wire import Hop

MAX_CLASSES = 1 << 20
"""Bound on the index of a class in a file of labels: they are also kept as a list."""

Labels = Mapping[int, str]
"""Class names by index; classes without a name are shown by their index."""


class Guess(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One class with its probability."""

    index: int
    label: str | None
    probability: float

    @property
    def title(self) -> str:
        """The label, or the index where there is none."""
        return self.label if self.label is not None else f"class {self.index}"


class Result(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The answer for one frame: one line of `results.jsonl`."""

    frame: int
    source_time_s: float
    top: tuple[Guess, ...]
    """Most probable first."""
    epoch: int
    """Of the plan that computed it."""
    latency_s: float
    """From admission to result, on the device's clock."""
    hops: tuple[Hop, ...] = ()
    truth: int | str | None = None
    detail: dict[str, float | int | str] = {}
    """Whatever else a node wants on record."""
    admitted_s: float | None = None
    """When it was first admitted, on the device's monotonic clock; None in runs of before 2026-11-21."""

    @property
    def right(self) -> bool | None:
        """Whether the first guess is the truth; None where either is unknown."""
        if self.truth is None or not self.top:
            return None
        best = self.top[0]
        return best.index == self.truth if isinstance(self.truth, int) else best.label == self.truth


def top_k(output: Tensor, labels: Labels, k: int = 5) -> tuple[Guess, ...]:
    """The `k` most probable classes.

    Scores that are not probabilities already (all at least 0, sum 1) are taken for logits, and softmax makes
    probabilities of them.

    Args:
        output: (classes,), (1, classes) or (1, classes, 1, 1) of float.
        labels: class names by index.
        k: how many; fewer where there are fewer classes.

    Returns:
        Guesses, most probable first; empty where the output is not a vector of scores (a detector's maps).
    """
    if output.numel() != max(output.shape, default=0):
        return ()
    scores = output.detach().flatten().float()
    probabilities = scores if _is_distribution(scores) else scores.softmax(0)
    best = scores.topk(min(k, len(scores))).indices  # ranked before softmax, which rounds close scores to equal ones
    pairs = zip(best.tolist(), probabilities[best].tolist(), strict=True)
    return tuple(Guess(index, labels.get(index), probability) for index, probability in pairs)


def _is_distribution(scores: Tensor) -> bool:
    return bool(scores.min() >= 0) and abs(float(scores.sum(dtype=torch.float64)) - 1) < 1e-3


def as_labels(names: Sequence[str]) -> Labels:
    """Labels of a model that lists them in the order of its classes."""
    return dict(enumerate(names))


def read_labels(path: Path) -> Labels:
    """Class names from a file of the user's.

    A `.csv` file has a header; its columns for the index and the name are those whose titles contain `index` and
    `name` or `label` (`filename` is neither), so a folder's truth file does. Any other file has a name a line.

    Raises:
        ConfigError: the file cannot be read, or has no such columns.
    """
    try:
        with path.open(newline="", encoding="utf-8") as lines:
            if path.suffix.lower() == ".csv":
                return _from_table(list(csv.reader(lines)))
            return as_labels([line.strip() for line in lines if line.strip()])
    except (OSError, ValueError, IndexError, csv.Error) as error:
        mend = "give a text file with a name a line, or a csv file with columns index and name"
        raise ConfigError(f"labels {path}", f"cannot be read ({error})", mend) from error


def _from_table(rows: list[list[str]]) -> Labels:
    titles = [title.strip().lower() for title in rows[0]]
    names = [i for i, title in enumerate(titles) if ("name" in title or "label" in title) and title != "filename"]
    indices = [i for i, title in enumerate(titles) if "index" in title]
    if not names or not indices:
        raise ValueError("no columns `index` and `name`")
    found = {int(row[indices[0]]): row[names[0]] for row in rows[1:] if row}
    if found and not 0 <= min(found) <= max(found) < MAX_CLASSES:
        raise ValueError(f"an index is not in 0 to {MAX_CLASSES - 1}")
    return found
