"""A tile worker: computes tiles of fused stacks for edge nodes, in the order in which they come."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from nodes.handoff import Closed, Handoff
from nodes.inbox import Incoming, receive
from nodes.keys import Purpose
from nodes.node import Node, NodeSettings
from nodes.outlet import Undeliverable
from nodes.tiles.held import HeldChains, Made, Task
from nodes.tiles.layout import tile_specs
from nodes.tiles.post import RAW, pack_tile, try_codec, unpack_tile
from pipeline.errors import AnabranchError, ModelMismatch, WireError
from pipeline.frames.wire import Head, Hop, Message, Ping, Pong, Probe, Tile, TileDone, TileOrder, TileReady, TileTask
from pipeline.model.function import inference
from pipeline.model.kept import Kept
from pipeline.model.spec import LoadedModel
from pipeline.packing import codec
from pipeline.plan import in_chains
from pipeline.tiling.execute import TiledStack
from pipeline.tiling.regions import Interval, Region
from pipeline.tiling.resident import given, given_rows, lacked, specs_of
from scheduler.patience import Source
from scheduler.reports import Endpoints, QueueReport

logger = logging.getLogger(__name__)

MAX_ORDERS = 32
"""Orders that a worker remembers, over all edge nodes; the one used longest ago is forgotten first."""

MAX_STACKS = 64
"""Fused stacks that it keeps the programs of."""

WARM_RUNS = 3
"""Of every tile of an order: the first finds its program unwritten, and of the others the faster one counts."""

ARRIVALS = 16
"""Tiles received and not yet computed; an edge node has one per stack and worker under way."""


@dataclass(frozen=True)
class Asked:
    """A tile as it came in."""

    message: Message
    header: Tile
    received_s: float
    source: Source | None = None


@dataclass(frozen=True)
class Answer:
    """What goes back to an edge node: a ready message, or a tile's outputs (packed on the way)."""

    node: str
    message: Message
    asked: Asked | None = None
    task: Task | None = None
    tensors: dict[str, Tensor] | None = None
    compute_s: float = 0.0
    rest_s: float = 0.0
    """Of the strip before, behind its answer."""
    endpoint: str = ""
    """Where to, if not to the edge node's inbox."""
    hop: Hop | None = None
    """Of outputs that are packed: what they took, to be counted once they are gone."""


class TileNode(Node):
    """Belongs to no tier: edge nodes give it tiles."""

    def __init__(self, settings: NodeSettings, model: LoadedModel) -> None:
        super().__init__(settings, model, None)
        self._orders: OrderedDict[tuple[str, int], tuple[Task, ...]] = OrderedDict()
        captured, layout = model.captured, settings.layout
        self._stacks = Kept(MAX_STACKS, lambda start, end: TiledStack(captured, start, end, layout=layout))
        self._chains = HeldChains(self._run)
        """Of the computing thread alone."""
        self._lock = threading.Lock()
        self._arrived: Handoff[Asked] = Handoff(ARRIVALS)
        self._ordered: Handoff[TileOrder] = Handoff(MAX_ORDERS)
        self._answers: Handoff[Answer] = Handoff()
        self._threads: list[threading.Thread] = []

    def start(self) -> Endpoints:
        """Bind the tiles inbox and start the threads; returns where edge nodes reach this worker."""
        inbox, endpoint = self.factory.pull(self.settings.listen, Purpose.TILES)
        endpoints = Endpoints(tiles=self.settings.advertise or endpoint)
        self._spawn("tiles in", lambda: receive(inbox, self.loop.links, self._sort, self.stopping))
        self._spawn("compute", self._compute)
        self._spawn("tiles out", self._send)
        self._spawn("tile builder", self._build_all)
        self.report_as(endpoints)
        return endpoints

    def close(self) -> None:
        """Stop the threads."""
        for handoff in (self._arrived, self._ordered, self._answers):
            handoff.close()
        for thread in self._threads:
            thread.join(timeout=30)

    def queues(self) -> tuple[QueueReport, ...]:
        """Depth and bound of both queues, and what was refused."""
        return (
            QueueReport("arrived", len(self._arrived), self._arrived.bound, dict(self.loop.links.refused)),
            QueueReport("computed", len(self._answers), self._answers.bound),
        )

    def ping_peers(self) -> None:
        """Ask the edge nodes that send here for an echo."""
        for peer in self.loop.links.peers:
            self._answers.offer(Answer(peer, Message(Ping(self.name, time.monotonic_ns()))))

    def probe(self, target: str, message: Message) -> None:
        """Send bytes to an edge node's tiles inbox, behind the answers."""
        self._answers.offer(Answer(target, message))

    def _spawn(self, step: str, run: Callable[[], None]) -> None:
        thread = threading.Thread(target=run, name=f"{self.name} {step}", daemon=True)
        self._threads.append(thread)
        thread.start()

    # --- in

    def _sort(self, incoming: Incoming) -> None:
        header, received_s = incoming.message.header, incoming.received_s
        if isinstance(header, Tile):
            self._arrived.put(Asked(incoming.message, header, received_s, incoming.source))
        elif isinstance(header, TileOrder) and not header.tasks:
            self._answers.offer(Answer(header.node, Message(TileReady(self.name, header.order))))
        elif isinstance(header, TileOrder):
            self._ordered.offer(header)
        elif isinstance(header, Ping):
            pong = Message(self.echo(header, received_s))
            self._answers.offer(Answer(header.node, pong, endpoint=incoming.message.reply_to))
        elif not isinstance(header, Head | Pong | Probe):
            self.loop.links.refuse("misplaced")
            self.loop.links.door.blame(incoming.source, f"a {type(header).__name__} where tiles belong")

    # --- orders

    def _build_all(self) -> None:
        while True:
            try:
                order = self._ordered.get()
            except Closed:
                return
            if order is not None:
                self._answers.offer(Answer(order.node, Message(self._built(order))))

    def _built(self, order: TileOrder) -> TileReady:
        """Build and warm all tasks of an order, off the path of the tiles that run meanwhile."""
        try:
            if order.model != self.fingerprint:
                raise ModelMismatch(
                    self.name, f"holds model {self.fingerprint[:12]}, not {order.model[:12]}",
                    "start all nodes with the same model and weights",
                )  # fmt: skip
            codec.get(order.codec)
            tasks = self._tasks(order)
            seconds = tuple(self._warmed(task) for task in tasks)
        except (AnabranchError, RuntimeError) as error:  # RuntimeError: what torch's operators raise
            logger.warning("order of %s refused: %s", order.node, error)
            return TileReady(self.name, order.order, refused=(str(error).splitlines() or ["failed"])[0][:512])
        with self._lock:
            self._orders[order.node, order.order] = tasks
            while len(self._orders) > MAX_ORDERS:
                self._orders.popitem(last=False)
        return TileReady(self.name, order.order, seconds)

    def _tasks(self, order: TileOrder) -> tuple[Task, ...]:
        found: list[Task] = []
        for chain in in_chains(order.tasks, lambda _, task: task.chained):
            if chain[0].chained or (len(chain) > 1 and any(task.gives is None for task in chain)):
                raise WireError(f"order {order.order}", "has a tile that goes on with no chain")
            tiles = [self._tile(task) for task in chain]
            if chain[0].gives is None:
                found.extend(Task(*tile, *tile_specs(*tile), order.codec) for tile in tiles)
                continue
            reads = [frozenset(stack.reads) for stack, _ in tiles]
            for number, (task, gets) in enumerate(zip(chain, lacked(tiles), strict=True)):
                stack, region = tiles[number]
                gives = given_rows(task.gives or (), region.rows)
                specs = specs_of(stack, gets), specs_of(stack, given(stack, gives))
                kept = frozenset[str]().union(*reads[number + 1 :])
                found.append(Task(stack, region, *specs, order.codec, gets, gives, task.chained, kept, task.early))
        return tuple(found)

    def _tile(self, task: TileTask) -> tuple[TiledStack, Region]:
        graph = self.model.captured.graph
        stack = self._stacks.of(graph.cut(task.start), graph.cut(task.end))
        return stack, Region(Interval(*task.rows), Interval(*task.columns))

    def _warmed(self, task: Task) -> float:
        try_codec((*task.inputs, *task.outputs), task.codec)
        return sum(self._fastest_s(task.stack, region) for turn in task.turns for region in turn)

    def _fastest_s(self, stack: TiledStack, region: Region) -> float:
        zeros, found = stack.zeros(region), []
        for _ in range(WARM_RUNS):
            begin = time.monotonic()
            self._run(stack, region, zeros)
            found.append(time.monotonic() - begin)
        return min(found)

    def _run(self, stack: TiledStack, region: Region, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        return self.speed.run((stack.label, region), partial(stack.run_tile, region, inputs))

    # --- tiles

    def _compute(self) -> None:
        with inference():
            while True:
                try:
                    asked = self._arrived.get()
                    if asked is not None:
                        self._hand_over(self._computed(asked))
                        self._chains.settle(asked.header, self._tasks_of(asked.header))
                except Closed:
                    return

    def _computed(self, asked: Asked) -> Answer:
        header = asked.header
        tasks = self._tasks_of(header)
        if header.task >= len(tasks):
            return self._refusal(asked, "unknown order")
        task = tasks[header.task]
        try:
            tensors = unpack_tile(asked.message, task.inputs, task.codec)
            late_s = self.speed.catch_up()
            made = self._made(header, task, tensors)
            return Answer(header.node, asked.message, asked, task, made.tensors, late_s + made.compute_s, made.rest_s)
        except (AnabranchError, RuntimeError) as error:  # RuntimeError: what torch's operators raise
            logger.warning("tile of %s refused: %s", header.node, error)
            return self._refusal(asked, (str(error).splitlines() or ["failed"])[0])

    def _made(self, header: Tile, task: Task, tensors: dict[str, Tensor]) -> Made:
        if task.gets is not None:
            return self._chains.strip(header, task, tensors)
        begin = time.monotonic()
        return Made(self._run(task.stack, task.region, tensors), time.monotonic() - begin)

    def _tasks_of(self, header: Tile) -> tuple[Task, ...]:
        with self._lock:
            tasks = self._orders.get((header.node, header.order), ())
            if tasks:
                self._orders.move_to_end((header.node, header.order))
            return tasks

    def _hand_over(self, answer: Answer) -> None:
        """Send outputs that travel as they lie at once, for another thread would have to wake first."""
        if answer.task is not None and answer.task.codec == RAW:
            answer = self._packed(answer)
            if self.loop.outlet.try_tile(answer.node, answer.message):
                self._count(answer)
                return
        self._answers.put(answer)

    def _refusal(self, asked: Asked, why: str) -> Answer:
        self.loop.links.refuse("tile refused")
        self.loop.links.door.blame(asked.source, why)
        spent_s = time.monotonic() - asked.received_s
        return Answer(
            asked.header.node, Message(TileDone(self.name, asked.header.ticket, spent_s, 0.0, refused=why[:512]))
        )

    # --- out

    def _send(self) -> None:
        with self.loop.outlet:
            while True:
                try:
                    answer = self._answers.get()
                except Closed:
                    return
                if answer is not None:
                    self._send_one(answer)

    def _send_one(self, answer: Answer) -> None:
        if answer.endpoint:
            self.loop.outlet.measure(answer.node, answer.message, answer.endpoint)
            return
        answer = self._packed(answer)
        try:
            self.loop.outlet.send_tile(answer.node, answer.message)
        except Undeliverable as error:
            # A sign of life may be asked for before this worker hears where the edge node is: it is asked for again.
            self.loop.links.refuse("send-timeout")
            logger.info("answer not sent: %s", error)
        self._count(answer)

    def _packed(self, answer: Answer) -> Answer:
        """The same with its message; what has one already stays as it is."""
        asked, task, made = answer.asked, answer.task, answer.tensors
        if asked is None or task is None or made is None:
            return answer
        begin = time.monotonic()
        try:
            tensors, buffers = pack_tile(made, task.outputs, task.codec)
        except AnabranchError as error:
            return self._refusal(asked, str(error))
        now = time.monotonic()
        spent_s = now - asked.received_s
        done = TileDone(self.name, asked.header.ticket, spent_s, answer.compute_s, tensors, rest_s=answer.rest_s)
        hop = Hop(
            self.name,
            queue_s=max(0.0, begin - asked.received_s - answer.compute_s),
            compute_s=answer.compute_s + answer.rest_s,
            pack_s=now - begin,
            packed_bytes=sum(tensor.nbytes for tensor in tensors),
        )
        return Answer(answer.node, Message(done, buffers), asked, hop=hop)

    def _count(self, answer: Answer) -> None:
        if answer.hop is not None and answer.asked is not None:
            header = answer.asked.header
            self.loop.meter.add(header.stream, header.epoch, answer.hop, time.monotonic())
