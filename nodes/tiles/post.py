"""How tiles travel: who sends them, one thread that receives, and the answers that are waited for.

A tile that travels as it lies is sent by the thread that computes; what has to be packed, by one of its own.
"""

from __future__ import annotations

import itertools
import logging
import secrets
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import msgspec
import torch
import zmq
from torch import Tensor

from nodes.handoff import Closed, Handoff
from nodes.inbox import Incoming, receive
from nodes.links import LinkMeter, answer
from nodes.outlet import Outlet, Undeliverable
from nodes.tiles.deadlines import TileId
from nodes.tiles.layout import Part
from nodes.tiles.roster import Roster, Timing
from pipeline.errors import CodecError, WireError
from pipeline.frames import wire
from pipeline.frames.wire import (
    Buffer,
    Head,
    Message,
    Ping,
    Pong,
    Probe,
    TensorHeader,
    Tile,
    TileDone,
    TileOrder,
    TileReady,
    check_tensors,
)
from pipeline.model.function import inference
from pipeline.model.graph import TensorSpec
from pipeline.packing import codec
from pipeline.packing.plain import DTYPES, ROWS, is_channels_last

logger = logging.getLogger(__name__)

SENDING = 64
"""Tiles on their way out; one frame of one stack has as many as there are workers."""

RETRY_S = 0.01
ORDER_TTL_S = 2.0
"""An order to a worker whose connection is not up yet is tried again this often, for this long."""

LATE = 256
"""Tiles given up whose answers are still known when they come."""

RAW = "fp32"


def pack_tile(
    tensors: Mapping[str, Tensor], specs: tuple[TensorSpec, ...], name: str
) -> tuple[tuple[TensorHeader, ...], list[Buffer]]:
    """Encode a tile's tensors; `name` is the codec of float ones.

    Raises:
        CodecError: NaN or infinity under a codec that cannot carry them.
    """
    headers, buffers = [], []
    with inference():
        for spec in specs:
            tensor, chosen = tensors[spec.name], codec.get(codec_for(spec, name))
            if chosen.name == RAW and is_channels_last(tensor):
                chosen = ROWS
            buffer = chosen.encode(tensor, spec)
            headers.append(TensorHeader.of(spec, chosen.name, memoryview(buffer).nbytes))
            buffers.append(buffer)
    return tuple(headers), buffers


def unpack_tile(message: Message, specs: tuple[TensorSpec, ...], name: str) -> dict[str, Tensor]:
    """Check a tile's tensors against what must come, and decode them.

    Raises:
        WireError: other tensors, or another codec.
        CodecError: a buffer that the codec refuses.
    """
    check_tensors(message, specs)
    header = message.header
    assert isinstance(header, wire.Carrier)
    found = {}
    for tensor, spec, buffer in zip(header.tensors, specs, message.buffers, strict=True):
        due = codec_for(spec, name)
        chosen = ROWS if due == RAW and tensor.codec == ROWS.name else codec.get(due)
        if tensor.codec != chosen.name:
            raise WireError(f"tensor {spec.name!r}", f"packed as {tensor.codec!r}, not as {due!r}")
        found[spec.name] = chosen.decode(buffer, spec)
    return found


def try_codec(specs: tuple[TensorSpec, ...], name: str) -> None:
    """Pack and unpack zeros, so that the first tile finds everything ready, and what cannot be packed is known.

    Raises:
        CodecError: the codec cannot carry these tensors.
    """
    for spec in specs:
        chosen = codec.get(codec_for(spec, name))
        zeros = torch.zeros(spec.shape, dtype=DTYPES[spec.dtype])
        chosen.decode(bytearray(chosen.encode(zeros, spec)), spec)


def codec_for(spec: TensorSpec, name: str) -> str:
    """Codec of one tensor: the plan's for floats, exact for all others."""
    return name if spec.dtype == "float32" else RAW


@dataclass
class Request:
    """A tile that a worker computes."""

    part: Part
    header: Tile
    codec: str
    tensors: dict[str, Tensor]
    begun_s: float
    outputs: dict[str, Tensor] | None = None
    compute_s: float = 0.0
    """What the worker took, once there are outputs."""
    rest_s: float = 0.0
    """What the rest of its strip before this one took it."""
    failed: bool = False
    abandoned: bool = False
    """Whether nobody waits any more, through no fault of the worker's."""

    @property
    def tile(self) -> TileId:
        """Which of its layout's it is."""
        return self.header.order, self.header.task


@dataclass
class _Letter:
    """An order or an echo on its way out."""

    worker: str
    message: Message
    until_s: float = field(default_factory=lambda: time.monotonic() + ORDER_TTL_S)


class Post:
    """Requests out, answers in.

    Args:
        name: the edge node.
        outlet: the sockets of the sending thread.
        roster: is told what came of every request.
        on_news: called when a worker gave a sign of life that it was waited for.
    """

    def __init__(self, name: str, outlet: Outlet, roster: Roster, on_news: Callable[[], None]) -> None:
        self.name = name
        self.links = LinkMeter(outlet.directory.knows)
        self.counts: Counter[str] = Counter()
        """Tiles that did not come back as they should, by reason."""
        self._outlet = outlet
        self._roster = roster
        self._on_news = on_news
        self._sending: Handoff[Request | _Letter] = Handoff(SENDING)
        self._tickets = itertools.count(secrets.randbits(60))
        """From a random number on: who was not asked cannot answer."""
        self._waiting: dict[int, Request] = {}
        self._given_up: OrderedDict[int, Request] = OrderedDict()
        self._ready: OrderedDict[tuple[int, str], TileReady | None] = OrderedDict()
        """Answers to orders, by order and worker; None while there is none."""
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self, inbox: zmq.Socket[bytes]) -> None:
        """Start both threads; `inbox` is handed over to the receiver."""
        take_in = lambda: receive(inbox, self.links, self._sort, self._stopping)  # noqa: E731
        for step, run in (("tiles in", take_in), ("tiles out", self._send)):
            thread = threading.Thread(target=run, name=f"{self.name} {step}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """Stop both threads; who waits for an answer gets none."""
        self._stopping.set()
        self._sending.close()
        with self._changed:
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(timeout=30)

    @property
    def queue(self) -> tuple[int, int]:
        """Depth and bound of what waits to be sent."""
        return len(self._sending), self._sending.bound

    def ticket(self) -> int:
        """The next request's number."""
        return next(self._tickets)

    def order(self, worker: str, order: TileOrder) -> None:
        """Send an order; `ready` has the answer."""
        with self._changed:
            self._ready[order.order, worker] = None
            while len(self._ready) > LATE:
                self._ready.popitem(last=False)
        self._sending.offer(_Letter(worker, Message(order)))

    def ready(self, order: int, worker: str, timeout_s: float) -> TileReady | None:
        """The worker's answer to an order; None where none comes in time."""
        with self._changed:
            key = (order, worker)
            self._changed.wait_for(lambda: self._ready.get(key) is not None or self._stopping.is_set(), timeout_s)
            return self._ready.pop(key) if self._ready.get(key) is not None else None

    def request(self, request: Request) -> None:
        """Send a tile. What is to be packed, or is not taken at once, is sent while the caller computes."""
        with self._changed:
            self._waiting[request.header.ticket] = request
        if not self._is_sent(request) and not self._sending.offer(request):
            self._fail(request, "queue full")

    def collect(self, request: Request) -> dict[str, Tensor] | None:
        """The tile's outputs; None once its deadline has passed, or nothing will come."""
        ticket = request.header.ticket
        with self._changed:
            left_s = max(0.0, request.begun_s + self._allowed_s(request) - time.monotonic())
            self._changed.wait_for(
                lambda: request.outputs is not None or request.failed or self._stopping.is_set(), left_s
            )
            self._waiting.pop(ticket, None)
            if request.outputs is not None:
                return request.outputs
            if not request.failed:
                self.counts["late"] += 1
                self._give_up(request)
        self._roster.missed(request.part.worker, time.monotonic())
        self._on_news()
        return None

    def _allowed_s(self, request: Request) -> float:
        """Seconds from its beginning that a tile may take. They are asked for when it is waited for, not when it is
        sent: most are there by then, and the sender has its own tile to compute."""
        if request.outputs is not None:
            return 0.0
        part, roster = request.part, self._roster
        local_s = part.work_s / roster.speed(roster.own)
        return roster.deadline_s(part.worker, request.tile, part.predicted_s, local_s)

    def abandon(self, request: Request) -> None:
        """Wait no more for a tile that is of no use: its frame is computed another way."""
        with self._changed:
            if self._waiting.pop(request.header.ticket, None) is not None and not request.failed:
                request.abandoned = True
                self._give_up(request)

    def _give_up(self, request: Request) -> None:
        self._given_up[request.header.ticket] = request
        while len(self._given_up) > LATE:
            self._given_up.popitem(last=False)

    def _fail(self, request: Request, why: str) -> None:
        with self._changed:
            self.counts[why] += 1
            request.failed = True
            self._changed.notify_all()

    # --- out

    def _send(self) -> None:
        letters: list[_Letter] = []
        with self._outlet:
            while True:
                try:
                    item = self._sending.get(RETRY_S if letters else None)
                except Closed:
                    return
                if isinstance(item, Request):
                    self._send_tile(item)
                elif item is not None:
                    letters.append(item)
                letters = [letter for letter in letters if not self._send_letter(letter)]

    def _send_tile(self, request: Request) -> None:
        try:
            self._outlet.send_tile(request.part.worker, _packed(request), wait=False)
        except Undeliverable as error:
            logger.warning("tile not sent: %s", error)
            self._fail(request, "not taken")
        except CodecError as error:
            logger.warning("tile not packed: %s", error)
            self._fail(request, "codec")

    def _is_sent(self, request: Request) -> bool:
        try:
            return request.codec == RAW and self._outlet.try_tile(request.part.worker, _packed(request))
        except CodecError:
            return False  # whoever tries again says so

    def _send_letter(self, letter: _Letter) -> bool:
        """Whether it need not be tried again."""
        try:
            self._outlet.send_tile(letter.worker, letter.message, wait=False)
        except Undeliverable:
            return time.monotonic() >= letter.until_s
        return True

    # --- in

    def _sort(self, incoming: Incoming) -> None:
        header = incoming.message.header
        if isinstance(header, TileDone):
            self._take(header, incoming)
        elif isinstance(header, TileReady):
            self._take_ready(header)
        elif isinstance(header, Ping):
            self._sending.offer(_Letter(header.node, Message(answer(self.name, header, incoming.received_s))))
        elif not isinstance(header, Head | Pong | Probe):
            self.links.refuse("misplaced")
            self.links.door.blame(incoming.source, f"a {type(header).__name__} where tiles belong")

    def _take_ready(self, header: TileReady) -> None:
        with self._changed:
            is_asked = (header.order, header.node) in self._ready
            if is_asked:
                self._ready[header.order, header.node] = header
                self._changed.notify_all()
        if not is_asked:
            self.counts["unasked"] += 1
        elif not header.refused and self._roster.answered(header.node):
            self._on_news()

    def _take(self, header: TileDone, incoming: Incoming) -> None:
        message, received_s = incoming.message, incoming.received_s
        with self._changed:
            request = self._waiting.get(header.ticket)
            late = self._given_up.pop(header.ticket, None)
        if late is not None and late.abandoned and late.part.worker == header.node:
            return
        if late is not None and late.part.worker == header.node and not header.refused:
            if self._roster.late(header.node, late.tile, received_s - late.begun_s):
                self._on_news()
            return
        if request is None or request.part.worker != header.node:
            self.counts["unasked"] += 1  # of nobody's making but who gave the worker a tile in this node's name
            return
        if header.refused:
            logger.warning("%s refuses a tile: %s", header.node, header.refused)
            self._fail(request, "refused")
            return
        try:
            outputs = unpack_tile(message, request.part.outputs, request.codec)
        except (WireError, CodecError) as error:
            logger.warning("tile from %s dropped: %s", header.node, error)
            self.links.door.blame(incoming.source, error)
            self._fail(request, "bad message")
            return
        with self._changed:
            request.compute_s, request.rest_s = header.compute_s, header.rest_s
            request.outputs = outputs
            self._changed.notify_all()
        self._roster.done(header.node, _timing(request, header, message, received_s))


def _packed(request: Request) -> Message:
    tensors, buffers = pack_tile(request.tensors, request.part.inputs, request.codec)
    return Message(msgspec.structs.replace(request.header, tensors=tensors), buffers)


def _timing(request: Request, header: TileDone, message: Message, received_s: float) -> Timing:
    sent = sum(spec.nbytes for spec in request.part.inputs)
    return Timing(request.tile, received_s - request.begun_s, header.spent_s, sent + message.payload_bytes)
