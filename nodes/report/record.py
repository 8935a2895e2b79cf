"""The record of a run, from its folder: `record.json`, or what a live run leaves behind.

A live folder has `results.jsonl`, `events.jsonl`, `summary.json` and `plan.json`, and, where the links were shaped,
`links.json` (`nodes.replayed`). Results carry no time of day; the device's reports in the event log do, with the
number of results by then, and the time of each result is interpolated between them.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np

from nodes.replayed import FILE as LINKS_FILE
from nodes.replayed import LiveLink, read_links
from nodes.summary import Summary
from pipeline import tablefile
from pipeline.errors import AnabranchError, ConfigError
from pipeline.frames.results import Result
from pipeline.model.graph import ModelGraph
from pipeline.plan import Plan
from scheduler.estimate import LinkEstimator
from scheduler.events import LogDecision, LogLine, ReportReceived, decode_line
from scheduler.reports import Report, StreamReport
from scheduler.simulate.record import (
    FILE,
    Frames,
    LinkSeries,
    PlanUse,
    Quantiles,
    Remark,
    RunRecord,
    Totals,
)
from scheduler.simulate.recorder import SHOWN, shares

STEP_S = 0.5
"""Steps of a link's true rate."""

T = TypeVar("T")


class _PlanUse(msgspec.Struct, frozen=True):
    first_frame: int
    plan: Plan


def load_run(folder: Path) -> RunRecord:
    """The record of a run's folder.

    Raises:
        ConfigError: it holds no run.
    """
    if (folder / FILE).exists():
        return RunRecord.load(folder / FILE)
    return _Live(folder).record()


def whole_results(lines: Iterable[bytes]) -> Iterator[Result]:
    """The lines that are results: a run that was killed, or whose disk was full, may have left half of one."""
    for line in lines:
        with contextlib.suppress(*tablefile.MALFORMED):
            yield msgspec.json.decode(line, type=Result)


class _Live:
    """A live run's files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.summary = self._json("summary.json", Summary)
        self.uses = self._json("plan.json", list[_PlanUse])
        results = whole_results(self._lines("results.jsonl"))
        self.results = sorted(results, key=lambda result: result.frame)
        self.lines = list(self._events())
        self.graph = self._json("model.json", ModelGraph) if (folder / "model.json").exists() else None
        self.about = self._about()
        reports = [(line.now, line.event.report) for line in self.lines if isinstance(line.event, ReportReceived)]
        self.reports: list[tuple[float, Report]] = reports
        self.zero_s, done_s = self._exact() or self._counted()
        """When the source started, on the scheduler's clock."""
        self.timed = sorted(zip(done_s, self.results, strict=True), key=lambda each: each[0])
        """The results in the order in which they came, each with its time."""

    def record(self) -> RunRecord:
        """All of it."""
        frames = self._frames()
        settings = self.about.get("settings", {})
        planner = str(settings.get("planner", "fixed")) if isinstance(settings, dict) else "fixed"
        seconds = max(frames.done_s, default=0.0)
        plans = self._plans(frames)
        return RunRecord(
            title=f"{self.summary.model}, {planner}",
            kind="live",
            policy=planner,
            model=self.summary.model,
            objective=_goals(settings),
            seconds=seconds,
            streams=[self.summary.stream],
            totals=self._totals(frames, plans),
            frames=frames,
            plans=plans,
            links=self._links(seconds),
            remarks=self._remarks(),
            about={"source": self.summary.source, **self._trace_names()},
        )

    # --- files

    def _json(self, name: str, kind: type[T]) -> T:
        return tablefile.decode(self.folder / name, kind, "file of a run", "name the folder of a finished run")

    def _lines(self, name: str) -> list[bytes]:
        try:
            return (self.folder / name).read_bytes().splitlines()
        except OSError as error:
            raise ConfigError(f"run {self.folder}", f"{name}: {error.strerror}", "name the folder of a run") from error

    def _events(self) -> list[LogLine]:
        """The event log without its header; a last line that was cut off is left out."""
        found = []
        for line in self._lines("events.jsonl")[1:]:
            try:
                found.append(decode_line(line))
            except AnabranchError:
                continue
        return found

    def _about(self) -> dict[str, object]:
        lines = self._lines("events.jsonl")
        try:
            return msgspec.json.decode(lines[0], type=dict[str, object]) if lines else {}
        except tablefile.MALFORMED:
            return {}

    # --- figures

    def _exact(self) -> tuple[float, list[float]] | None:
        """When the source started, and each frame's result, by the device's own clock; None where it says nothing.

        The least difference of a report's times is the clocks' and the way's (NTP's minimum filter, one way).
        """
        of_device = [(now, each) for now, each in self.reports if self._streams(each)]
        admitted = [result.admitted_s for result in self.results if result.admitted_s is not None]
        if not of_device or not admitted or len(admitted) < len(self.results):
            return None
        offset_s = min(now - each.sent_s for now, each in of_device)
        first_s = min(admitted)
        latencies = [result.latency_s for result in self.results]
        return first_s + offset_s, [at_s - first_s + each for at_s, each in zip(admitted, latencies, strict=True)]

    def _counted(self) -> tuple[float, list[float]]:
        """The same where results have no times: by how many there were at each report."""
        counted = [(now, told.results) for now, report in self.reports for told in self._streams(report)]
        first = next(((now, results) for now, results in counted if results), None)
        if first is None:
            zero_s = self.reports[0][0] if self.reports else 0.0
        else:  # they came at the run's mean rate until then
            zero_s = first[0] - first[1] / max(self.summary.fps, 1e-3)
        points = _growing([0, *(results for _, results in counted)], [zero_s, *(now for now, _ in counted)])
        done = np.interp(np.arange(1, len(self.results) + 1), *points) - zero_s
        return zero_s, done.tolist()

    def _streams(self, report: Report) -> list[StreamReport]:
        return [told for told in report.streams if told.stream == self.summary.stream]

    def _frames(self) -> Frames:
        return Frames(
            stream=[0] * len(self.timed),
            frame=[result.frame for _, result in self.timed],
            admitted_s=[done_s - result.latency_s for done_s, result in self.timed],
            done_s=[done_s for done_s, _ in self.timed],
            epoch=[result.epoch for _, result in self.timed],
            bytes=[sum(hop.packed_bytes for hop in result.hops[:-1]) for _, result in self.timed],
        )

    def _plans(self, frames: Frames) -> list[PlanUse]:
        reasons = {
            line.instruction.record.epoch: line.instruction.record.reason
            for line in self.lines
            if isinstance(line.instruction, LogDecision)
            and line.instruction.record.kind in ("prepare", "fallback", "adopt")
        }
        admitted = dict(zip(frames.frame, frames.admitted_s, strict=True))
        found = []
        for use in self.uses:
            at_s = admitted.get(use.first_frame, max(frames.admitted_s, default=0.0))
            count = len(use.plan.stages)
            part = shares(self.graph, use.plan) if self.graph is not None else (1.0 / count,) * count
            found.append(PlanUse(max(0.0, at_s), 0, use.plan, reasons.get(use.plan.epoch, ""), part))
        return sorted(found, key=lambda use: use.at_s)

    def _totals(self, frames: Frames, plans: list[PlanUse]) -> Totals:
        summary, latency = self.summary, frames.latency_s
        results = max(1, summary.results)
        return Totals(
            frames_admitted=summary.frames_admitted,
            results=summary.results,
            drops=summary.drops,
            readmitted=summary.readmitted,
            duplicates=summary.duplicates,
            seconds=summary.seconds,
            fps=summary.fps,
            latency_s=Quantiles.of(latency),
            latency_mean_s=math.fsum(latency) / results,
            bytes_per_frame=sum(frames.bytes) / results,
            link_bytes=summary.link_bytes,
            epochs=summary.epochs,
            switches=max(0, len(plans) - 1),
            drop=None,
            accuracy=summary.accuracy,
        )

    def _links(self, seconds: float) -> list[LinkSeries]:
        """Estimates by replaying the receivers' reports, truth from the traces where they are known."""
        estimators: dict[tuple[str, str], LinkEstimator] = {}
        seen: dict[tuple[str, str], list[tuple[float, float]]] = {}
        shaped = self._shaped()
        for now, report in self.reports:
            for link in report.links:
                name = link.peer, report.node
                estimator = estimators.setdefault(name, LinkEstimator())
                estimator.add(link, now)
                goodput = estimator.goodput(now)
                if goodput is not None:
                    seen.setdefault(name, []).append((now - self.zero_s, goodput.value))
        used = {pair for use in self.uses for pair in itertools.pairwise(use.plan.nodes)}
        names = [name for name in dict.fromkeys([*shaped, *seen]) if name in used or name in shaped]
        return [self._series(name, shaped.get(name), seen.get(name, []), seconds) for name in names[:3]]

    def _trace_names(self) -> dict[str, str]:
        return {f"{source} -> {target}": link.trace for (source, target), link in self._shaped().items()}

    def _shaped(self) -> dict[tuple[str, str], LiveLink]:
        path = self.folder / LINKS_FILE
        return read_links(path) if path.exists() else {}

    def _series(
        self, name: tuple[str, str], shaped: LiveLink | None, seen: list[tuple[float, float]], seconds: float
    ) -> LinkSeries:
        times, rates = [], []
        if shaped is not None and shaped.start_s is not None:
            trace = shaped.capacity()
            offset_s = self.zero_s - shaped.start_s
            times = [float(each) for each in np.arange(0.0, max(seconds, STEP_S), STEP_S)]
            rates = [float(trace.bits_between(offset_s + at_s, offset_s + at_s + STEP_S)) / STEP_S for at_s in times]
        during = [(at_s, bps) for at_s, bps in seen if 0.0 <= at_s <= seconds]
        return LinkSeries(f"{name[0]} -> {name[1]}", times, rates, [at for at, _ in during], [bps for _, bps in during])

    def _remarks(self) -> list[Remark]:
        found = [line.instruction.record for line in self.lines if isinstance(line.instruction, LogDecision)]
        return [
            Remark(each.at_s - self.zero_s, each.kind, each.reason, each.stream, each.epoch)
            for each in found
            if each.kind in SHOWN
        ]


def _growing(counts: list[int], times: list[float]) -> tuple[list[int], list[float]]:
    """Points of strictly growing counts; the first time of each count holds."""
    kept_counts, kept_times = [counts[0]], [times[0]]
    for count, at_s in zip(counts[1:], times[1:], strict=True):
        if count > kept_counts[-1]:
            kept_counts.append(count)
            kept_times.append(max(at_s, kept_times[-1]))
    return kept_counts, kept_times


def _goals(settings: object) -> str:
    try:
        levels = settings["objective"]["priorities"]  # type: ignore[index]
        return ",".join(str(level["goal"]) for level in levels)
    except (KeyError, TypeError):
        return ""
