"""Simulated links: a first-in, first-out pipe that obeys a trace, and what its receiver times of it.

The receiver feeds the same `CrossingLog` as a live node's: a small head before each large message, then the message.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from operator import itemgetter

from pipeline.frames.envelope import LARGE, Envelope, message_bytes
from pipeline.frames.wire import Ping, Pong
from pipeline.plan import Tier
from scheduler.estimate import MIN_MESSAGE_BYTES
from scheduler.reports import LinkReport
from scheduler.simulate.scenario import node_name
from scheduler.timing import CrossingLog
from traces.trace import Trace

PING_BYTES = message_bytes(Ping(node_name(Tier.DEVICE), LARGE))
PONG_BYTES = message_bytes(Pong(node_name(Tier.DEVICE), LARGE, LARGE, LARGE, LARGE))


class Pipe:
    """The capacity of one direction. Several links may share it (one radio, two peers).

    The answers to pings set out by themselves, when something else is sent or looked at: nine of ten events of a
    thousand streams at 2 frames/s were answers on links that carried nothing else.
    """

    __slots__ = ("_answers", "_free_s", "_opening_bps", "_step", "_zero_s", "trace")

    def __init__(self, trace: Trace, zero_s: float = 0.0) -> None:
        self.trace = trace
        self._zero_s = zero_s
        self._opening_bps = trace.opening_bps
        """Before the trace begins, as in a replay."""
        self._free_s = 0.0
        self._step = trace.step_at(0.0)
        """The one that something was sent in last: as a rule, the next message is of the same."""
        self._answers: list[tuple[float, float, SimulatedLink]] = []
        """Answers to pings: when they set out, when the ping was sent, and by which link; in this order."""

    def send(self, nbytes: int, now: float) -> tuple[float, float]:
        """Queue a message.

        Returns:
            When its first byte goes out, and when its last one has; infinite where the trace never lets it pass.
        """
        if self._answers and self._answers[0][0] <= now:
            self.settle(now)
        start_s = self._free_s if self._free_s > now else now
        self._free_s = self._sent_s(8.0 * nbytes, start_s)
        return start_s, self._free_s

    def answer(self, set_out_s: float, sent_s: float, link: SimulatedLink) -> None:
        """The answer to a ping of `sent_s` will set out by one of this pipe's links."""
        answers = self._answers
        answers.append((set_out_s, sent_s, link))
        if len(answers) > 1 and answers[-2][0] > set_out_s:  # two peers, at different distances
            answers.sort(key=itemgetter(0))

    def settle(self, now: float) -> None:
        """Send the answers that have set out by now."""
        answers, free_s, count = self._answers, self._free_s, 0
        for set_out_s, sent_s, link in answers:
            if set_out_s > now:
                break
            count += 1
            free_s = self._sent_s(8.0 * PONG_BYTES, free_s if free_s > set_out_s else set_out_s)
            if free_s < math.inf:
                link.watch.echoes.append((sent_s, free_s + link.delay_s))
        self._free_s = free_s
        del answers[:count]

    def _sent_s(self, bits: float, start_s: float) -> float:
        """When the last of these bits has gone out, if the first one does at `start_s`."""
        time_s = start_s - self._zero_s
        if time_s < 0.0:
            return self._opened_s(bits, start_s)
        step = self._step
        phase_s = time_s - step.begin_s
        if not step.low_s <= phase_s < step.high_s:
            if start_s == math.inf:
                return start_s
            step = self._step = self.trace.step_at(time_s)
            phase_s = time_s - step.begin_s
        if (step.high_s - phase_s) * step.rate_bps >= bits > 0.0:
            return start_s + bits / step.rate_bps
        return start_s + self.trace.time_to_send(bits, time_s)

    def _opened_s(self, bits: float, start_s: float) -> float:
        """The same before the trace begins."""
        before = self._opening_bits(start_s, self._zero_s)
        if bits < before:
            return start_s + bits / self._opening_bps
        return self._zero_s + self.trace.time_to_send(bits - before, 0.0)

    def mean_bps(self, start_s: float, end_s: float) -> float:
        """The true mean rate between two simulated times."""
        zero_s = self._zero_s
        begin_s = min(end_s, max(start_s, zero_s))
        after = float(self.trace.bits_between(begin_s - zero_s, end_s - zero_s))
        return (self._opening_bits(start_s, begin_s) + after) / (end_s - start_s)

    def _opening_bits(self, start_s: float, end_s: float) -> float:
        return self._opening_bps * (end_s - start_s) if end_s > start_s else 0.0


class Watch(CrossingLog):
    """What a receiver knows of one incoming link: the log, and what will reach it."""

    __slots__ = ("_heads", "_looked_s", "bytes_total", "echoes")

    def __init__(self, peer: str) -> None:
        super().__init__(peer)
        self.bytes_total = 0
        """Payload that came in."""
        # Lists, since there are seldom two of either, and an empty deque takes 0.6 KB of each of 30,000 links.
        self._heads: list[tuple[float, int]] = []
        self.echoes: list[tuple[float, float]] = []
        """Pings that come back: when they were sent, and when they are here; in the order in which they were sent."""
        self._looked_s = float("-inf")

    def expect(self, nbytes: int, head_s: float) -> None:
        """A head will come in at `head_s`."""
        if head_s < math.inf:
            self._heads.append((head_s, nbytes))

    def finished(self, payload_bytes: int, now: float, *, probe: bool = False, held: bool = False) -> None:
        """See `CrossingLog.finished`."""
        if self._heads:
            self._look(now)
        self.bytes_total += payload_bytes
        super().finished(payload_bytes, now, probe=probe, held=held)

    def forget(self) -> None:
        """The receiver has heard of too many others since."""
        super().__init__(self.peer)
        self.echoes.clear()

    def jumped(self, now: float) -> bool:
        """See `CrossingLog.jumped`; looked at ten times a second at most."""
        if now - self._looked_s < 0.1:
            return False
        self._looked_s = now
        if self._heads:
            self._look(now)
        return super().jumped(now)

    def take(self, now: float) -> LinkReport:
        """See `CrossingLog.take`."""
        if self._heads:
            self._look(now)
        echoes = self.echoes
        while echoes and echoes[0][1] <= now:
            sent_s, returned_s = echoes.pop(0)
            self.returned(returned_s - sent_s)
        return CrossingLog.take(self, now)

    def _look(self, now: float) -> None:
        while self._heads and self._heads[0][0] <= now:
            head_s, nbytes = self._heads.pop(0)
            self.started(nbytes, head_s)


@dataclass(slots=True)
class SimulatedLink:
    """One directed link between two nodes."""

    source: str
    target: str
    pipe: Pipe
    delay_s: float
    watch: Watch
    back: SimulatedLink | None = None
    """The way that pings of the target's take."""

    def send(self, payload_bytes: int, envelope: Envelope, now: float) -> float:
        """Put a message on its way, its head before it where it is large.

        Returns:
            When it has come in whole.
        """
        if payload_bytes >= MIN_MESSAGE_BYTES:
            _, head_s = self.pipe.send(envelope.head_bytes, now)
            self.watch.expect(payload_bytes, head_s + self.delay_s)
        _, last_s = self.pipe.send(payload_bytes + envelope.beside_bytes, now)
        return last_s + self.delay_s

    def bring_home(self, payload_bytes: int, envelope: Envelope, now: float) -> float:
        """The same of a result, which nobody times.

        Returns:
            When it has come in whole.
        """
        head_bytes = envelope.head_bytes if payload_bytes >= MIN_MESSAGE_BYTES else 0
        _, last_s = self.pipe.send(head_bytes + payload_bytes + envelope.beside_bytes, now)
        return last_s + self.delay_s

    def take(self, now: float) -> LinkReport:
        """What the target reports of the link."""
        self.pipe.settle(now)
        return self.watch.take(now)

    def ping(self, now: float) -> None:
        """The target asks the source for an echo."""
        if self.back is not None:
            _, last_s = self.back.pipe.send(PING_BYTES, now)
            if last_s < math.inf:
                self.pipe.answer(last_s + self.back.delay_s, now, self)
