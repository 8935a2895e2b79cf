"""The device: where the stream starts and where its results come home."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import msgspec
import torch

from nodes.admission import Admission, Admit, Attempt, Outcome, Waiting
from nodes.handoff import Closed, Handoff
from nodes.inbox import Incoming, receive
from nodes.keys import Purpose
from nodes.node import Node, NodeSettings
from nodes.stage import Aside
from pipeline.errors import AnabranchError, NodeError
from pipeline.frames.wire import REASONS, Buffer, DropNotice, FrameHeader, Head, Message, Ping, Pong, check_tensors
from pipeline.model.graph import INPUT, TensorSpec
from pipeline.model.spec import LoadedModel
from pipeline.packing.sessions import open_decoder
from pipeline.plan import RESULT_CODEC, Plan, Tier, device_only
from pipeline.stage import Compute, StageProgram
from scheduler.commands import Announcement, Command
from scheduler.pieces import PIECES, pieces_for
from scheduler.reports import Endpoints, NodeEvent, Report

logger = logging.getLogger(__name__)

MAX_EVENTS = 32
"""Events that wait for the next report; older ones are in the log."""

Feed = Callable[[Callable[[Waiting], bool]], None]
"""Reads a source to its end, offering every frame; returns at the end, or once an offer is refused."""

Emit = Callable[[Outcome], None]
"""Takes the outcomes in frame order."""


@dataclass(frozen=True)
class StreamSettings:
    """How a device treats its source."""

    stream: str
    admit: Admit = Admit.EVERY
    first_plan_timeout_s: float = 0.0
    """How long the first frame waits for a plan of the scheduler's; then the device goes on alone."""
    needs_plan: bool = False
    """Whether it is an error that no plan came in that time (a fixed plan), instead of going on alone."""


class DeviceNode(Node):
    """Admits the frames of one stream, runs its first stage, and brings its results to the sinks."""

    def __init__(self, settings: NodeSettings, model: LoadedModel, stream: StreamSettings, emit: Emit) -> None:
        super().__init__(settings, model, Tier.DEVICE, self._take_local)
        self.stream = stream
        self._emit = emit
        self._fallback = device_only(stream.stream, settings.name, model.captured.graph.fingerprint)
        self.admission = Admission(stream.stream, self._fallback, self.epochs, stream.admit)
        self._local: Handoff[Message] = Handoff(8)
        self._events: list[NodeEvent] = []
        self._events_lock = threading.Lock()
        self._failure: AnabranchError | None = None
        self._threads: list[threading.Thread] = []
        self._pieces: tuple[Compute, ...] = ()
        """Of the whole network, for frames that the device computes alone beside a plan with other nodes."""
        self._outputs = tuple(model.captured.graph.tensors[name] for name in model.captured.graph.outputs)

    def build(self, plan: Plan) -> StageProgram | None:
        """As any node does; a plan that leaves everything to the device runs on what epoch 0 has built already.

        To build and to warm the whole network takes seconds on a weak device, and just when its links fail.
        """
        whole = self.epochs.get(self.stream.stream, 0)
        if whole is not None and plan.stages == self._fallback.stages:
            return replace(whole, plan=plan)
        return super().build(plan)

    def start(self) -> Endpoints:
        """Build the whole network as epoch 0, bind the results inbox and start the threads."""
        program = self.build(self._fallback)
        if program is not None:
            self.epochs.add(program)
            self._fit_pieces(program)
        inbox, endpoint = self.factory.pull(self.settings.listen, Purpose.RESULTS)
        endpoints = Endpoints(results=self.settings.advertise or endpoint)
        self.directory.learn(self.stream.stream, self.name, {self.name: endpoints})
        self.loop.start()
        self._spawn("results", lambda: receive(inbox, self.loop.links, self._sort, self.stopping))
        self._spawn("local results", self._receive_local)
        self.report_as(endpoints)
        return endpoints

    def _fit_pieces(self, program: StageProgram) -> None:
        """Find in how many pieces a frame is computed alone, and what they take."""
        [whole_s], detour = _seconds(program.inputs, [program.compute]), self.admission.flow.detour
        self._pieces = self.pieces(PIECES)
        _seconds(program.inputs, self._pieces)  # the first time is longer
        seconds = _seconds(program.inputs, self._pieces)
        if (count := pieces_for(whole_s, sum(seconds))) < PIECES:
            self._pieces = self.pieces(count)
            _seconds(program.inputs, self._pieces)
            seconds = _seconds(program.inputs, self._pieces)
        detour.alone_s, detour.piece_s = sum(seconds), max(seconds)

    def run(self, feed: Feed) -> None:
        """Process a source to its end.

        Raises:
            AnabranchError: the source, a sink, or a plan that is needed and does not come.
        """
        self._wait_for_plan()
        self._spawn("source", lambda: self._read(feed))
        for attempt in self.admission.attempts():
            program = self.epochs.get(self.stream.stream, attempt.plan.epoch)
            if program is None:
                self.admission.lose(attempt.entry.frame, attempt.entry.attempt, "unknown-epoch")
                continue
            header = FrameHeader(
                self.stream.stream, self.fingerprint, attempt.plan.epoch, attempt.entry.frame,
                attempt.entry.attempt, 0, time.monotonic_ns(), (), (), attempt.key,
            )  # fmt: skip
            try:
                self.loop.submit(header, program, {INPUT: attempt.entry.picture.picture}, self._aside(attempt))
            except Closed:
                break
        if self._failure is not None:
            raise self._failure

    def _aside(self, attempt: Attempt) -> Aside | None:
        """A frame that is computed alone while the plan has other nodes is in the way of none that goes by it."""
        admission = self.admission
        if attempt.plan.epoch or admission.plan.is_device_only or admission.flow.leaves_gaps(admission.source_fps):
            return None
        entry = attempt.entry
        return Aside(self._pieces, partial(admission.expects, entry.frame, entry.attempt))

    def stop(self) -> None:
        """Stop admitting, then stop all threads."""
        self.admission.stop()
        self._local.close()
        self.stopping.set()
        for thread in self._threads:
            thread.join(timeout=30)
        super().stop()

    def fail(self, error: AnabranchError) -> None:
        """End the run with `error`."""
        self._failure = self._failure or error
        self.admission.stop()

    def note(self, kind: str, text: str) -> None:
        """Put an event into the next report, which goes out at once."""
        with self._events_lock:
            self._events = [*self._events, NodeEvent(kind, self.stream.stream, text=text[:2000])][-MAX_EVENTS:]
        self.changed()

    def hear(self, command: Command) -> None:
        """Follow announcements of this device's stream."""
        super().hear(command)
        if isinstance(command, Announcement) and command.stream == self.stream.stream:
            self.admission.hear(command)

    def built(self) -> None:
        """Follow a committed plan as soon as it can run here: one for the device alone is committed unbuilt."""
        self.admission.built()
        super().built()

    def enrich(self, report: Report) -> Report:
        """Add the stream and its events."""
        with self._events_lock:
            events, self._events = tuple(self._events), []
        return msgspec.structs.replace(super().enrich(report), streams=(self.admission.report(),), events=events)

    def _spawn(self, step: str, run: Callable[[], None]) -> None:
        thread = threading.Thread(target=run, name=f"{self.name} {step}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _wait_for_plan(self) -> None:
        """Hold the first frame back until the scheduler's first plan is committed, for a limited time."""
        if self.settings.scheduler is None:
            return
        deadline_s = time.monotonic() + self.stream.first_plan_timeout_s
        while not self.stopping.is_set() and not self.admission.wait_for_plan(deadline_s - time.monotonic()):
            if self.agent is not None and self.agent.refusal:
                raise NodeError(f"node {self.name}", self.agent.refusal)
            if time.monotonic() >= deadline_s:
                self._go_on_without_plan()
                return

    def _go_on_without_plan(self) -> None:
        heard = self.agent is not None and self.agent.heard_at_s is not None
        why = "its scheduler has no plan that can run yet" if heard else "its scheduler does not answer"
        trouble = self.settings.scheduler and self.factory.trouble(self.settings.scheduler.plans)
        if trouble:
            why = trouble.text
        if self.stream.needs_plan:
            raise NodeError(
                f"stream {self.stream.stream}",
                f"{why} after {self.stream.first_plan_timeout_s:.0f} s",
                "check that every node of the plan runs and reports to the same scheduler",
            )
        logger.warning("%s: %s; everything on the device until it does", self.stream.stream, why)

    def _read(self, feed: Feed) -> None:
        try:
            feed(self.admission.offer)
        except AnabranchError as error:
            self.fail(error)
        finally:
            self.admission.source_ended()

    # --- results

    def _take_local(self, header: FrameHeader, buffers: Sequence[Buffer]) -> None:
        try:
            self._local.put(Message(header, buffers))
        except Closed:
            logger.debug("stopping: result of frame %d not kept", header.frame)

    def _receive_local(self) -> None:
        while True:
            try:
                message = self._local.get()
            except Closed:
                return
            if message is not None:
                self._take(message)

    def _sort(self, incoming: Incoming) -> None:
        header = incoming.message.header
        if isinstance(header, Ping):
            self.loop.pong(header, incoming.received_s, incoming.message.reply_to)
        elif isinstance(header, FrameHeader | DropNotice):
            # Nobody but who was sent the frame knows the number of the attempt: what names another is late, or forged.
            if header.stream != self.stream.stream or not self.admission.expects(header.frame, header.attempt):
                # Nobody is blamed: a node passes on whatever it was sent, and would be cut off for a stranger's frames.
                self.admission.count_unasked(header.frame, header.attempt)
            elif isinstance(header, FrameHeader):
                self._take(incoming.message)
            else:
                self._lose(header)
        elif not isinstance(header, Head | Pong):
            self.loop.links.refuse("misplaced")
            self.loop.links.door.blame(incoming.source, f"a {type(header).__name__} where results belong")

    def _lose(self, notice: DropNotice) -> None:
        reason = notice.reason if notice.reason in REASONS else "other"
        logger.warning("%s gave up frame %d: %s (%s)", notice.node, notice.frame, reason, notice.detail)
        self.note("frame given up", f"{notice.node}: frame {notice.frame}: {reason}: {notice.detail}")
        if reason == "model-mismatch" and self.stream.needs_plan:
            self.fail(
                NodeError(f"node {notice.node}", notice.detail, "start all nodes with the same model and weights")
            )
        self.admission.lose(notice.frame, notice.attempt, reason)

    def _take(self, message: Message) -> None:
        header = message.header
        assert isinstance(header, FrameHeader)
        now = time.monotonic()
        try:
            check_tensors(message, self._outputs)
            decode = open_decoder(RESULT_CODEC).decode
            outputs = {
                spec.name: decode(buffer, spec, header.frame)
                for spec, buffer in zip(self._outputs, message.buffers, strict=True)
            }
        except AnabranchError as error:
            logger.warning("result of frame %d dropped: %s", header.frame, error)
            self.admission.lose(header.frame, header.attempt, "bad-message")
            return
        for outcome in self.admission.complete(header, outputs, now):
            try:
                self._emit(outcome)
            except AnabranchError as error:
                self.fail(error)


def _seconds(inputs: Sequence[TensorSpec], pieces: Sequence[Compute]) -> list[float]:
    """What each piece of a frame takes."""
    tensors = {spec.name: torch.zeros(spec.shape, dtype=getattr(torch, spec.dtype)) for spec in inputs}
    found = []
    for piece in pieces:
        began_s = time.monotonic()
        tensors = piece(tensors)
        found.append(time.monotonic() - began_s)
    return found
