"""Every decoder of bytes that somebody else made, as a fuzz target.

A target takes any bytes. Raising is its way to fail: a decoder's own error is caught, whatever else it raises is not.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec

from pipeline.errors import WireError
from pipeline.frames import wire
from pipeline.frames.wire import (
    DropNotice,
    FrameHeader,
    Head,
    Header,
    Hop,
    Message,
    Ping,
    Pong,
    Probe,
    TensorHeader,
    Tile,
    TileDone,
    TileOrder,
    TileReady,
    TileTask,
)
from pipeline.model.graph import TensorSpec
from pipeline.plan import Tier
from scheduler import events
from scheduler.commands import Announcement, ClusterState, NodeView, ProbeOrder, Refusal, StreamView
from scheduler.core import CoreConfig, SchedulerCore
from scheduler.events import LogLine, ReportReceived, Tick, decode_command, decode_line, decode_report
from scheduler.reports import (
    Crossing,
    Endpoints,
    Figure,
    LinkReport,
    Load,
    NodeEvent,
    QueueReport,
    Readiness,
    Report,
    StageReport,
    StreamReport,
)
from tests.fuzz import codecs, files
from tests.fuzz.files import PLAN
from tests.scheduler.toys import MODEL, ToyAdvisor
from traces.errors import TraceError
from traces.formats import parse_traces
from traces.formats.lines import decode

CORPUS = Path(__file__).resolve().parents[1] / "corpus"
"""Inputs that failed once, by target."""


class Target(NamedTuple):
    """One decoder."""

    run: Callable[[bytes], None]
    seeds: list[bytes]
    """Honest inputs, for the fuzzer to begin with."""


# --- data messages

_SPEC = TensorSpec("x", (1, 2, 3))
_BUFFER = bytes(24)
_TENSORS = (TensorHeader.of(_SPEC, "fp32", 24),)
_HEADERS: tuple[Header, ...] = (
    FrameHeader(
        "camera", MODEL, 3, 1000, 1 << 40, 1, 1 << 33, _TENSORS, (Hop("phone", 0.1, 0.0, 0.2, 0.01, 24),), True
    ),
    DropNotice("camera", 3, 1000, 0, "edge", "codec", "checksum wrong"),
    Head("phone", 24),
    Ping("phone", 1 << 33),
    Pong("phone", 1 << 33, 1 << 34, 1 << 35),
    Probe("phone"),
    Tile("edge", "camera", 3, 99, 1, 5, _TENSORS),
    TileDone("tile-1", 5, 0.1, 0.05, _TENSORS),
    TileDone("tile-1", 5, 0.1, 0.05, (), "unknown order"),
    TileOrder("edge", MODEL, 99, "fp32", (TileTask("input", "conv1", (0, 8), (0, 16)),)),
    Tile("edge", "camera", 3, 99, 1, 6, _TENSORS, chain=1 << 40),
    TileOrder("edge", MODEL, 98, "fp32", (TileTask("a", "b", (0, 8), (0, 16), gives=((0, 1), (7, 8)), chained=True),)),
    TileReady("tile-1", 99, (0.1,)),
)


def _wire(data: bytes) -> None:
    """One byte: how many buffers; a byte for the size of each; the rest is part 0."""
    count = data[0] & 3 if data else 0
    parts = [data[1 + count :], *(bytes(size) for size in data[1 : 1 + count])]
    try:
        message = wire.decode(parts)
        if isinstance(message.header, wire.Carrier):
            wire.check_tensors(message, (_SPEC,))
    except WireError:
        return
    again = wire.decode(wire.encode(message))
    if again.header != message.header:
        raise AssertionError(f"{again.header} is not {message.header}")


def _wire_seed(header: Header) -> bytes:
    buffers = [_BUFFER] if isinstance(header, Probe) or (isinstance(header, wire.Carrier) and header.tensors) else []
    (head, *rest) = wire.encode(Message(header, buffers))
    return bytes((len(rest), *(len(_BUFFER) for _ in rest))) + bytes(head)


# --- control messages

_FIGURE = Figure(1.0, 2.0, 3.0)
_DEVICE = Report(
    "phone", Tier.DEVICE, "a1", 7, 12.5, MODEL, endpoints=Endpoints(results="tcp://127.0.0.1:1"),
    load=Load(2, 0.5, 0.4),
    queues=(QueueReport("arrived", 1, 64, {"bad-message": 2}),),
    stages=(StageReport("camera", 3, 100, _FIGURE, _FIGURE),),
    epochs=(Readiness("camera", (0, 3), (4,), {"2": "no such cut"}),),
    streams=(StreamReport("camera", 3, 4, PLAN, 90, (3,), 30.0, 5, 2, 100, 98, _FIGURE, _FIGURE, {"superseded": 1}),),
    events=(NodeEvent("peer lost", "camera", 3, "edge", 0.5),), scheduler="s1", heard=12,
)  # fmt: skip
_EDGE = Report(
    "edge", Tier.EDGE, "b2", 9, 99.5, MODEL, endpoints=Endpoints("tcp://127.0.0.1:2"),
    links=(LinkReport("phone", (Crossing(50_000, 0.01, 0.2),), 0.003, 100, 0.1, 1 << 30),),
    epochs=(Readiness("camera", (3,)),), scheduler="s1", heard=12,
)  # fmt: skip
_LEAVING = msgspec.structs.replace(_EDGE, leaving=True, sequence=10)
_ANNOUNCEMENT = Announcement(
    "camera", "s1", 5, PLAN, msgspec.structs.replace(PLAN, epoch=4), 4, (), {"edge": _EDGE.endpoints}, 3, {"edge": 2}
)
_COMMANDS = (
    _ANNOUNCEMENT,
    ProbeOrder("s1", 6, "phone", "edge", "tcp://127.0.0.1:2", 65536),
    Refusal("s1", 7, "edge", "b2", "other model"),
    ClusterState("s1", 8, 1.0, (NodeView("edge", Tier.EDGE, True, 0.1, Load()),), (), (
        StreamView("camera", "phone", "steady", PLAN),), ("a line",)),
)  # fmt: skip


def _report(data: bytes) -> None:
    try:
        report = decode_report(data)
    except WireError:
        events.unreadable(data)
        return
    again = events.encode(report)
    if events.encode(decode_report(again)) != again:
        raise AssertionError(f"{report} does not come back")


def _command(data: bytes) -> None:
    try:
        command = decode_command(data)
    except WireError:
        return
    if isinstance(command, Announcement):
        _ = command.plans, command.committed


def _core(data: bytes) -> None:
    """A report from a stranger (or in another's name), between those of an honest device and an honest edge."""
    try:
        hostile = decode_report(data)
    except WireError:
        return
    core = SchedulerCore(ToyAdvisor(), CoreConfig("s1"))
    now = 100.0
    for event in (ReportReceived(_DEVICE), ReportReceived(_EDGE), Tick(), ReportReceived(hostile), Tick()):
        for instruction in core.handle(event, now):
            if isinstance(instruction, events.Publish):
                decode_command(events.encode(instruction.message))
        now += 0.3
    for pause_s in (1.0, 4.0, 70.0):
        now += pause_s
        core.handle(Tick(), now)


# --- files


def _line(data: bytes) -> None:
    try:
        decode_line(data)
    except WireError:
        return


def _trace(data: bytes) -> None:
    try:
        parse_traces(decode(data, "fuzz"), "fuzz")
    except TraceError:
        return


_TRACES = (
    b"1\n2\n2\n9\n",
    b"0.0 1.5\n0.5 2.25\n1.0 0\n",
    b"time,rate\n0,1.5\n1,2.5\n",
    b"100 200\n300 400\n500 600\n7 8\n",
)

TARGETS: dict[str, Callable[[], Target]] = {
    "wire": lambda: Target(_wire, [_wire_seed(header) for header in _HEADERS]),
    "report": lambda: Target(_report, [events.encode(report) for report in (_DEVICE, _EDGE, _LEAVING)]),
    "command": lambda: Target(_command, [events.encode(command) for command in _COMMANDS]),
    "core": lambda: Target(_core, [events.encode(report) for report in (_DEVICE, _EDGE, _LEAVING)]),
    "line": lambda: Target(_line, [events.encode_line(LogLine(1.0, ReportReceived(_EDGE)))]),
    "trace": lambda: Target(_trace, list(_TRACES)),
    **{name: functools.partial(lambda name: Target(*files.file_target(name)), name) for name in files.READERS},
    **{name: functools.partial(lambda name: Target(*codecs.family(name)), name) for name in codecs.FAMILIES},
}
"""By name; made when first used, since some prepare a good deal."""


def corpus(name: str) -> list[Path]:
    """The target's past failures."""
    folder = CORPUS / name
    return sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []
