"""The loop that every tier runs: receive, unpack, compute, pack, send.

One thread a step, joined by bounded hand-overs, so that packing one frame, computing the next and unpacking the
one after overlap; ZeroMQ's own thread moves the bytes meanwhile. Each socket belongs to one thread.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import zmq
from torch import Tensor

from nodes.batches import SIZES, BatchBook, Batches, Sizes, compute_together
from nodes.epochs import EpochStore
from nodes.handoff import Closed, Handoff
from nodes.inbox import Incoming, receive
from nodes.links import LinkMeter, answer
from nodes.outlet import Outlet, Undeliverable
from pipeline.errors import AnabranchError, CodecError, WireError
from pipeline.frames import wire
from pipeline.frames.wire import DropNotice, FrameHeader, Head, Hop, Message, Ping, Pong, Probe
from pipeline.packing.sessions import MissingReference
from pipeline.stage import Compute, StageProgram
from scheduler.meter import StageMeter
from scheduler.patience import Source

logger = logging.getLogger(__name__)

ARRIVALS = 64
"""Messages received and not yet unpacked. The devices' credit windows keep it far below; beyond it TCP pushes back."""


Item = TypeVar("Item")


@dataclass(frozen=True)
class Arrival:
    """A frame's message as it came in."""

    message: Message
    header: FrameHeader
    received_s: float
    source: Source | None = None


@dataclass(frozen=True)
class Aside:
    """How a frame is computed that is in no other's way: in pieces, with those that wait between any two of them."""

    pieces: Sequence[Compute]
    is_wanted: Callable[[], bool]
    """Whether it has no result yet; once it has, the rest of it is not computed."""


@dataclass
class Work:
    """A frame inside a node, with the times of what was done to it."""

    header: FrameHeader
    program: StageProgram
    tensors: dict[str, Tensor]
    received_s: float
    unpack_s: float = 0.0
    compute_s: float = 0.0
    busy_s: float = 0.0
    """Time in which a step worked on the frame; the rest since `received_s` was waiting."""
    aside: Aside | None = None

    @property
    def segment(self) -> tuple[str, str, str]:
        """What makes two frames' segments the same one; a program that takes no batches is alone of its kind."""
        program = self.program
        alone = "" if program.takes_batches else program.plan.label
        return program.start.name, program.end.name, alone


@dataclass(frozen=True)
class Measurement:
    """A ping, a pong or a probe on its way out."""

    node: str
    message: Message
    endpoint: str = ""
    """Where to, if not to the node's inbox."""


Deliver = Callable[[FrameHeader, Sequence[wire.Buffer]], None]
"""Takes the result of a plan whose last stage is on the device itself."""


class StageLoop:
    """Runs this node's stage of every frame that comes in.

    Args:
        name: the node.
        model: fingerprint of the network that the node holds.
        epochs: the programs that can be run.
        outlet: where results and notices go.
        deliver: takes results that stay on this node.
        batches: which frames that wait may be computed together.
    """

    def __init__(
        self,
        name: str,
        model: str,
        epochs: EpochStore,
        outlet: Outlet,
        deliver: Deliver | None = None,
        batches: Batches = Batches.OFF,
    ) -> None:
        self.name = name
        self.model = model
        self.epochs = epochs
        self.outlet = outlet
        self.meter = StageMeter()
        self.links = LinkMeter(outlet.directory.knows)
        self._deliver = deliver
        self._arrived: Handoff[Arrival] = Handoff(ARRIVALS)
        self._unpacked: Handoff[Work] = Handoff(1 if batches is Batches.OFF else max(SIZES))
        self.batches, self._together = BatchBook(batches), batches is not Batches.OFF
        self._computed: Handoff[Work | DropNotice | Measurement | StageProgram] = Handoff()
        self.handoffs: dict[str, Handoff[Any]] = {
            "arrived": self._arrived,
            "unpacked": self._unpacked,
            "computed": self._computed,
        }
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self, inbox: zmq.Socket[bytes] | None = None) -> None:
        """Start the threads; `inbox` is the node's PULL socket, handed over to the receiver."""
        if inbox is not None:
            self._spawn("receive", lambda: receive(inbox, self.links, self._sort, self._stopping))
            self._spawn("unpack", self._unpack)
        self._spawn("compute", self._compute)
        self._spawn("send", self._send)

    def submit(
        self, header: FrameHeader, program: StageProgram, tensors: dict[str, Tensor], aside: Aside | None = None
    ) -> None:
        """Enter a frame that needs no unpacking (the device's own); waits while the stage is busy.

        Raises:
            Closed: the loop is stopped.
        """
        self._unpacked.put(Work(header, program, tensors, time.monotonic(), aside=aside))

    def stop(self) -> None:
        """Stop the threads and wait for them."""
        self._stopping.set()
        for handoff in self.handoffs.values():
            handoff.close()
        for thread in self._threads:
            thread.join(timeout=30)

    def _spawn(self, step: str, run: Callable[[], None]) -> None:
        thread = threading.Thread(target=run, name=f"{self.name} {step}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _sort(self, incoming: Incoming) -> None:
        header = incoming.message.header
        if isinstance(header, FrameHeader):
            self._arrived.put(Arrival(incoming.message, header, incoming.received_s, incoming.source))
        elif isinstance(header, Ping):
            self.pong(header, incoming.received_s, incoming.message.reply_to)
        elif not isinstance(header, Head | Pong | Probe):
            self.links.refuse("misplaced")
            self.links.door.blame(incoming.source, f"a {type(header).__name__} where frames belong")

    def open(self, program: StageProgram) -> None:
        """Connect to where the frames of a new program will go, before there are any."""
        if not (program.is_last and self._deliver is not None):
            self._computed.offer(program)

    def measure(self, node: str, message: Message, endpoint: str = "") -> None:
        """Send a ping, a pong or a probe to `node` between two frames."""
        self._computed.offer(Measurement(node, message, endpoint))

    def pong(self, ping: Ping, received_s: float, reply_to: str = "") -> None:
        """Answer a ping that came in at `received_s`."""
        self.measure(ping.node, Message(answer(self.name, ping, received_s)), reply_to)

    def ping_peers(self) -> None:
        """Ask every node that sends here for an echo."""
        for peer in self.links.peers:
            self.measure(peer, Message(Ping(self.name, time.monotonic_ns())))

    def _unpack(self) -> None:
        while (arrival := _next(self._arrived)) is not None:
            work = self._unpack_one(arrival)
            if work is not None:
                try:
                    self._unpacked.put(work)
                except Closed:
                    return

    def _unpack_one(self, arrival: Arrival) -> Work | None:
        """The frame, unpacked; None where it had to be given up."""
        header = arrival.header
        if header.model != self.model:
            self._refuse(arrival, "model-mismatch", f"{self.name} holds model {self.model}, not {header.model}")
            return None
        program = self.epochs.get(header.stream, header.epoch)
        if program is None or program.hop != header.hop:
            self._refuse(arrival, "unknown-epoch", f"{self.name} cannot run epoch {header.epoch}")
            return None
        if header.hops and header.hops[-1].node != program.plan.stages[header.hop - 1].node:
            # Not told to the device: it knows nothing of this frame, and would admit a good one of its number again.
            self.links.refuse("not its frame")
            self.links.door.blame(arrival.source, f"a frame of {header.stream} from {header.hops[-1].node}")
            return None
        begin = time.monotonic()
        try:
            tensors = program.unpack(arrival.message)
        except (CodecError, WireError) as error:
            self._refuse(arrival, _reason(error), str(error))
            return None
        spent = time.monotonic() - begin
        return Work(header, program, tensors, arrival.received_s, unpack_s=spent, busy_s=spent)

    def _compute(self) -> None:
        try:
            while (work := _next(self._unpacked)) is not None:
                if work.aside is None:
                    self._compute_next(work)
                else:
                    self._compute_aside(work, work.aside)
        except Closed:
            return

    def _compute_next(self, work: Work) -> None:
        sizes = self.batches.of(work.segment)
        more = self._unpacked.more(partial(_same_segment, work), sizes.more) if self._together else []
        self.batches.counts[1 + len(more)] += 1
        for done in self._computed_together([work, *more], sizes):
            self._computed.put(done)

    def _compute_aside(self, work: Work, aside: Aside) -> None:
        """A frame piece by piece; frames that wait go between them, for as long as a piece takes."""
        seconds = 0.0
        for number, piece in enumerate(aside.pieces):
            until_s = time.monotonic() + seconds
            while number and len(self._computed) < self._computed.bound and time.monotonic() <= until_s:
                waiting = self._unpacked.more(_is_no_aside, lambda there: min(there, 1))
                if not waiting:
                    break
                self._compute_next(waiting[0])
            if not aside.is_wanted():
                return
            begin = time.monotonic()
            try:
                work.tensors = piece(work.tensors)
            except (AnabranchError, RuntimeError) as error:  # RuntimeError: what torch's operators raise
                self._fail(work.header, error)
                return
            seconds = time.monotonic() - begin
            work.compute_s += seconds
        work.busy_s += work.compute_s
        self._computed.put(work)

    def _computed_together(self, works: list[Work], sizes: Sizes) -> list[Work]:
        """Frames of one segment, computed; those that fail are given up."""
        try:
            made, seconds = compute_together(
                works[0].program.compute, [work.tensors for work in works], sizes, time.monotonic
            )
        except (AnabranchError, RuntimeError) as error:  # RuntimeError: what torch's operators raise
            if len(works) > 1:
                return [done for work in works for done in self._computed_together([work], sizes)]
            self._fail(works[0].header, error)
            return []
        for work, tensors in zip(works, made, strict=True):
            work.tensors, work.compute_s = tensors, seconds / len(works)
            work.busy_s += seconds
        return works

    def _fail(self, header: FrameHeader, error: Exception) -> None:
        logger.error("frame %d of %s failed", header.frame, header.stream, exc_info=error)
        self._give_up(header, "compute", str(error).splitlines()[0])

    def _send(self) -> None:
        with self.outlet:
            while (item := _next(self._computed)) is not None:
                if isinstance(item, DropNotice):
                    self._notify(item)
                elif isinstance(item, Measurement):
                    self.outlet.measure(item.node, item.message, item.endpoint)
                elif isinstance(item, StageProgram):
                    self.outlet.open(item.plan, item.hop)
                else:
                    self._forward(item)

    def _forward(self, work: Work) -> None:
        header, program = work.header, work.program
        begin = time.monotonic()
        try:
            tensors, buffers = program.pack(work.tensors, header.frame, header.key)
        except CodecError as error:
            self._notify(self._notice(header, "codec", str(error)))
            return
        now = time.monotonic()
        hop = Hop(
            self.name,
            queue_s=max(0.0, begin - work.received_s - work.busy_s),
            unpack_s=work.unpack_s,
            compute_s=work.compute_s,
            pack_s=now - begin,
            packed_bytes=sum(tensor.nbytes for tensor in tensors),
        )
        self.meter.add(header.stream, header.epoch, hop, now)
        onward = FrameHeader(
            header.stream, header.model, header.epoch, header.frame, header.attempt, header.hop + 1,
            time.monotonic_ns(), tensors, (*header.hops, hop), header.key,
        )  # fmt: skip
        if program.is_last and self._deliver is not None:
            self._deliver(onward, buffers)
            return
        try:
            self.outlet.send(program.plan, program.hop, Message(onward, buffers))
        except Undeliverable as error:
            self._notify(self._notice(header, "send-timeout", str(error)))

    def _refuse(self, arrival: Arrival, reason: str, detail: str) -> None:
        """Give up a frame for what it is or says."""
        self.links.door.blame(arrival.source, detail)
        self._give_up(arrival.header, reason, detail)

    def _give_up(self, header: FrameHeader, reason: str, detail: str) -> None:
        self._computed.offer(self._notice(header, reason, detail))

    def _notice(self, header: FrameHeader, reason: str, detail: str) -> DropNotice:
        return DropNotice(header.stream, header.epoch, header.frame, header.attempt, self.name, reason, detail[:512])

    def _notify(self, notice: DropNotice) -> None:
        self.links.refuse(notice.reason)
        logger.warning("frame %d of %s given up: %s (%s)", notice.frame, notice.stream, notice.reason, notice.detail)
        self.outlet.notify(notice)


def _next(handoff: Handoff[Item]) -> Item | None:
    """The next item, or None where the hand-over is closed."""
    try:
        return handoff.get()
    except Closed:
        return None


def _same_segment(one: Work, other: Work) -> bool:
    """Of two streams: a stream's own frames are computed one by one, as its plan was costed."""
    takes = one.program.takes_batches and one.header.stream != other.header.stream
    return takes and one.segment == other.segment


def _reason(error: CodecError | WireError) -> str:
    if isinstance(error, MissingReference):
        return "need-key"
    return "codec" if isinstance(error, CodecError) else "bad-message"


def _is_no_aside(work: Work) -> bool:
    return work.aside is None
