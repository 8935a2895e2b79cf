"""What a node tells the scheduler: one `Report` per interval, and at once on a jump.

A report is the node's heartbeat and its registration. It is complete: the scheduler needs no earlier one to
understand it, so any may be lost, late or doubled. All times are durations or ages, so no two machines' clocks
are ever compared. Nothing here can be part of a cycle, so the collector need not walk through it (`gc=False`): a
thousand nodes' reports are 40,000 objects a second.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from pipeline.plan import Epoch, Plan, Tier

PROTOCOL_VERSION = 1
"""Version of the messages in `reports` and `commands`; another version is refused, and both sides are told."""

MAX_NAME = 200
MAX_TEXT = 2000
MAX_CROSSINGS = 32
"""Most crossings that one report holds per link; a node merges older ones (see `timing.CrossingLog`)."""

MAX_LINKS = 512
"""Most links that one report tells of (see `nodes.links`)."""

MAX_STAGES = 256
"""Most (stream, epoch) pairs that one report tells of (see `meter.StageMeter`)."""

MAX_LIST = 1024
"""Most entries of any list or map of a control message that has no narrower bound."""

Name = Annotated[str, msgspec.Meta(max_length=MAX_NAME)]
Text = Annotated[str, msgspec.Meta(max_length=MAX_TEXT)]
Count = Annotated[int, msgspec.Meta(ge=0, lt=1 << 62)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e9)]
"""Neither NaN nor infinity: one of them in an estimate would spread through every plan."""

Number = Annotated[float, msgspec.Meta(ge=-1e15, le=1e15)]
Epochs = Annotated[tuple[Epoch, ...], msgspec.Meta(max_length=MAX_LIST)]
Counts = Annotated[dict[Name, Count], msgspec.Meta(max_length=64)]


class Endpoints(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """Where a node's inboxes are bound, as its peers reach them; empty where it has none."""

    frames: Name = ""
    results: Name = ""
    tiles: Name = ""


class Load(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """The state of the machine that a node runs on."""

    cores: Count = 1
    cpu_node: Number = 0.0
    """Cores that this process keeps busy: 1.5 is one and a half."""
    cpu_machine: Number = 0.0
    """Share of all the machine's cores that are busy, 0 to 1."""
    memory_bytes: Count = 0
    """Resident memory of this process."""
    memory_free_bytes: Count = 0
    """What the machine could still give."""
    temperature_c: Number | None = None
    battery: Number | None = None
    """Charge from 0 to 1; None on mains or where there is none."""


class Figure(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """One quantity, told apart by how far back it looks."""

    instant: Number = 0.0
    """The latest value."""
    window: Number = 0.0
    """Median over the node's window."""
    total: Number = 0.0
    """Mean over the whole run."""


class QueueReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """One bounded queue of a node."""

    name: Name
    depth: Count
    bound: Count
    drops: Counts = {}
    """Messages dropped since the start, by reason."""


class StageReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """What one stage of one plan did on this node."""

    stream: Name
    epoch: Epoch
    frames: Count
    """Frames computed under this epoch, since the start."""
    fps: Figure = Figure()
    compute_s: Figure = Figure()
    queue_s: Figure = Figure()
    unpack_s: Figure = Figure()
    pack_s: Figure = Figure()
    packed_bytes: Figure = Figure()
    """Bytes that one frame sends to the next stage."""


class Crossing(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """Messages that crossed a link, timed by their receiver."""

    payload_bytes: Annotated[int, msgspec.Meta(ge=0, lt=1 << 40)]
    busy_s: Seconds
    """Time that the link was carrying these bytes; idle gaps and the receiver's own delays are not in it."""
    age_s: Seconds
    """How long before the report was sent the last byte came in."""
    messages: Annotated[int, msgspec.Meta(ge=1, lt=1 << 32)] = 1
    probe: bool = False
    """True for bytes sent only to measure."""


class LinkReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """The link from `peer` to the reporting node, which is the receiver."""

    peer: Name
    crossings: Annotated[tuple[Crossing, ...], msgspec.Meta(max_length=MAX_CROSSINGS)] = ()
    """What came in since the previous report, oldest first."""
    rtt_s: Seconds | None = None
    """Round trip of the latest echo of a small message, or None where there was none since the previous report."""
    waiting_bytes: Count = 0
    """Size of the message whose head came in and whose payload has not yet; 0 where none is under way."""
    waiting_s: Seconds = 0.0
    """How long the link has been carrying those bytes: they bound its goodput from above, outages included."""
    bytes_total: Count = 0
    """All payload bytes of this link since the start."""


class Readiness(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """Which plans of one stream a node can run."""

    stream: Name
    ready: Epochs = ()
    """Epochs whose segment is built and warm."""
    building: Epochs = ()
    refused: Annotated[dict[Name, Text], msgspec.Meta(max_length=64)] = {}
    """Epoch (in decimal) -> why the node cannot run it."""

    def refusal(self, epoch: int) -> str | None:
        """Why the node cannot run `epoch`, or None where it does not refuse."""
        return self.refused.get(str(epoch))


class StreamReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """A stream, told by the device that it starts at."""

    stream: Name
    epoch: Epoch
    """Epoch that the next frame is stamped with."""
    highest_epoch: Epoch
    """The highest epoch that this device has ever seen; the scheduler never uses one of these again."""
    plan: Plan | None = None
    """The plan of `epoch`, so that a scheduler that restarts learns it; None at epoch 0."""
    first_frame: Count | None = None
    """Number of the first frame admitted under `epoch`; None while none was."""
    in_flight_epochs: Annotated[tuple[Epoch, ...], msgspec.Meta(max_length=64)] = ()
    """Epochs of frames that are admitted and have no result yet."""
    source_fps: Number = 0.0
    """Frames a second that the source offers; 0 where it gives as many as are asked for."""
    window: Count = 1
    """Credits: frames that may be in flight."""
    in_flight: Count = 0
    admitted: Count = 0
    results: Count = 0
    fps: Figure = Figure()
    latency_s: Figure = Figure()
    """From admission to result."""
    drops: Counts = {}
    """Frames let go before admission, by reason."""
    fallback: Text = ""
    """Why the device went back to epoch 0 by itself; empty where it did not."""
    ended: bool = False
    """True once the source has ended and every result is in."""
    used: Epoch = 0
    """The highest epoch that frames were ever stamped with: a plan may be taken up and given up between two reports."""


class NodeEvent(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """Something that happened on a node, for the log and the viewers."""

    kind: Name
    """For instance `source lost`, `reconnected`, `peer lost`, `frames dropped`, `first frame`."""
    stream: Name = ""
    epoch: Epoch | None = None
    text: Text = ""
    age_s: Seconds = 0.0


class Report(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False, tag="report"):
    """All that the scheduler knows of a node."""

    node: Name
    tier: Tier | None
    """None for a tile worker, which belongs to no tier of the stream's own."""
    incarnation: Name
    """Random at each start of the process: another one means a restart."""
    sequence: Count
    """Grows by one per report; an older one than the newest seen is stale."""
    sent_s: Number
    """The node's own monotonic clock."""
    model: Name = ""
    """Fingerprint of the network that the node has loaded."""
    version: Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)] = PROTOCOL_VERSION
    interval_s: Annotated[float, msgspec.Meta(ge=0.01, le=3600.0)] = 1.0
    """The node's heartbeat: three missed in a row are its death."""
    endpoints: Endpoints = Endpoints()
    load: Load = Load()
    queues: Annotated[tuple[QueueReport, ...], msgspec.Meta(max_length=64)] = ()
    stages: Annotated[tuple[StageReport, ...], msgspec.Meta(max_length=MAX_STAGES)] = ()
    links: Annotated[tuple[LinkReport, ...], msgspec.Meta(max_length=MAX_LINKS)] = ()
    epochs: Annotated[tuple[Readiness, ...], msgspec.Meta(max_length=MAX_LIST)] = ()
    streams: Annotated[tuple[StreamReport, ...], msgspec.Meta(max_length=64)] = ()
    """Streams that start here; empty on all nodes but devices."""
    events: Annotated[tuple[NodeEvent, ...], msgspec.Meta(max_length=64)] = ()
    profile: Name = ""
    """Name or digest of the profile that describes this node; empty where it has none."""
    leaving: bool = False
    """True in the last report of a node that stops in good order."""
    scheduler: Name = ""
    """Incarnation of the scheduler whose announcements this node follows; empty before the first."""
    heard: Annotated[int, msgspec.Meta(ge=-1, lt=1 << 62)] = -1
    """Sequence of the newest announcement of that scheduler that reached this node; -1 for none. What `epochs`
    claims is believed for a plan only from its first announcement on, since epochs of one number may have
    meant another plan to a scheduler that is gone."""


class ReportEnvelope(msgspec.Struct, frozen=True, tag="report"):
    """The fields by which a report of another version is told apart; all others are ignored."""

    node: Name
    incarnation: Name = ""
    version: Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)] = 0
