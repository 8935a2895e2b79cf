"""A device's run from start to end: source, node, sinks, summary."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from nodes.admission import Admit, Outcome, Waiting
from nodes.commands.options import from_file
from nodes.commands.serving import Launch
from nodes.deciding import MAX_DROP
from nodes.device import DeviceNode, StreamSettings
from nodes.guard import BUDGET, Guard
from nodes.launch import stop_on_signals, stop_with_parent, tell_ready
from nodes.summary import Gatherer, Summary, create_run_folder, write_json
from pipeline.errors import SourceError
from pipeline.frames.annotate import AnnotatedVideo
from pipeline.frames.prefetch import Pace, Prefetcher
from pipeline.frames.results import Result, as_labels, read_labels, top_k
from pipeline.frames.sinks import Background, JsonLines, Sink
from pipeline.frames.sources import Source, open_source
from pipeline.model import memory
from pipeline.model.spec import LoadedModel
from pipeline.plan import Plan

logger = logging.getLogger(__name__)


LIVE_RESULTS_BYTES = 2 << 30
"""Of a source without an end: a day at 30 frames/s; the newest one to two days are kept."""


@dataclass(frozen=True)
class SessionSettings:
    """What a device does with which source."""

    stream: str
    source: str = "scene:"
    frames: int | None = None
    admit: Admit = Admit.LATEST
    run_dir: Path | None = None
    annotate: Path | None = None
    labels: Path | None = None
    first_plan_timeout_s: float = 10.0
    needs_plan: bool = False
    guard_budget: float = BUDGET
    """Share of frames, and of the device's time, that the accuracy guard may take; 0 for no guard."""
    seconds: float | None = None
    """The source is taken to end so long after its first frame."""

    def resolved(self, launch: Launch) -> tuple[SessionSettings, Launch]:
        """With what the deployment file says, where one is given."""
        found = from_file(launch.config, launch.name, "device")
        if found is None:
            return self, launch
        deployment, node = found
        settings = replace(
            self,
            stream=node.stream or node.name,
            source=node.source or self.source,
            admit=Admit(node.admit),
            labels=deployment.labels,
        )
        return settings, launch.resolved()


class DeviceSession:
    """Runs one stream on this device.

    Raises:
        AnabranchError: a model, source, sink or address that does not work.
    """

    def __init__(self, settings: SessionSettings, launch: Launch) -> None:
        self.settings = settings
        self.model: LoadedModel = launch.load()
        self.labels = read_labels(settings.labels) if settings.labels else as_labels(self.model.labels)
        self.gatherer = Gatherer()
        stream = StreamSettings(settings.stream, settings.admit, settings.first_plan_timeout_s, settings.needs_plan)
        self.source: Source = open_source(
            settings.source, limit=settings.frames, on_event=lambda kind, text: self.node.note(kind, text)
        )
        self.sinks: list[Sink] = []
        self.guard: Guard | None = None
        self.node = DeviceNode(launch.settings(), self.model, stream, self.emit)
        self.node.admission.on_switch = self._switched
        # A file that waits for the network gives as many frames as are asked for, whatever its nominal rate.
        self.node.admission.source_fps = (self.source.fps or 0.0) if self._keeps_time else 0.0

    def run(self, child: bool) -> Summary:
        """Process the source to its end, or until a signal; the summary is written either way.

        Raises:
            AnabranchError: what ended the run early, after everything until then was counted.
        """
        stop_on_signals(self.node.admission.stop)
        if child:
            stop_with_parent(self.node.admission.stop)
        with contextlib.ExitStack() as stack:
            stack.callback(self.source.close)
            self._open_sinks(stack)
            stack.callback(self._write_summary)
            stack.callback(self.node.stop)
            endpoints = self.node.start()
            self._start_guard(stack)
            memory.settle()
            tell_ready({"results": endpoints.results})
            self.node.run(self._feed)
        if self.source.ended_early:
            raise SourceError(f"source {self.settings.source}", self.source.ended_early)
        return self.summary()

    def emit(self, outcome: Outcome) -> None:
        """Hand an outcome to the sinks, in frame order."""
        result = self._result(outcome)
        self.gatherer.add(outcome, result.right)
        for sink in self.sinks:
            sink.write(result, outcome.waiting.frame.rgb)
        used = self.gatherer.plans.get(outcome.header.epoch)
        if self.guard is not None and used is not None:
            self.guard.saw(outcome, used[0])

    def summary(self) -> Summary:
        """What happened so far."""
        admission, gatherer = self.node.admission, self.gatherer
        return Summary(
            self.settings.stream,
            self.model.captured.graph.name,
            self.settings.source,
            admission.ledger.admitted,
            gatherer.results,
            dict(admission.counts.drops),
            dict(admission.ledger.readmissions),
            admission.ledger.drops["duplicate"],
            gatherer.seconds,
            gatherer.fps,
            gatherer.latency(),
            gatherer.stages(),
            gatherer.links(),
            gatherer.epochs(),
            gatherer.accuracy,
            guarded=self.guard.counts.guarded if self.guard else 0,
            guard_disagreed=self.guard.counts.disagreed if self.guard else 0,
            source_error=self.source.ended_early or "",
        )

    def _feed(self, offer: Callable[[Waiting], bool]) -> None:
        pace = Pace() if self._keeps_time and not self.source.live else None
        with Prefetcher(self.source, self.model.preprocess, pace=pace) as prefetcher:
            until_s = math.inf
            for number, (frame, picture) in enumerate(prefetcher):
                if number == 0 and self.settings.seconds is not None:
                    until_s = time.monotonic() + self.settings.seconds
                if time.monotonic() >= until_s or not offer(Waiting(frame, picture)):
                    return

    @property
    def _keeps_time(self) -> bool:
        """Whether frames come when they were taken, and not when they are wanted."""
        return self.source.live or self.settings.admit is Admit.LATEST

    def _start_guard(self, stack: contextlib.ExitStack) -> None:
        exact = self.node.epochs.get(self.settings.stream, 0)
        if exact is None or not self.settings.guard_budget:
            return
        output = self.model.captured.graph.outputs[0]
        self.guard = Guard(
            exact.compute, output, MAX_DROP, lambda words: self.node.note("accuracy", words), self.settings.guard_budget
        )
        stack.callback(self.guard.close)

    def _switched(self, plan: Plan, first_frame: int) -> None:
        self.gatherer.used(plan, first_frame)
        self.node.changed()

    def _open_sinks(self, stack: contextlib.ExitStack) -> None:
        if self.settings.run_dir is not None:
            create_run_folder(self.settings.run_dir)
            most_bytes = LIVE_RESULTS_BYTES if self.source.live else None
            self.sinks.append(JsonLines(self.settings.run_dir / "results.jsonl", most_bytes))
        if self.settings.annotate is not None:
            self.sinks.append(Background(AnnotatedVideo(self.settings.annotate, self.source.fps)))
        for sink in self.sinks:
            stack.callback(sink.close)

    def _write_summary(self) -> None:
        if self.settings.run_dir is None:
            return
        write_json(self.settings.run_dir / "summary.json", self.summary())
        plans = [{"first_frame": first, "plan": plan} for plan, first in self.gatherer.plans.values()]
        write_json(self.settings.run_dir / "plan.json", plans)

    def _result(self, outcome: Outcome) -> Result:
        header, frame = outcome.header, outcome.waiting.frame
        output = outcome.outputs[self.model.captured.graph.outputs[0]]
        return Result(
            frame=frame.number,
            source_time_s=frame.time_s,
            top=top_k(output, self.labels),
            epoch=header.epoch,
            latency_s=outcome.latency_s,
            hops=header.hops,
            truth=self._known(frame.truth),
            admitted_s=outcome.admitted_s,
        )

    def _known(self, truth: int | str | None) -> int | str | None:
        """The truth, where it is in this network's terms: a scene's class means nothing to an ImageNet network."""
        return truth if not isinstance(truth, str) or truth in self.labels.values() else None
