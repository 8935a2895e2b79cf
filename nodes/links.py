"""What a node, as the receiver, sees of the links that lead to it."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator

from pipeline.frames.wire import FrameHeader, Head, Message, Ping, Pong, Probe, Tile, TileDone
from scheduler.patience import Doorkeeper
from scheduler.reports import LinkReport
from scheduler.timing import MAX_PEERS, MAX_STRANGERS, CrossingLog, RoundTrip

MAX_ECHO_S = 60.0
"""A ping that is answered later than this is not taken for one."""

NS = 1e-9


class LinkMeter:
    """Crossings, round trips and refused messages, by peer. Written by the receiver, read by the control thread.

    Args:
        is_known: whether a name is that of a node of a plan.
    """

    def __init__(self, is_known: Callable[[str], bool] = lambda _: True) -> None:
        self.door = Doorkeeper()
        self._is_known = is_known
        self._logs: OrderedDict[str, CrossingLog] = OrderedDict()
        self._strangers: OrderedDict[str, CrossingLog] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def refused(self) -> Counter[str]:
        """Messages and frames given up here, by reason."""
        return self.door.refused

    @property
    def peers(self) -> tuple[str, ...]:
        """Nodes that have sent something."""
        with self._lock:
            return (*self._logs, *self._strangers)

    def saw(self, message: Message, received_s: float, held: bool = False) -> None:
        """Take any message that came in whole at `received_s`, monotonic.

        `held` tells that this node left it unread for a while, so that its time is not the link's.
        """
        header = message.header
        with self._lock:
            if isinstance(header, Head):
                self._log(header.node).started(header.payload_bytes, received_s + header.ahead_s)
            elif isinstance(header, FrameHeader) and header.hops:
                self._log(header.hops[-1].node).finished(message.payload_bytes, received_s, held=held)
            elif isinstance(header, Tile | TileDone):
                self._log(header.node).finished(message.payload_bytes, received_s, held=held)
            elif isinstance(header, Probe):
                self._log(header.node).finished(message.payload_bytes, received_s, probe=True, held=held)
            elif isinstance(header, Pong) and _is_plausible(header, received_s):
                self._log(header.node).echoed(_round_trip(header, received_s))

    def refuse(self, reason: str) -> None:
        """Count something that was not taken; `reason` is one of this node's own words, never a peer's."""
        self.refused[reason] += 1

    def jumped(self) -> bool:
        """Whether a link has changed so much that the scheduler should hear of it at once."""
        now = time.monotonic()
        with self._lock:
            return any(log.jumped(now) for log in self._all())

    def reports(self) -> tuple[LinkReport, ...]:
        """What came in since the last call, by peer."""
        now = time.monotonic()
        with self._lock:
            return tuple(log.take(now) for log in self._all())

    def _all(self) -> Iterator[CrossingLog]:
        return itertools.chain(self._logs.values(), self._strangers.values())

    def _log(self, peer: str) -> CrossingLog:
        if peer in self._logs or self._is_known(peer):
            log = self._logs.get(peer) or self._strangers.pop(peer, None) or CrossingLog(peer)
            return _keep(self._logs, peer, log, MAX_PEERS)
        return _keep(self._strangers, peer, self._strangers.get(peer) or CrossingLog(peer), MAX_STRANGERS)


def _keep(logs: OrderedDict[str, CrossingLog], peer: str, log: CrossingLog, most: int) -> CrossingLog:
    logs[peer] = log
    logs.move_to_end(peer)
    while len(logs) > most:
        logs.popitem(last=False)
    return log


def _is_plausible(pong: Pong, returned_s: float) -> bool:
    """Whether a pong may answer a ping of this node: an older one tells nothing, and others are made up."""
    age_s = returned_s - pong.sent_ns * NS
    return 0.0 <= age_s <= MAX_ECHO_S and 0 <= (pong.answered_ns - pong.received_ns) * NS <= age_s


def _round_trip(pong: Pong, returned_s: float) -> RoundTrip:
    return RoundTrip(pong.sent_ns * NS, pong.received_ns * NS, pong.answered_ns * NS, returned_s)


def answer(name: str, ping: Ping, received_s: float) -> Pong:
    """The pong to a ping that came in at `received_s`."""
    return Pong(name, ping.sent_ns, int(received_s / NS), time.monotonic_ns(), time.time_ns())
