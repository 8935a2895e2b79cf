"""What is left of a run: the summary, gathered frame by frame in bounded memory, and the folder that holds it."""

from __future__ import annotations

import itertools
import time
from collections import Counter, OrderedDict
from pathlib import Path

import msgspec
import numpy as np

from nodes.admission import Outcome
from pipeline.errors import SinkError
from pipeline.plan import Plan
from scheduler.simulate.record import Quantiles

MAX_SAMPLES = 100_000
"""Latencies kept for percentiles; of a longer run, an even sample (reservoir)."""

MAX_EPOCHS = 100_000
"""Epochs whose results are counted, the latest ones: a switch a second for a day."""

MAX_NODES = 256
"""Nodes that means are kept of; a frame passes through three at most, which may change over a run."""

MAX_PLANS = 10_000
"""Plans kept for `plan.json`; the oldest leave first."""


class StageSummary(msgspec.Struct, frozen=True):
    """Means per frame of one node's work, in seconds."""

    node: str
    frames: int
    compute_s: float
    queue_s: float
    unpack_s: float
    pack_s: float
    sent_bytes: float
    """Packed bytes per frame that the node sent on."""


class Summary(msgspec.Struct, frozen=True):
    """`summary.json`."""

    stream: str
    model: str
    source: str
    frames_admitted: int
    results: int
    drops: dict[str, int]
    """Frames let go before admission, by reason."""
    readmitted: dict[str, int]
    """Further attempts at admitted frames, by reason."""
    duplicates: int
    seconds: float
    """From the first admission to the last result."""
    fps: float
    """Results per second between the first and the last result."""
    latency_s: Quantiles | None
    stages: list[StageSummary]
    link_bytes: dict[str, float]
    """Bytes per frame over each link, by `from -> to`, averaged over the frames that took it."""
    epochs: dict[int, int]
    """Results per epoch."""
    accuracy: float | None
    """Share of frames whose top-1 is the truth; None where no truth is known."""
    guarded: int = 0
    """Frames of lossy plans that were also computed in full precision."""
    guard_disagreed: int = 0
    """Of these, frames whose top-1 was another one."""
    source_error: str = ""
    """Why the source ended early; empty where it did not."""


class Gatherer:
    """Collects what the summary says, one outcome at a time."""

    def __init__(self) -> None:
        self.results = 0
        self.plans: OrderedDict[int, tuple[Plan, int]] = OrderedDict()
        self._latencies: list[float] = []
        self._rng = np.random.default_rng(0)
        self._sums: dict[str, Counter[str]] = {}
        self._links: dict[str, list[float]] = {}
        self._epochs: Counter[int] = Counter()
        self._begin_s: float | None = None
        self._first_s = 0.0
        self._last_s = 0.0
        self._with_truth = 0
        self._right = 0

    def used(self, plan: Plan, first_frame: int) -> None:
        """Note that `first_frame` is the first one admitted under `plan`."""
        self.plans[plan.epoch] = (plan, first_frame)
        while len(self.plans) > MAX_PLANS:
            self.plans.popitem(last=False)

    def add(self, outcome: Outcome, is_right: bool | None) -> None:
        """Take one outcome; `is_right` is None where no truth is known."""
        now = time.monotonic()
        if self._begin_s is None:
            self._begin_s, self._first_s = now - outcome.latency_s, now
        self._last_s = now
        self.results += 1
        self._keep(outcome.latency_s)
        self._epochs[outcome.header.epoch] += 1
        if len(self._epochs) > MAX_EPOCHS:
            del self._epochs[min(self._epochs)]
        if is_right is not None:
            self._with_truth += 1
            self._right += is_right
        self._add_hops(outcome)

    def _add_hops(self, outcome: Outcome) -> None:
        hops = outcome.header.hops
        for hop in hops:
            if hop.node not in self._sums and len(self._sums) >= MAX_NODES:
                continue
            sums = self._sums.setdefault(hop.node, Counter())
            sums.update(frames=1, sent_bytes=hop.packed_bytes)
            for name in ("compute_s", "queue_s", "unpack_s", "pack_s"):
                sums[name] += getattr(hop, name)
        for hop, after in itertools.pairwise(hops):
            if hop.node not in self._sums or after.node not in self._sums:
                continue
            link = self._links.setdefault(f"{hop.node} -> {after.node}", [0.0, 0.0])
            link[0] += hop.packed_bytes
            link[1] += 1

    def _keep(self, latency_s: float) -> None:
        if len(self._latencies) < MAX_SAMPLES:
            self._latencies.append(latency_s)
        elif (slot := int(self._rng.integers(self.results))) < MAX_SAMPLES:
            self._latencies[slot] = latency_s

    @property
    def seconds(self) -> float:
        """From the first admission to the last result."""
        return 0.0 if self._begin_s is None else self._last_s - self._begin_s

    @property
    def fps(self) -> float:
        """Results per second between the first and the last result."""
        elapsed = self._last_s - self._first_s
        return (self.results - 1) / elapsed if elapsed > 0 else 0.0

    @property
    def accuracy(self) -> float | None:
        """Share of right answers among the frames of known truth."""
        return self._right / self._with_truth if self._with_truth else None

    def latency(self) -> Quantiles | None:
        """Of the latency; None before the first result."""
        return Quantiles.of(self._latencies)

    def stages(self) -> list[StageSummary]:
        """Means per node, in the order in which the nodes were first seen."""
        names = ("compute_s", "queue_s", "unpack_s", "pack_s", "sent_bytes")
        return [
            StageSummary(node, int(sums["frames"]), *(sums[name] / sums["frames"] for name in names))
            for node, sums in self._sums.items()
        ]

    def links(self) -> dict[str, float]:
        """Bytes per frame, by link."""
        return {name: total / count for name, (total, count) in self._links.items()}

    def epochs(self) -> dict[int, int]:
        """Results per epoch."""
        return dict(self._epochs)


def create_run_folder(path: Path) -> Path:
    """Make the folder of a run.

    Raises:
        SinkError: it cannot be made or written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / ".probe"
        probe.write_bytes(b"\0")
        probe.unlink()
    except OSError as error:
        raise SinkError(
            f"run folder {path}", error.strerror or "cannot be written", "choose another with --run-dir"
        ) from error
    return path


def write_json(path: Path, content: object) -> None:
    """Write `content` as JSON for people and machines.

    Raises:
        SinkError: the disk is full, or the file cannot be written.
    """
    try:
        path.write_bytes(msgspec.json.format(msgspec.json.encode(content)) + b"\n")
    except OSError as error:
        raise SinkError(
            f"file {path}", error.strerror or "cannot be written", "free space, or choose another --run-dir"
        ) from error
