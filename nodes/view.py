"""The live view of a run: a table on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator

import zmq
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from nodes.keys import Keyring
from nodes.sockets import SocketFactory
from pipeline.errors import WireError
from pipeline.plan import Plan
from scheduler.commands import ClusterState, StreamView
from scheduler.events import VIEWERS, decode_command, decode_report, topic
from scheduler.reports import Report, StageReport, StreamReport

REFRESH_S = 0.5
PLAIN_S = 5.0
"""Between two lines where there is no terminal."""

MAX_NODES = 64
"""Rows of the table; the nodes heard of longest ago leave first."""


class Watch:
    """The latest word of every node and of the scheduler."""

    def __init__(self) -> None:
        self.reports: OrderedDict[str, Report] = OrderedDict()
        self.state: ClusterState | None = None

    def take(self, data: bytes) -> None:
        """Take one message of the viewers' topic; others are ignored."""
        try:
            report = decode_report(data)
        except WireError:
            self._take_command(data)
            return
        self.reports[report.node] = report
        self.reports.move_to_end(report.node)
        while len(self.reports) > MAX_NODES:
            self.reports.popitem(last=False)

    def _take_command(self, data: bytes) -> None:
        try:
            command = decode_command(data)
        except WireError:
            return
        if isinstance(command, ClusterState):
            self.state = command

    def streams(self) -> Iterator[StreamReport]:
        """Every stream, from its device's latest report."""
        for report in self.reports.values():
            yield from report.streams

    def nodes(self) -> list[Report]:
        """Reports in the order of the stream."""
        return sorted(self.reports.values(), key=lambda each: (each.tier.rank if each.tier else 1.5, each.node))


def follow(watch: Watch, plans: str, console: Console, stop: threading.Event, keyring: Keyring | None = None) -> None:
    """Show the run behind the plan socket at `plans` until `stop` is set."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket, _ = SocketFactory(context, keyring=keyring).subscriber(plans, bind=False, topics=(topic(VIEWERS),))
    try:
        if console.is_terminal:
            with Live(console=console, refresh_per_second=4, transient=True) as live:
                _loop(watch, socket, stop, REFRESH_S, lambda: live.update(render(watch)))
        else:
            _loop(watch, socket, stop, PLAIN_S, lambda: _plain(watch, console))
    finally:
        socket.close()
        context.term()


def _loop(
    watch: Watch, socket: zmq.Socket[bytes], stop: threading.Event, interval_s: float, show: Callable[[], None]
) -> None:
    due_s = time.monotonic() + interval_s
    while not stop.is_set():
        if socket.poll(100):
            watch.take(socket.recv_multipart()[-1])
        if time.monotonic() >= due_s:
            show()
            due_s = time.monotonic() + interval_s


def _plain(watch: Watch, console: Console) -> None:
    for stream in watch.streams():
        drops = ", ".join(f"{count} {reason}" for reason, count in stream.drops.items()) or "none"
        console.print(
            f"{stream.stream}: {stream.results} results, {stream.fps.window:.1f} frames/s, "
            f"latency {stream.latency_s.window * 1e3:.0f} ms, {stream.in_flight} in flight, epoch {stream.epoch}, "
            f"dropped {drops}",
            highlight=False,
        )


def render(watch: Watch) -> RenderableType:
    """The whole view."""
    parts: list[RenderableType] = [_node_table(watch), *map(_stream_line, watch.streams())]
    state = watch.state
    if state is not None:
        parts.extend(_plan_line(view) for view in state.streams)
        if state.links:
            parts.append(_link_table(state))
        parts.extend(Text(line, style="dim") for line in state.log[-3:])
    return Group(*parts)


def _node_table(watch: Watch) -> Table:
    table = Table(title="anabranch", title_justify="left")
    for heading in ("node", "stage", "frames/s", "compute ms", "queue ms", "pack ms", "sent kB", "CPU", "memory MB"):
        table.add_column(heading, justify="left" if heading in ("node", "stage") else "right")
    for report in watch.nodes():
        stage = _current(report)
        load = report.load
        table.add_row(
            report.node,
            str(report.tier or "tile"),
            *(_stage_cells(stage) if stage else ("-",) * 5),
            f"{load.cpu_node:.2f}",
            f"{load.memory_bytes / 1e6:.0f}",
        )
    return table


def _current(report: Report) -> StageReport | None:
    return max(report.stages, key=lambda stage: stage.epoch, default=None)


def _stage_cells(stage: StageReport) -> tuple[str, ...]:
    return (
        f"{stage.fps.window:.1f}",
        f"{stage.compute_s.window * 1e3:.1f}",
        f"{stage.queue_s.window * 1e3:.1f}",
        f"{(stage.pack_s.window + stage.unpack_s.window) * 1e3:.1f}",
        f"{stage.packed_bytes.window / 1e3:.1f}",
    )


def _stream_line(stream: StreamReport) -> Text:
    drops = ", ".join(f"{count} {reason}" for reason, count in stream.drops.items()) or "none"
    return Text(
        f"{stream.stream}: {stream.results} results, {stream.fps.window:.1f} frames/s, latency "
        f"{stream.latency_s.window * 1e3:.0f} ms, in flight {stream.in_flight} of {stream.window}, dropped {drops}"
    )


def _plan_line(view: StreamView) -> Text:
    line = Text(f"plan {view.stream}#{view.current.epoch}: {describe(view.current)}")
    if view.predicted_fps:
        line.append(f"  (predicted {view.predicted_fps:.1f} frames/s, {view.predicted_latency_s * 1e3:.0f} ms)")
    if view.prepared is not None:
        line.append(f"\n  preparing #{view.prepared.epoch}: {describe(view.prepared)}")
    for switch in view.switches[-2:]:
        measured = "" if switch.measured is None else f", measured {switch.measured:.2f}x"
        line.append(f"\n  switch to #{switch.epoch}: {switch.reason} (predicted {switch.predicted:.2f}x{measured})")
    if view.problem:
        line.append(f"\n  {view.problem}", style="yellow")
    return line


def _link_table(state: ClusterState) -> Table:
    table = Table()
    for heading in ("link", "Mbit/s", "+-", "round trip ms", "seen s ago"):
        table.add_column(heading, justify="left" if heading == "link" else "right")
    for link in state.links:
        table.add_row(
            f"{link.source} -> {link.target}",
            f"{link.goodput_bps / 1e6:.1f}",
            f"{link.uncertainty:.0%}",
            f"{link.rtt_s * 1e3:.1f}",
            f"{link.age_s:.0f}",
        )
    return table


def describe(plan: Plan) -> str:
    """A plan on one line: `camera [..stage2] =q4=> edge-1 [..stage3] =fp32=> cloud-1 [..output]`."""
    words = []
    for hop, stage in enumerate(plan.stages):
        tiles = ""
        if plan.tiles is not None and stage.tier == "edge":
            tiles = f" in tiles on {', '.join(plan.tiles.workers)}"
        arrow = f" ={plan.links[hop].codec}=> " if hop < len(plan.links) else ""
        words.append(f"{stage.node} [..{stage.until}]{tiles}{arrow}")
    return "".join(words)
