"""How right the link estimates are, on shaped links: steps of 4x, an outage, cellular traces, and a link left idle.

A pusher sends frames through the link shaper to a puller, with the nodes' own sockets, heads and `LinkMeter`; the
puller reports each second and at once on a jump, and the scheduler's estimator takes the reports. All links run side
by side, each at a few Mbit/s, so the bench takes as long as one.

The truth is the trace's mean capacity over that part of the last second in which something was on the link, from when
its sender handed it over: capacity that comes and goes while nothing is sent is met by no frame, and seen by nobody. On
a trace that changes by the millisecond, a half-idle link's frames meet quite another mean than that of the whole
second, which stands beside it in the table.
"""

from __future__ import annotations

import contextlib
import itertools
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import zmq

from nodes.bench._data import DATA
from nodes.bench.report import Bar, BenchReport, Cell
from nodes.links import LinkMeter
from nodes.outlet import PROBE_AHEAD_S
from nodes.sockets import SocketFactory
from pipeline.frames import wire
from pipeline.frames.wire import Head, Message, Probe
from scheduler.estimate import LinkEstimator
from scheduler.probing import Prober
from traces.errors import TraceError
from traces.formats import read_trace
from traces.library import library_trace
from traces.link import Address, Shaper, ShaperConfig
from traces.trace import Trace

SECONDS = 40.0
LEAD_S = 5.0
"""Not judged: the connection is made and the first frames are sent."""

REPORT_S = 1.0
CHECK_S = 0.02
LOW_BPS, HIGH_BPS = 2e6, 8e6
STEP_S = 8.0
FRAMES_PER_S = 10.0
FILL = 0.6
"""Frames are so large that the mean capacity would carry them at this load."""

NUMBER_BYTES = 8
"""At the beginning of each message's payload."""

LINK = ("sender", "receiver")
REAL = (
    "mahimahi/ATT-LTE-driving-2016.down",
    "mahimahi/ATT-LTE-driving-2016.up",
    "mahimahi/TMobile-UMTS-driving.down",
    "mahimahi/Verizon-LTE-short.down",
    "mahimahi/Verizon-LTE-short.up",
    "norway_hsdpa/bus.ljansbakken-oslo-report.2010-09-29_1823CEST.txt",
    "lumos5g/5g_trace_41_walking.txt",
)
LIBRARY = ("3g.down", "lte-driving.down", "5g-walking.down")
MAX_RATE_BPS = 40e6
MAX_MEDIAN_ERROR = 0.15
NEAR = 0.20
MAX_BACK_S = 1.0
MAX_IDLE_S = 5.0


@dataclass(frozen=True)
class Case:
    """One link and what is sent over it."""

    name: str
    trace: Trace
    steps_s: tuple[float, ...] = ()
    """When the capacity changes."""
    fps: float = FRAMES_PER_S
    """0: nothing but probes."""

    @property
    def frame_bytes(self) -> int:
        """Of one frame."""
        rate_bps = LOW_BPS if self.steps_s else self.trace.mean_bps
        return max(4000, int(FILL * rate_bps / 8.0 / FRAMES_PER_S))


@dataclass
class Followed:
    """The estimate beside the truth, at each check."""

    case: Case
    times_s: list[float] = field(default_factory=list)
    estimates_bps: list[float] = field(default_factory=list)
    sent_s: dict[int, float] = field(default_factory=dict)
    """When the sender handed over each message, by its number."""
    spans_s: list[tuple[float, float]] = field(default_factory=list)
    """When something was on the link: of each message that came in, from its sending, or the end of the one before. In
    an outage connections break, and what they held is lost."""

    def came_in(self, number: int, at_s: float) -> None:
        """Message `number` is there whole."""
        end_s = self.spans_s[-1][1] if self.spans_s else 0.0
        self.spans_s.append((max(self.sent_s[number], end_s), at_s))

    def median_error(self) -> float:
        """Against the mean capacity of that part of the second before in which something crossed."""
        return self._median_error(self._met_bps)

    def median_error_of_seconds(self) -> float:
        """Against the mean capacity of the whole second before, idle moments included."""
        return self._median_error(lambda at_s: self.case.trace.bits_between(at_s - 1.0, at_s))

    def _median_error(self, truth_bps: Callable[[float], float]) -> float:
        errors = []
        for at_s, estimate in zip(self.times_s, self.estimates_bps, strict=True):
            truth = truth_bps(at_s)
            if at_s >= LEAD_S and truth > 0.05 * self.case.trace.mean_bps:
                errors.append(abs(estimate - truth) / truth)
        return statistics.median(errors)

    def _met_bps(self, at_s: float) -> float:
        """0 where nothing crossed."""
        cut = [(max(start_s, at_s - 1.0), min(end_s, at_s)) for start_s, end_s in self.spans_s]
        met = [(start_s, end_s) for start_s, end_s in cut if end_s > start_s]
        busy_s = sum(end_s - start_s for start_s, end_s in met)
        return sum(self.case.trace.bits_between(*span) for span in met) / busy_s if met else 0.0

    def back_s(self) -> list[float]:
        """After each step but those of the lead: until the estimate is near the new capacity, and stays so for 1 s."""
        times, values = np.array(self.times_s), np.array(self.estimates_bps)
        found = []
        for step_s, end_s in itertools.pairwise((*self.case.steps_s, self.times_s[-1])):
            truth = self.case.trace.rate_at(step_s + 0.01)
            if truth <= 0.0 or step_s < LEAD_S:
                continue
            within = (times >= step_s) & (times < end_s)
            near = np.abs(values[within] / truth - 1.0) <= NEAR
            at = times[within]
            hits = [t for t in at[near] if near[(at >= t) & (at < t + 1.0)].all()]
            found.append(float(hits[0] - step_s) if hits else float("inf"))
        return found


def run(seconds: float = SECONDS) -> BenchReport:
    """All links at once."""
    followed = [Followed(case) for case in _cases(seconds)]
    epoch_s = time.monotonic() + 1.0
    threads = [threading.Thread(target=_follow, args=(one, epoch_s, seconds)) for one in followed]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return _judge(followed)


def _cases(seconds: float) -> list[Case]:
    steps = tuple(STEP_S * number for number in range(1, int(seconds / STEP_S)))
    cases = [
        Case("steps of 4x", _steps([LOW_BPS, HIGH_BPS], STEP_S, seconds), steps),
        Case("outages of 3 s", _outages(seconds), tuple(at + 3.0 for at in steps)),
        Case("idle, steps of 4x", _steps([HIGH_BPS, LOW_BPS], 12.0, seconds), (12.0, 24.0), fps=0.0),
    ]
    return cases + [Case(trace.name[:40], trace) for trace in _cellular()]


def _steps(rates_bps: list[float], each_s: float, seconds: float) -> Trace:
    count = int(seconds / each_s) + 2
    times = np.arange(count, dtype=np.float64) * each_s
    return Trace(times, np.array([rates_bps[number % len(rates_bps)] for number in range(count)]), count * each_s)


def _outages(seconds: float) -> Trace:
    times: list[float] = []
    rates: list[float] = []
    for number in range(int(seconds / STEP_S) + 2):
        times += [number * STEP_S, number * STEP_S + 3.0]
        rates += [0.0 if number else HIGH_BPS, HIGH_BPS]
    return Trace(np.array(times), np.array(rates), times[-1] + STEP_S)


def _cellular() -> list[Trace]:
    """The real traces where they are, and those of the library."""
    folder = DATA / "traces"
    found = []
    for name in REAL:
        try:
            found.append(read_trace(folder / name))
        except TraceError:
            continue
    found += [library_trace(name) for name in LIBRARY]
    return [trace.scale(min(1.0, MAX_RATE_BPS / trace.mean_bps)).named(trace.name) for trace in found]


def _follow(followed: Followed, epoch_s: float, seconds: float) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    factory = SocketFactory(context, watched=False)
    inbox, endpoint = factory.pull("tcp://127.0.0.1:*")
    meter, stop = LinkMeter(), threading.Event()
    sizes: list[int] = []
    target = Address("127.0.0.1", int(endpoint.rpartition(":")[2]))
    config = ShaperConfig(followed.case.trace, followed.case.trace, target, epoch_s=epoch_s)
    with Shaper(config) as shaper:
        outbox = factory.push(f"tcp://127.0.0.1:{shaper.address.port}")
        threads = [
            threading.Thread(target=_receive, args=(inbox, meter, stop, followed, epoch_s)),
            threading.Thread(target=_send, args=(outbox, followed, epoch_s, stop, sizes)),
        ]
        for thread in threads:
            thread.start()
        try:
            _estimate(followed, meter, epoch_s, seconds, sizes)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
    outbox.close()
    context.term()


def _receive(
    inbox: zmq.Socket[bytes], meter: LinkMeter, stop: threading.Event, followed: Followed, epoch_s: float
) -> None:
    with inbox:
        while not stop.is_set():
            if inbox.poll(50):
                parts = inbox.recv_multipart(copy=False)
                now = time.monotonic()
                message = wire.decode([part.buffer for part in parts])
                meter.saw(message, now)
                if isinstance(message.header, Probe):
                    number = int.from_bytes(message.buffers[0][:NUMBER_BYTES], "little")
                    followed.came_in(number, now - epoch_s)


def _send(
    outbox: zmq.Socket[bytes], followed: Followed, epoch_s: float, stop: threading.Event, probes: list[int]
) -> None:
    """Frames at their pace, or the probes that are ordered."""
    case, due_s = followed.case, epoch_s
    with outbox:
        while not stop.is_set():
            size = 0
            if case.fps and time.monotonic() >= due_s:
                size, due_s = case.frame_bytes, max(due_s + 1.0 / case.fps, time.monotonic() - 1.0 / case.fps)
            elif not case.fps and probes:
                size = probes.pop(0)
            if not size:
                stop.wait(0.002)
                continue
            number = len(followed.sent_s)
            followed.sent_s[number] = time.monotonic() - epoch_s
            payload = number.to_bytes(NUMBER_BYTES, "little").ljust(size, b"\0")
            with contextlib.suppress(zmq.Again):  # what an outage does not let out is lost, as a node's is
                ahead_s = 0.0 if case.fps else PROBE_AHEAD_S
                outbox.send_multipart(wire.encode(Message(Head("sender", size, ahead_s))))
                time.sleep(ahead_s)
                outbox.send_multipart(wire.encode(Message(Probe("sender"), [payload])))


def _estimate(followed: Followed, meter: LinkMeter, epoch_s: float, seconds: float, probes: list[int]) -> None:
    """The receiver's reports and the scheduler's estimator."""
    estimator, prober = LinkEstimator(), Prober()
    reported_s = 0.0
    pause = threading.Event()
    seen: list[bool] = []

    def find(source: str, target: str) -> LinkEstimator | None:
        return estimator if seen else None

    while (now := time.monotonic()) < epoch_s + seconds:
        if now - reported_s >= REPORT_S or meter.jumped():
            beat, reported_s = now - reported_s >= REPORT_S, now
            for report in meter.reports():
                estimator.add(report, now)
                seen.append(True)
            if beat and not followed.case.fps:
                found = prober.due([LINK], find, now)
                probes.extend(size for _, size in found)
        goodput = estimator.goodput(now)
        followed.times_s.append(now - epoch_s)
        followed.estimates_bps.append(0.0 if goodput is None else goodput.value)
        pause.wait(CHECK_S)


def _judge(followed: list[Followed]) -> BenchReport:
    rows: list[dict[str, Cell]] = []
    bars: list[Bar] = []
    for one in followed:
        error, back = one.median_error(), one.back_s()
        row: dict[str, Cell] = {
            "link": one.case.name, "frames/s": one.case.fps, "median error": round(error, 3),
            "of whole seconds": round(one.median_error_of_seconds(), 3),
        }  # fmt: skip
        if back:
            row |= {"back after s, median": round(statistics.median(back), 2), "worst": round(max(back), 2)}
        rows.append(row)
        if one.case.fps:
            bars.append(Bar(f"{one.case.name}: median error", error, MAX_MEDIAN_ERROR, "max"))
        if back:
            limit = max(MAX_BACK_S, 5.0 / one.case.fps) if one.case.fps else MAX_IDLE_S
            bars.append(Bar(f"{one.case.name}: back within 20 %, worst, s", max(back), limit, "max"))
    return BenchReport("estimate", rows, bars)
