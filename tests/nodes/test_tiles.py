"""Tiles on several machines: every frame has one right result, whoever comes, goes, freezes or talks nonsense."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import psutil
import pytest
import zmq

from nodes.agent import SchedulerAddress
from nodes.edge import EdgeNode, beside, moved
from nodes.node import NodeSettings
from nodes.summary import Summary
from nodes.tile import TileNode
from nodes.tiles.roster import FEW, FIRST_BACK_OFF_S, FLOOR_S, MAX_BACK_OFF_S, Roster, Timing, Wire
from nodes.tiles.stage import JUDGED_FRAMES, Record
from pipeline.errors import PlanError
from pipeline.frames import wire
from pipeline.frames.results import Result
from pipeline.frames.wire import Message, TensorHeader, Tile, TileOrder, TileTask
from pipeline.model.spec import LoadedModel, load_model
from pipeline.plan import Tier
from scheduler.handmade import Tiling, plan_of, tiled
from tests.nodes.processes import Running, anabranch, eventually, lines
from tests.nodes.tiny import BEAT_S, NAMES, SPEC, Deployment, picture_folder, reference, waiting

STACKS = "first,second"
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


@pytest.mark.parametrize("tiles", [1, 2, 3])
def test_results_are_the_same_whatever_the_number_of_machines(start: Callable[..., Tiled], tiles: int) -> None:
    deployment = start(tiles)
    with deployment.scheduler() as address:
        workers = [deployment.worker(number, address) for number in range(1, tiles)]
        deployment.node(Tier.EDGE, address)
        deployment.feed(address, 40)
    assert all(_computed(worker) > 0 for worker in workers)


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
    assert 20 <= _computed(workers[0]) <= 2 * 50


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
    assert _computed(worker) >= 40


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


# --- the roster


def _roster() -> Roster:
    roster = Roster("edge")
    roster.see("s", ["edge", "a", "b"])
    for name in ("a", "b"):
        assert roster.answered(name)
    return roster


def test_new_workers_are_asked_before_they_are_given_anything() -> None:
    roster = Roster("edge")
    assert roster.see("s", ["edge", "a"]) and not roster.see("s", ["edge", "a"])
    assert roster.crew("s", None) == ("edge",)
    assert roster.due(0.0) == ("a",) and roster.due(FIRST_BACK_OFF_S / 2) == ()
    assert roster.answered("a") and not roster.answered("a")
    assert roster.crew("s", None) == ("edge", "a")
    assert roster.crew("s", ["edge"]) == ("edge",)
    assert roster.crew("other", None) == ("edge",)
    assert not roster.answered("stranger")


def test_a_silent_worker_is_asked_ever_less_often() -> None:
    roster = Roster("edge")
    roster.see("s", ["a"])
    asked = [tenth / 10 for tenth in range(2000) if roster.due(tenth / 10)]
    gaps = [round(b - a, 1) for a, b in itertools.pairwise(asked)]
    assert gaps == sorted(gaps) and gaps[-1] == MAX_BACK_OFF_S
    assert len(asked) < 15


def test_deadlines_follow_the_workers_own_history() -> None:
    roster = _roster()
    wide = roster.deadline_s("a", 0.1, 0.5)
    for number in range(10):
        roster.done("a", Timing(0.1, 0.1, 0.09, 0))
        roster.done("b", Timing(0.1, 0.1 + 0.05 * (number % 3), 0.09, 0))
    assert roster.deadline_s("a", 0.1, 0.5) == pytest.approx(0.15 + FLOOR_S)
    assert roster.deadline_s("a", 0.1, 0.5) < min(wide, roster.deadline_s("b", 0.1, 0.5))
    assert roster.deadline_s("a", 0.2, 0.5) == pytest.approx(0.3 + FLOOR_S)


def test_nobody_waits_longer_for_an_erratic_worker_than_it_takes_to_do_its_work() -> None:
    roster = _roster()
    for number in range(16):
        roster.done("a", Timing(0.1, 0.1 * (1 + 10 * (number % 2)), 0.0, 0))
    assert roster.deadline_s("a", 0.1, 0.2) == pytest.approx(0.6 + 0.2 + FLOOR_S)


def test_a_late_answer_brings_the_worker_back_and_widens_its_deadline() -> None:
    roster = _roster()
    for _ in range(FEW):
        roster.done("a", Timing(0.1, 0.1, 0.09, 0))
    before = roster.deadline_s("a", 0.1, 0.5)
    roster.missed("a", 1.0)
    assert not roster.is_ready("a") and roster.crew("s", None) == ("edge", "b")
    assert roster.misses() == {"a": 1}
    assert roster.late("a", 4.0) and roster.is_ready("a")
    for _ in range(FEW):
        roster.late("a", 4.0)
    assert roster.deadline_s("a", 0.1, 0.5) > before


def test_the_fastest_worker_comes_first_and_old_speeds_are_doubted() -> None:
    roster = _roster()
    roster.computed("a", 0.1, 0.2, 0.0)
    roster.computed("b", 0.1, 0.1, 0.0)
    assert roster.crew("s", None) == ("edge", "b", "a")
    assert roster.speed("a") == 0.5
    assert not roster.doubt("a", 1.0) and roster.doubt("a", 100.0)
    assert roster.speed("a") == 1.0 and not roster.is_known("a")


def test_the_wires_figures_are_read_off_large_and_small_tiles() -> None:
    roster = _roster()
    assert roster.wire() == Wire()
    for _ in range(FEW):
        roster.done("a", Timing(0.1, 0.15, 0.05, 1_000_000))
    assert roster.wire().goodput_bps == pytest.approx(80e6)
    for _ in range(20):
        roster.done("b", Timing(0.1, 0.06, 0.05, 100))
    wire_now = roster.wire()
    assert wire_now.goodput_bps == pytest.approx(80e6) and wire_now.fixed_s == pytest.approx(0.01, rel=0.01)


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


# --- processes

FRAMES = 150
SLOW = ("--emulate-speed", "edge=0.02")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pictures for all tests of this module."""
    return picture_folder(tmp_path_factory.mktemp("tiles") / "pictures", FRAMES)


def _arguments(pictures: Path, run_dir: Path, tiles: int) -> list[str | Path]:
    return [
        "run", "--source", pictures, "--model", SPEC, "--run-dir", run_dir, "--tiers", "device,edge", "--cut", "input",
        "--tiles", str(tiles), "--tile-stacks", STACKS, *SLOW,
    ]  # fmt: skip


def _results(run_dir: Path) -> list[Result]:
    found = [msgspec.json.decode(line, type=Result) for line in (run_dir / "results.jsonl").read_bytes().splitlines()]
    assert [result.frame for result in found] == list(range(FRAMES))
    return found


def _worker(running: Running, name: str) -> psutil.Process:
    return next(child for child in running.family() if "tile" in child.cmdline() and name in child.cmdline())


@pytest.fixture(scope="module")
def alone(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Result]:
    """What `--tiles 1` gives."""
    run_dir = tmp_path_factory.mktemp("alone") / "run"
    done = anabranch(*_arguments(pictures, run_dir, 1))
    assert done.returncode == 0, done.stderr
    return _results(run_dir)


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "frozen"])
def test_a_hurt_worker_costs_no_frame_and_changes_no_result(
    pictures: Path, tmp_path: Path, alone: list[Result], blow: signal.Signals
) -> None:
    run_dir = tmp_path / "run"
    with Running(_arguments(pictures, run_dir, 3)) as running:
        eventually(lambda: lines(run_dir / "results.jsonl") > 20, "twenty results")
        _worker(running, "tile-1").send_signal(blow)
        code, output, errors = running.finish()
    assert code == 0, errors + output
    _check_same(_results(run_dir), alone)
    summary = msgspec.json.decode((run_dir / "summary.json").read_bytes(), type=Summary)
    assert summary.epochs.get(1, 0) > FRAMES // 2, "the edge node goes on without the worker"


def _check_same(results: list[Result], alone: list[Result]) -> None:
    for result, expected in zip(results, alone, strict=True):
        assert [each.index for each in result.top] == [each.index for each in expected.top]
        assert result.top[0].probability == pytest.approx(expected.top[0].probability, rel=1e-5)
