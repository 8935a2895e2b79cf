"""How many frames of one segment a node computes together: as many as wait anyway, and as few as are the fastest.

Nothing is ever waited for. Frames of other streams that wait behind the first one, and want the same segment, may be
computed with it as one batch. A size is used only where its measured time per frame is lower, and only where it
gives what the frames give one by one, which its first batches are checked for: bit for bit (`EXACT`), or to rounding
(`ROUNDING`). A library may add up in another order for another size; on a CPU that is the rule where batches gain.
"""

from __future__ import annotations

import statistics
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Sequence
from enum import StrEnum

import torch
from torch import Tensor

SIZES = (1, 2, 4, 8)

ROUNDING_ERROR = 1e-5
"""Largest difference, relative to the largest magnitude of a tensor, that is rounding: the bound that tiles have."""


class Batches(StrEnum):
    """Which batches a node may compute."""

    OFF = "off"
    EXACT = "exact"
    """Those with the bits of their frames one by one."""
    ROUNDING = "rounding"
    """Those that differ by `ROUNDING_ERROR` at most."""


TRIALS = 4
"""Batches of each size that are timed before sizes are compared, and checked where they are more than one frame."""

WINDOW = 16
"""Times per size that count; the median of them does."""

WORTH = 0.95
"""A larger size must take at most this share of a smaller one's time per frame: it holds the first frame back."""

AGAIN = 64
"""Every so many choices another size is timed again."""

MAX_SEGMENTS = 64

Tensors = dict[str, Tensor]


class Sizes:
    """What is known of the batches of one segment."""

    def __init__(self, tolerance: float = 0.0) -> None:
        self.tolerance = tolerance
        """Of the check; 0 for equal bits."""
        self._seconds: dict[int, deque[float]] = {size: deque(maxlen=WINDOW) for size in SIZES}
        self._checked = dict.fromkeys(SIZES, 0)
        self._unequal: set[int] = set()
        self._choices = 0

    def choose(self, waiting: int) -> int:
        """Frames to compute next, of at least one that are `waiting`."""
        self._choices += 1
        sizes = [size for size in SIZES if size <= waiting and size not in self._unequal]
        rare = min(sizes, key=lambda size: len(self._seconds[size]))
        if len(self._seconds[rare]) < TRIALS:
            return rare
        if self._choices % AGAIN == 0:
            return sizes[self._choices // AGAIN % len(sizes)]
        best = sizes[0]
        for size in sizes[1:]:
            if self.frame_s(size) < WORTH * self.frame_s(best):
                best = size
        return best

    def more(self, waiting: int) -> int:
        """Frames to compute together with a first one, of those that wait behind it."""
        return self.choose(1 + waiting) - 1

    def frame_s(self, size: int) -> float:
        """Median seconds per frame in batches of that size; those that were timed."""
        return statistics.median(self._seconds[size])

    def is_doubtful(self, size: int) -> bool:
        """Whether batches of that size are still to be checked."""
        return size > 1 and self._checked[size] < TRIALS

    def timed(self, size: int, seconds: float) -> None:
        """A batch of that size took so long."""
        self._seconds[size].append(seconds / size)

    def checked(self, size: int, equal: bool) -> None:
        """A batch was compared with its frames one by one."""
        self._checked[size] += 1
        if not equal:
            self._unequal.add(size)


class BatchBook:
    """The sizes of all segments of a node, by what makes two frames' segments the same one."""

    def __init__(self, batches: Batches = Batches.EXACT) -> None:
        self._tolerance = ROUNDING_ERROR if batches is Batches.ROUNDING else 0.0
        self.counts: Counter[int] = Counter()
        """Batches computed, by size."""
        self._sizes: OrderedDict[object, Sizes] = OrderedDict()

    def of(self, key: object) -> Sizes:
        """Of one segment; the one used longest ago is forgotten first."""
        sizes = self._sizes.setdefault(key, Sizes(self._tolerance))
        self._sizes.move_to_end(key)
        while len(self._sizes) > MAX_SEGMENTS:
            self._sizes.popitem(last=False)
        return sizes


def compute_together(
    compute: Callable[[Tensors], Tensors], frames: Sequence[Tensors], sizes: Sizes, clock: Callable[[], float]
) -> tuple[list[Tensors], float]:
    """Compute frames of one segment as one batch.

    Args:
        compute: the segment; takes tensors (N, ...).
        frames: the tensors (1, ...) of each frame; as many as one of `SIZES`.
        sizes: are told how long it took, and, while that is in doubt, whether the batch has the bits of its frames.
        clock: monotonic seconds.

    Returns:
        The tensors of each frame, and the seconds that the batch took.
    """
    count, begin = len(frames), clock()
    if count == 1:
        made = [compute(frames[0])]
    else:
        whole = compute({name: torch.cat([frame[name] for frame in frames]) for name in frames[0]})
        made = [{name: tensor[number : number + 1] for name, tensor in whole.items()} for number in range(count)]
    seconds = clock() - begin
    sizes.timed(count, seconds)
    if sizes.is_doubtful(count):
        alone = [compute(frame) for frame in frames]
        sizes.checked(count, all(_same(*pair, sizes.tolerance) for pair in zip(made, alone, strict=True)))
        return alone, clock() - begin
    return made, seconds


def _same(one: Tensors, other: Tensors, tolerance: float) -> bool:
    return one.keys() == other.keys() and all(_near(one[name], other[name], tolerance) for name in one)


def _near(one: Tensor, other: Tensor, tolerance: float) -> bool:
    if not tolerance or not other.is_floating_point():
        return torch.equal(one, other)
    return float((one - other).abs().max()) <= tolerance * float(other.abs().max())
