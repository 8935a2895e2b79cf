"""The record of a run, simulated or live: what reports are drawn from. Plain data, one JSON file.

Times are seconds since the source started; series are columns, since a run has many frames.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import numpy as np

from pipeline import tablefile
from pipeline.errors import ConfigError, SinkError
from pipeline.plan import Plan

VERSION = 1
FILE = "record.json"
"""Its name in a run's folder."""


class Frames(msgspec.Struct, forbid_unknown_fields=True):
    """Results in the order in which they came, one entry a frame in each column."""

    stream: list[int] = []
    """Index in `RunRecord.streams`."""
    frame: list[int] = []
    admitted_s: list[float] = []
    done_s: list[float] = []
    epoch: list[int] = []
    bytes: list[int] = []
    """Over all links together."""

    @property
    def latency_s(self) -> list[float]:
        """From first admission to result."""
        return [done - admitted for admitted, done in zip(self.admitted_s, self.done_s, strict=True)]


class PlanUse(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A plan, from its first frame on."""

    at_s: float
    stream: int
    plan: Plan
    reason: str
    shares: tuple[float, ...]
    """Share of the network's arithmetic that each stage computes."""
    drop: float | None = None
    """Accuracy drop of its codecs; None where unknown."""

    def line(self, *, cuts: bool = False) -> str:
        """For people: the share of the network that each tier computes, to which cut, and the codecs between."""
        parts = []
        for number, (stage, share) in enumerate(zip(self.plan.stages, self.shares, strict=True)):
            parts.append(f"{stage.tier} {share:.0%}" + (f" to {stage.until}" if cuts else ""))
            if number < len(self.plan.links):
                parts.append(f"-{self.plan.links[number].codec}->")
        return " ".join(parts)


class LinkSeries(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One link over time."""

    name: str
    """`source -> target`, as in `Totals.link_bytes`."""
    true_s: list[float]
    true_bps: list[float]
    """Means over the steps that begin at `true_s`; empty where the truth is not known."""
    estimated_s: list[float]
    estimated_bps: list[float]


class Remark(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A decision of the scheduler's."""

    at_s: float
    kind: str
    reason: str
    stream: str = ""
    epoch: int | None = None


class Quantiles(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of one quantity, over the whole run."""

    p50: float
    p95: float
    p99: float

    @classmethod
    def of(cls, values: list[float]) -> Quantiles | None:
        """Of a list; None where it is empty."""
        return cls(*(float(each) for each in np.percentile(values, (50, 95, 99)))) if values else None


class Totals(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The figures of a run; names as in the live `summary.json`, where both have them."""

    frames_admitted: int
    results: int
    drops: dict[str, int]
    """Frames let go before admission, by reason."""
    readmitted: dict[str, int]
    duplicates: int
    seconds: float
    """From the first admission to the last result."""
    fps: float
    """Results per second between the first and the last result."""
    latency_s: Quantiles | None
    latency_mean_s: float
    bytes_per_frame: float
    link_bytes: dict[str, float]
    """Bytes per result over each link, headers and probes included."""
    epochs: dict[int, int]
    """Results per epoch."""
    switches: int
    drop: float | None
    """Mean accuracy drop over all results; None where unknown."""
    accuracy: float | None = None
    """Share of right answers; None where no truth is known."""


class RunRecord(msgspec.Struct, forbid_unknown_fields=True):
    """Everything that a report shows."""

    title: str
    kind: str
    """`simulated` or `live`."""
    policy: str
    model: str
    objective: str
    seconds: float
    streams: list[str]
    totals: Totals
    frames: Frames
    plans: list[PlanUse]
    links: list[LinkSeries]
    remarks: list[Remark]
    about: dict[str, str] = {}
    """Further settings, for people."""
    events: int = 0
    """Events of the simulation."""
    version: int = VERSION

    def save(self, folder: Path) -> Path:
        """Write `record.json` into a folder.

        Raises:
            SinkError: it cannot be written.
        """
        path = folder / FILE
        scratch = path.with_suffix(".part")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            scratch.write_bytes(msgspec.json.encode(self) + b"\n")
            os.replace(scratch, path)
        except OSError as error:
            raise SinkError(f"record {path}", error.strerror or "cannot be written", "choose another folder") from error
        return path

    @classmethod
    def load(cls, path: Path) -> RunRecord:
        """Read a record.

        Raises:
            ConfigError: unreadable, damaged, or of another version.
        """
        found = tablefile.decode(path, cls, "record", "name the folder of a run")
        if found.version != VERSION:
            raise ConfigError(f"record {path}", f"version {found.version}, not {VERSION}", "run it again")
        return found


def fps_of(done_s: list[float]) -> float:
    """Results per second between the first and the last."""
    if len(done_s) < 2:
        return 0.0
    elapsed = max(done_s) - min(done_s)
    return (len(done_s) - 1) / elapsed if elapsed > 0 else 0.0
