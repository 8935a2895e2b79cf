"""The scheduler core's inputs and outputs, and how messages become bytes and back.

`SchedulerCore.handle(event, now)` takes one `Event` and returns `Instruction`s; a service carries them out.
Both are plain data, so a log of events replays every decision (`encode_line`, `decode_line`).
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from pipeline.errors import PlanError, VersionMismatch, WireError
from pipeline.plan import Plan
from scheduler.commands import (
    Announcement,
    ClusterState,
    Command,
    LinkView,
    NodeView,
    ProbeOrder,
    Refusal,
    StreamView,
    SwitchRecord,
)
from scheduler.objective import Objective
from scheduler.reports import (
    PROTOCOL_VERSION,
    Crossing,
    Endpoints,
    Figure,
    LinkReport,
    Load,
    Name,
    NodeEvent,
    QueueReport,
    Readiness,
    Report,
    ReportEnvelope,
    StageReport,
    StreamReport,
    Text,
)

__all__ = [
    "PROTOCOL_VERSION", "VIEWERS", "Announcement", "ClusterState", "Command", "Crossing", "DecisionRecord", "Endpoints",
    "Event", "Figure", "Instruction", "LinkReport", "LinkView", "Load", "LogDecision", "NodeEvent", "NodeView",
    "ProbeOrder", "Publish", "QueueReport", "Readiness", "Refusal", "Report", "ReportReceived", "StageReport",
    "StreamConfigured", "StreamRemoved", "StreamReport", "StreamSettings", "StreamView", "SwitchRecord", "Tick",
    "UnreadableReport", "decode_command", "decode_line", "decode_report", "encode", "encode_line", "topic",
]  # fmt: skip

VIEWERS = "*"
"""Recipient that stands for everyone who watches."""

MAX_MESSAGE_BYTES = 1 << 20
"""No control message is larger; the socket that receives them enforces it too."""


class ReportReceived(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="report received"):
    """A node's report came in."""

    report: Report


class UnreadableReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="unreadable report"):
    """A report of another protocol version came in; the node is refused and told so."""

    node: Name
    incarnation: Name
    version: int


class Tick(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="tick"):
    """Time has passed. Sent at every heartbeat."""


ADAPTIVE = "joint"
"""The planner whose devices may compute frames alone beside a plan; others do as they say, to be held against it."""


class StreamSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is wanted of a stream."""

    objective: Objective = Objective()
    planner: Name = "joint"
    """Name of a planner; `fixed` takes `plan`."""
    plan: Plan | None = None
    """The plan of the `fixed` planner; its epoch is ignored."""
    weight: Annotated[float, msgspec.Meta(gt=0)] = 1.0
    """Share of the edge and the cloud, relative to the other streams' weights."""

    spare: bool = False
    """Whether the device uses the time that its plan leaves it, whoever plans."""

    @property
    def is_adaptive(self) -> bool:
        """Whether the project's own planner plans the stream."""
        return self.planner == ADAPTIVE

    @property
    def fills_up(self) -> bool:
        """Whether the device computes frames alone in the time that its plan leaves it."""
        return (self.is_adaptive or self.spare) and self.objective.fills_up

    @property
    def hedges(self) -> bool:
        """Whether the device computes frames as well that are on their way."""
        return (self.is_adaptive or self.spare) and self.objective.hedges


class StreamConfigured(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="stream configured"):
    """A stream's settings were given or changed; `VIEWERS` as the stream sets them for all that have none."""

    stream: Name
    settings: StreamSettings


class StreamRemoved(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="stream removed"):
    """A stream's settings no longer hold: it goes back to those of all streams."""

    stream: Name


Event = ReportReceived | UnreadableReport | Tick | StreamConfigured | StreamRemoved


class Publish(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="publish"):
    """Send `message` to the nodes named in `to`, or to `VIEWERS`."""

    to: tuple[Name, ...]
    message: Command


class DecisionRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A decision, with what it rests on."""

    at_s: float
    kind: Name
    """`join`, `return`, `restart`, `death`, `refuse`, `stream`, `prepare`, `commit`, `switched`, `retire`,
    `abandon`, `fallback`, `adopt`, `keep`, `measured` or `problem`."""
    reason: Text
    stream: Name = ""
    node: Name = ""
    epoch: int | None = None
    plan: Plan | None = None
    figures: dict[str, float] = {}
    """Predicted and measured numbers: cost of old and new, gain, threshold, link estimates."""


class LogDecision(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="log"):
    """Write a decision to the event log."""

    record: DecisionRecord


Instruction = Publish | LogDecision


class LogLine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One line of the event log: an input of the core, or what it decided."""

    now: float
    event: Event | None = None
    instruction: Instruction | None = None


_MALFORMED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, PlanError)
"""What decoding raises; a plan that contradicts itself is refused where it comes in."""

_encoder = msgspec.msgpack.Encoder()
_reports = msgspec.msgpack.Decoder(Report)
_envelopes = msgspec.msgpack.Decoder(ReportEnvelope)
_commands: msgspec.msgpack.Decoder[Command] = msgspec.msgpack.Decoder(Command)
_lines = msgspec.json.Decoder(LogLine)
_line_encoder = msgspec.json.Encoder()


def topic(recipient: str) -> bytes:
    """The PUB/SUB topic of one recipient. A node subscribes to `topic(its name)`, a viewer to `topic(VIEWERS)`.

    The name ends in a zero byte, since subscriptions match prefixes: `edge1` must not get what is `edge10`'s.
    """
    return recipient.encode() + b"\0"


def encode(message: Report | Command) -> bytes:
    """A message as bytes."""
    return _encoder.encode(message)


def decode_report(data: bytes | memoryview) -> Report:
    """A report from bytes that come from a peer.

    Raises:
        VersionMismatch: a report of another protocol version (`unreadable` then tells whose).
        WireError: not a report.
    """
    try:
        report = _reports.decode(data)
    except _MALFORMED as error:
        envelope = unreadable(data)
        if envelope is not None and envelope.version != PROTOCOL_VERSION:
            raise _mismatch(envelope.version) from error
        raise WireError("report", f"not a valid message ({error})") from error
    if report.version != PROTOCOL_VERSION:
        raise _mismatch(report.version)
    return report


def unreadable(data: bytes | memoryview) -> UnreadableReport | None:
    """Whose report of another version this is; None where it is none at all."""
    try:
        envelope = _envelopes.decode(data)
    except _MALFORMED:
        return None
    return UnreadableReport(envelope.node, envelope.incarnation, envelope.version)


def decode_command(data: bytes | memoryview) -> Command:
    """A `Command` from bytes that come from the scheduler.

    Raises:
        WireError: not a command of this protocol version.
    """
    try:
        return _commands.decode(data)
    except _MALFORMED as error:
        raise WireError("command", f"not a valid message ({error})", "start all nodes from one release") from error


def _mismatch(version: int) -> VersionMismatch:
    return VersionMismatch(
        "report", f"protocol version {version}, not {PROTOCOL_VERSION}", "start all nodes from one release"
    )


def encode_line(line: LogLine) -> bytes:
    """One line of the event log, with its line end."""
    return _line_encoder.encode(line) + b"\n"


def decode_line(data: bytes) -> LogLine:
    """One line of the event log.

    Raises:
        WireError: not such a line.
    """
    try:
        return _lines.decode(data)
    except _MALFORMED as error:
        raise WireError("event log", f"a line is not one ({error})") from error
