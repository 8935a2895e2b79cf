"""Tiles on several machines: every frame has one right result, whoever comes, goes, freezes or talks nonsense."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import pytest
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st

from nodes.agent import SchedulerAddress
from nodes.edge import EdgeNode, beside, moved
from nodes.node import NodeSettings
from nodes.tile import TileNode
from nodes.tiles.layout import Conditions
from nodes.tiles.maker import LayoutMaker
from nodes.tiles.maker import Running as Now
from nodes.tiles.stage import JUDGED_FRAMES, Record
from nodes.tiles.wire import Wire
from pipeline.errors import PlanError
from pipeline.frames import wire
from pipeline.frames.wire import Message, TensorHeader, Tile, TileOrder, TileTask
from pipeline.model.spec import LoadedModel, load_model
from pipeline.plan import Tier, TilePlan
from pipeline.tiling.fuse import equal_strips, merge_every_layer
from pipeline.tiling.measure import BlockTimes
from pipeline.tiling.search import choose_stacks
from scheduler.handmade import Tiling, plan_of, tiled
from tests.nodes.processes import eventually
from tests.nodes.tiny import BEAT_S, NAMES, SPEC, Deployment, reference, waiting

STACKS = "first,second"
BOUND = 1e-5
"""Of a merged map's largest magnitude (docs/tiling.md); checked on the maps themselves by `Deployment.check`."""
PLACES = {Tier.DEVICE: NAMES[Tier.DEVICE], Tier.EDGE: NAMES[Tier.EDGE]}


class Tiled(Deployment):
    """A device and an edge node that computes in tiles, with workers."""

    def __init__(self, tiles: int, stacks: str = STACKS, codec: str = "fp32") -> None:
        super().__init__()
        graph = self.model.captured.graph
        self.plan = tiled(plan_of(graph, "*", PLACES, "input"), graph, Tiling(tiles, stacks, codec))

    def worker(self, number: int, address: SchedulerAddress, model: LoadedModel | None = None) -> TileNode:
        """Start a tile worker."""
        settings = NodeSettings(f"tile-{number}", address, report_interval_s=BEAT_S)
        node = TileNode(settings, model or self.model)
        node.start()
        self.nodes[node.name] = node
        return node

    def feed(self, address: SchedulerAddress, frames: int, at: dict[int, Callable[[], None]] | None = None) -> None:
        """Process `frames` pictures; before some of them, something happens."""
        device = self.device(address)

        def read(offer) -> None:  # type: ignore[no-untyped-def]
            for number in range(frames):
                if at and number in at:
                    at[number]()
                if not offer(waiting(number, self.model)):
                    return

        device.run(read)
        self.stop()
        self.check(frames)

    @property
    def edge(self) -> EdgeNode:
        """The edge node."""
        edge = self.nodes[NAMES[Tier.EDGE]]
        assert isinstance(edge, EdgeNode)
        return edge

    def crew(self) -> tuple[str, ...]:
        """Who is given tiles now."""
        stage = max(self.edge.tiles.stages, key=lambda each: each.plan.epoch)
        return (NAMES[Tier.EDGE], *sorted(stage.layout.tasks))


@pytest.fixture
def start() -> Iterator[Callable[..., Tiled]]:
    """Makes deployments whose nodes are stopped whatever happens."""
    made: list[Tiled] = []

    def make(*arguments: object) -> Tiled:
        made.append(Tiled(*arguments))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for one in made:
        one.stop()


def _computed(node: TileNode) -> int:
    return sum(report.frames for report in node.loop.meter.reports())


def _was_late(deployment: Tiled, worker: TileNode) -> bool:
    """Whether a worker was late once, as on a busy machine: then it is out for a while."""
    return worker.name in deployment.edge.tiles.roster.misses()


def _did_its_part(deployment: Tiled, worker: TileNode, frames: int) -> bool:
    """Whether a worker computed a tile of every stack of every frame, or was late once."""
    layout = max(deployment.edge.tiles.stages, key=lambda each: each.plan.epoch).layout
    wanted = frames * len(layout.tasks.get(worker.name, ()))
    return _was_late(deployment, worker) or _computed(worker) == wanted > 0


@pytest.mark.parametrize("tiles", [1, 2, 3])
def test_results_are_the_same_whatever_the_number_of_machines(start: Callable[..., Tiled], tiles: int) -> None:
    deployment = start(tiles)
    with deployment.scheduler() as address:
        workers = [deployment.worker(number, address) for number in range(1, tiles)]
        deployment.node(Tier.EDGE, address)
        deployment.feed(address, 40)
    assert all(_did_its_part(deployment, worker, 40) for worker in workers)


def test_the_edge_node_leaves_a_small_network_untiled_where_it_may_choose(start: Callable[..., Tiled]) -> None:
    deployment = start(2, "")
    with deployment.scheduler() as address:
        worker = deployment.worker(1, address)
        deployment.node(Tier.EDGE, address)
        deployment.feed(address, 10)
    assert _computed(worker) == 0


def test_half_floats_travel_where_the_plan_says_so(start: Callable[..., Tiled]) -> None:
    deployment = start(2, STACKS, "fp16")
    with deployment.scheduler() as address:
        worker = deployment.worker(1, address)
        deployment.node(Tier.EDGE, address)
        device = deployment.device(address)
        deployment.run(device, 20)
        deployment.stop()
    assert _computed(worker) > 0
    errors = []
    for outcome in deployment.outcomes:
        (output,) = outcome.outputs.values()
        expected = reference(deployment.model, outcome.waiting.frame.number)
        errors.append(float((output - expected).abs().max() / expected.abs().max()))
    assert 0 < max(errors) <= 2e-3


def test_workers_that_nobody_named_join_and_leave_in_the_middle(start: Callable[..., Tiled]) -> None:
    deployment = start(1)
    with deployment.scheduler() as address:
        deployment.node(Tier.EDGE, address)
        workers: list[TileNode] = []

        def join() -> None:
            workers.append(deployment.worker(7, address))
            # The layout follows the crew only while frames come: one is offered after each look.
            eventually(lambda: "tile-7" in deployment.edge.tiles.roster.crew("camera", None), "the worker is known")

        def used() -> None:
            eventually(lambda: deployment.crew() == ("edge-1", "tile-7"), "a layout with the worker")

        def leave() -> None:
            workers[0].stop()

        deployment.feed(address, 60, {10: join, 12: used, 40: leave})
    assert 0 < _computed(workers[0]) <= 2 * 50
    assert _was_late(deployment, workers[0]) or _computed(workers[0]) >= 20


def test_a_worker_with_other_weights_gets_no_tile(start: Callable[..., Tiled]) -> None:
    deployment = start(1)
    with deployment.scheduler() as address:
        deployment.node(Tier.EDGE, address)
        other = deployment.worker(1, address, load_model("tests.nodes.tiny:other_net"))
        assert other.agent is not None
        deployment.feed(address, 30)
    assert _computed(other) == 0


def test_nonsense_at_the_inboxes_is_dropped_and_counted(start: Callable[..., Tiled]) -> None:
    deployment = start(2)
    with deployment.scheduler() as address:
        worker = deployment.worker(1, address)
        deployment.node(Tier.EDGE, address)
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()

        def shout() -> None:
            inboxes = [deployment.edge.directory.tiles(name) for name in ("tile-1", "edge-1")]
            fingerprint = deployment.model.captured.graph.fingerprint
            header = TensorHeader("input", "fp32", "uint8", (1, 3, 4, 4), 48)
            tasks = {
                5: TileTask("input", "nowhere", (0, 4), (0, 4)),
                6: TileTask("input", "first", (9, 3), (0, 4)),
                7: TileTask("input", "first", (0, 400), (0, 4)),
                9: TileTask("input", "first", (0, 8), (0, 16), gives=((9, 3),)),
                10: TileTask("input", "first", (0, 8), (0, 4), gives=((7, 8),)),
                11: TileTask("first", "second", (0, 4), (0, 8), gives=((0, 4),), chained=True),
            }
            orders = [TileOrder("edge-1", fingerprint, number, "fp32", (task,)) for number, task in tasks.items()]
            orders.append(TileOrder("edge-1", "another model", 8, "fp32", (tasks[5],)))
            with context.socket(zmq.PUSH) as socket:
                socket.setsockopt(zmq.LINGER, 1000)
                for inbox in inboxes:
                    socket.connect(inbox)
                for _ in inboxes:
                    socket.send_multipart([b"\x01garbage"])
                    socket.send_multipart([b"\x09", b"x"])
                    socket.send_multipart(
                        [
                            bytes(x)
                            for x in wire.encode(Message(Tile("edge-1", "s", 1, 1, 0, 1 << 60, (header,)), [bytes(48)]))
                        ]
                    )
                    for order in orders:
                        socket.send_multipart([bytes(x) for x in wire.encode(Message(order))])
            eventually(lambda: worker.loop.links.refused["bad-message"] > 0, "the worker saw nonsense")

        try:
            deployment.feed(address, 40, {10: shout})
        finally:
            context.term()
    assert _was_late(deployment, worker) or _computed(worker) >= 40


@pytest.mark.parametrize("stacks", ["nonsense", "second,first", "output"])
def test_stacks_that_do_not_fit_are_refused_by_name(stacks: str) -> None:
    graph = load_model(SPEC).captured.graph
    plan = plan_of(graph, "*", PLACES, "first" if stacks == "second,first" else "input")
    if stacks == "output":
        plan = plan_of(graph, "*", NAMES, "input,second")
    with pytest.raises(Exception, match=stacks.partition(",")[2] or stacks):
        tiled(plan, graph, Tiling(2, stacks))


def test_tiles_need_an_edge_stage() -> None:
    graph = load_model(SPEC).captured.graph
    with pytest.raises(PlanError, match="edge"):
        tiled(plan_of(graph, "*", {Tier.DEVICE: "device-1", Tier.CLOUD: "cloud-1"}), graph, Tiling(2))


def test_addresses_beside_another() -> None:
    assert beside("tcp://10.0.0.2:5710") == "tcp://10.0.0.2:*"
    assert moved("tcp://0.0.0.0:41", "tcp://edge.local:5710") == "tcp://edge.local:41"
    assert moved("tcp://127.0.0.1:41", "") == "tcp://127.0.0.1:41"


def test_tiles_that_cost_time_are_given_up() -> None:
    record = Record()
    for _ in range(JUDGED_FRAMES):
        record.add(True, 0.2)
    assert record.is_worse_tiled(0.1) and not record.is_worse_tiled(0.3)
    for _ in range(JUDGED_FRAMES):
        record.add(False, 0.3)
    assert not record.is_worse_tiled(0.1), "frames count more than the estimate"
    record.begin(tiled=True)
    assert not record.is_worse_tiled(0.1), "a new layout is judged by its own frames"


SPEEDS = st.floats(0.1, 2.0)


@settings(deadline=None, max_examples=30)
@given(SPEEDS, SPEEDS, st.floats(1e6, 1e11))
def test_our_layout_is_not_left_for_that_of_another(own: float, other: float, goodput_bps: float) -> None:
    maker = _maker()
    conditions = Conditions(("edge", "a"), {"edge": own, "a": other}, Wire(goodput_bps, 1e-6))
    ours = maker.choose(conditions)
    for choose in CHOICES:
        choice = choose(maker.captured, maker.start, maker.end, conditions.model(maker.times))
        rival = maker.of_choice(conditions, choice)
        assert maker.seconds(conditions, rival.pieces) == pytest.approx(choice.seconds)
        assert not maker.gains(rival, ours)


def test_a_layout_is_weighed_with_its_tiles_where_they_are() -> None:
    maker, speeds = _maker(), {"edge": 1.0, "a": 1.0, "b": 0.2}
    wire_now = Wire(1e11, 1e-6)
    present = maker.choose(Conditions(("edge", "a", "b"), speeds, wire_now))
    found = maker.choose(Conditions(("edge", "b", "a"), speeds, wire_now))
    assert present.merges, "tiles pay"
    assert not maker.gains(found, present)
    wrong = maker.seconds(Conditions(("edge", "b", "a"), speeds, wire_now), present.pieces)
    assert wrong > maker.seconds(present.conditions, present.pieces)


CHOICES = (choose_stacks, equal_strips, merge_every_layer)


@functools.cache
def _maker() -> LayoutMaker:
    captured = load_model(SPEC).captured
    tiles = TilePlan((), ("edge",), open=True)
    maker = LayoutMaker(captured, captured.graph.cuts[0], captured.graph.cuts[-1], tiles, Now())
    maker.times = BlockTimes(dict.fromkeys(maker.times.block_s, 0.01), {})  # so slow a machine that tiles pay
    return maker
