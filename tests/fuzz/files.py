"""The readers of files as fuzz targets: whatever a file holds, a reader gives its value or one of our errors."""

from __future__ import annotations

import atexit
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec
from zmq.utils import z85

from nodes.config import read_deployment
from nodes.keys import Peer, Role, read_allowed, read_secret, write_allowed
from nodes.parsing import read_graph, read_plan
from nodes.replayed import LiveLink, read_links
from nodes.report.record import whole_results
from pipeline.calibrate import Calibration, Entry, Estimate, PairEntry
from pipeline.errors import AnabranchError
from pipeline.frames.pictures import read_truth
from pipeline.frames.results import Guess, Result, read_labels
from pipeline.frames.wire import Hop
from pipeline.model.graph import ModelGraph, TensorSpec
from pipeline.packing.campaign import resume
from pipeline.packing.measure import Record
from pipeline.plan import Tier, TilePlan, TileStack
from scheduler import profile
from scheduler.simulate.record import Frames, RunRecord, Totals
from tests.scheduler.toys import MODEL, plan_of

MEMORY = Path("/dev/shm")
"""A folder in memory, where there is one: millions of files are written and read."""

PLAN = msgspec.structs.replace(
    plan_of("camera", "phone", (Tier.EDGE, "edge"), epoch=3),
    tiles=TilePlan(
        (TileStack("cut0", (0.5, 0.5)), TileStack("cut1", (0.5, 0.5), chained=True)), ("edge", "tile-1"), open=True
    ),
)
_GRAPH = ModelGraph("none", MODEL, (), {"input": TensorSpec("x", (1, 2, 3))}, ("input",))
_SHARE = Estimate(0.5, 0.4, 0.6)
_CALIBRATION = Calibration(
    MODEL, "none", "film.mp4", 9, True, _SHARE,
    (Entry("cut0", "q4", 9, 100.0, 120.0, 0.1, 0.2, 30.0, _SHARE, _SHARE),),
    (PairEntry("cut0", "q4", "cut1", "q8", 9, None, _SHARE),), {"cut2": "dominated"},
)  # fmt: skip
_PROFILE = profile.Profile(MODEL, "none", "phone", profile.Timing((0.1, 0.2)), profile.HeldOut(9, 0.1, 0.2, 0.1))
_RESULT = Result(7, 0.5, (Guess(1, "ring", 0.9),), 3, 0.02, (Hop("phone", 0.1),), "ring", {"detail": 1})
_TOTALS = Totals(9, 9, {}, {"timeout": 1}, 0, 1.0, 9.0, None, 0.1, 100.0, {"a -> b": 1.0}, {3: 9}, 1, 0.0, 0.5)
_RECORD = RunRecord(
    "a run", "live", "joint", "none", "throughput", 1.0, ["camera"], _TOTALS,
    Frames(*([] for _ in Frames.__struct_fields__)), [], [], [],
)  # fmt: skip
_DEPLOYMENT = b"""model = "builtin"
insecure = true
weights = "weights.pth"

[scheduler]
reports = "tcp://10.0.0.1:5700"
plans = "tcp://10.0.0.1:5701"
profiles = ["*=any.json"]
max_drop = 0.02

[[node]]
name = "camera"
tier = "device"
source = "camera:0"
admit = "every"

[[node]]
name = "edge-1"
tier = "edge"
listen = "tcp://10.0.0.2:5710"
emulate_speed = 0.5
"""


def _allowed() -> bytes:
    """What `write_allowed` writes."""
    keys = [bytes((number,)) * 32 for number in range(2)]
    peers = {f"edge-{number}": Peer(Role.EDGE, z85.encode(key).decode()) for number, key in enumerate(keys)}
    with tempfile.TemporaryDirectory() as folder:
        write_allowed(Path(folder) / "allowed.toml", peers)
        return (Path(folder) / "allowed.toml").read_bytes()


Reader = Callable[[Path], object]

READERS: dict[str, tuple[str, Reader, Callable[[], list[bytes]]]] = {
    "deployment": (".toml", read_deployment, lambda: [_DEPLOYMENT]),
    "allowed": (".toml", read_allowed, lambda: [_allowed()]),
    "secret": (".secret", read_secret, lambda: [z85.encode(bytes(32)) + b"\n"]),
    "plan": (".json", read_plan, lambda: [msgspec.json.encode(PLAN)]),
    "graph": (".json", read_graph, lambda: [msgspec.json.encode(_GRAPH)]),
    "calibration": (".json", lambda path: Calibration.load(path, MODEL), lambda: [msgspec.json.encode(_CALIBRATION)]),
    "profile": (".json", lambda path: profile.load(path, _GRAPH), lambda: [msgspec.json.encode(_PROFILE)]),
    "links": (".json", read_links, lambda: [msgspec.json.encode([LiveLink("phone", "edge", "lte-driving-1", 1.0)])]),
    "record": (".json", RunRecord.load, lambda: [msgspec.json.encode(_RECORD)]),
    "results": (
        ".jsonl", lambda path: list(whole_results(path.read_bytes().splitlines())),
        lambda: [2 * (msgspec.json.encode(_RESULT) + b"\n")],
    ),
    "unfinished": (".part", resume, lambda: [msgspec.msgpack.encode(Record(MODEL, "film.mp4", "digest", [1], [2]))]),
    "labels": (".csv", read_labels, lambda: [b"filename,class_index,class_name\na.jpg,2,\"dog, hound\"\n"]),
    "truth": (".csv", read_truth, lambda: [b"filename,class\na.jpg,2\nb.jpg,ring\n"]),
}  # fmt: skip
"""Every reader of a file of ours: how such a file's name ends, the reader, and honest files."""


class Scratch:
    """One file, written anew for each input; only its owner can read it."""

    def __init__(self, suffix: str) -> None:
        self._handle, name = tempfile.mkstemp(suffix, "fuzz-", MEMORY if MEMORY.is_dir() else None)
        self.path = Path(name)
        atexit.register(self._close)

    def holding(self, data: bytes) -> Path:
        """The file, with these bytes in it."""
        os.ftruncate(self._handle, 0)
        os.pwrite(self._handle, data, 0)
        return self.path

    def _close(self) -> None:
        os.close(self._handle)
        self.path.unlink(missing_ok=True)


def file_target(name: str) -> tuple[Callable[[bytes], None], list[bytes]]:
    """The fuzz target of a reader, and inputs to begin with."""
    suffix, read, seeds = READERS[name]
    scratch = Scratch(suffix)

    def run(data: bytes) -> None:
        try:
            read(scratch.holding(data))
        except AnabranchError:
            return

    return run, seeds()
