"""A shaped link between any two programs that speak TCP: point the client at the shaper, and the shaper at the server.

The shaper takes a connection, opens one of its own to the target, and passes the bytes on as the traces allow: up is
from the client to the target, down is back. All connections share the link. It needs no privileges.

What it is not: a packet network. TCP's own losses, retransmissions and congestion windows happen on the loopback on
either side, where they do not show; a full queue holds the sender up instead of dropping, as a modem's queue does to a
sender whose window is filled. Handshakes are not delayed.
"""

from __future__ import annotations

import logging
import math
import queue
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

from traces.errors import TraceError
from traces.link.address import Address
from traces.link.counters import DirectionStats, ShaperStats
from traces.link.queue import LinkQueue, LinkSettings
from traces.link.relay import MIN_BUFFER_BYTES, SMALL_BUFFER_BPS, SMALL_BUFFER_S, Direction, Relay
from traces.trace import Trace

log = logging.getLogger(__name__)

Result = TypeVar("Result")
Way = Literal["up", "down", "both"]

ANY_PORT = Address("127.0.0.1", 0)
NO_EXTRAS = LinkSettings()
_ANSWER_S = 10.0
"""How long a caller waits for the relay's thread, which answers within milliseconds unless the machine is stuck."""


@dataclass(frozen=True)
class ShaperConfig:
    """One shaped link."""

    up: Trace
    """Capacity from the client to the target."""
    down: Trace
    """Capacity back."""
    to: Address
    """Where connections are passed on to."""
    listen: Address = ANY_PORT
    """Where connections are taken; port 0 takes a free one."""
    settings: LinkSettings = NO_EXTRAS
    """Queue, delay, jitter and loss, of each direction."""
    epoch_s: float | None = None
    """`time.monotonic()` at which the traces are at 0 (it is one clock for all processes of a machine); None: start."""


class Shaper:
    """A shaped link, on a thread of its own. Use it as a context manager, or call `start` and `stop`."""

    def __init__(self, config: ShaperConfig) -> None:
        self._config = config
        self._settings = config.settings
        self._relay: Relay | None = None
        self._address = config.listen
        self._thread: threading.Thread | None = None
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._paused = False
        self._traces = (config.up, config.down)

    def __enter__(self) -> Shaper:
        return self.start()

    def __exit__(self, *exception: object) -> None:
        self.stop()

    @property
    def address(self) -> Address:
        """Where it listens; the port is the real one once started."""
        return self._address

    def start(self) -> Shaper:
        """Binds the address and begins; the traces begin at the config's epoch, or now.

        Raises:
            TraceError: an address that cannot be bound; already started.
        """
        if self._thread is not None:
            raise TraceError(f"link {self._address}", "has been started already")
        epoch_s = self._config.epoch_s if self._config.epoch_s is not None else time.monotonic()
        listener = _listen(self._config.listen)
        self._address = Address(self._config.listen.host, listener.getsockname()[1])
        self._relay = Relay(
            listener,
            self._config.to,
            self._direction(0, self._config.up, epoch_s),
            self._direction(1, self._config.down, epoch_s),
        )
        self._relay.epoch_s = epoch_s
        self._relay.buffer_bytes = _buffer_bytes(self._config.up, self._config.down)
        self._thread = threading.Thread(
            target=self._run, args=(self._relay,), name=f"link-{self._address}", daemon=True
        )
        self._thread.start()
        return self

    def stop(self) -> None:
        """Cuts all connections and closes. Calling it again does nothing."""
        if self._thread is None or self._relay is None:
            return
        self._calls.put(None)
        self._relay.wake()
        self._thread.join(_ANSWER_S)

    def pause(self) -> None:
        """Both directions stand still; connections stay. What is in flight arrives; the trace's time runs on."""
        self._call(lambda relay, now_s: self._set_paused(relay, True, now_s))

    def resume(self) -> None:
        """Ends a pause or a cut."""
        self._call(self._resume)

    def cut(self, for_s: float = 0.0) -> None:
        """Resets every connection, and those that come within `for_s` (infinite: until `resume`)."""

        def act(relay: Relay, now_s: float) -> None:
            relay.cut_until_s = now_s + for_s
            relay.reset_all()

        self._call(act)

    def set_trace(self, trace: Trace, way: Way = "both", at_s: float = 0.0) -> None:
        """Goes on with another trace, from a time within it."""

        def act(relay: Relay, now_s: float) -> None:
            for direction in _directions(relay, way):
                direction.queue.set_trace(trace, now_s, at_s)
            self._traces = (self._traces[0] if way == "down" else trace, self._traces[1] if way == "up" else trace)
            relay.set_buffers(_buffer_bytes(*self._traces))

        self._call(act)

    def set_rate(self, rate_bps: float, way: Way = "both") -> None:
        """Goes on with a constant rate."""
        self.set_trace(Trace.constant(rate_bps), way)

    def set_settings(self, way: Way = "both", **changes: float) -> None:
        """Changes fields of `LinkSettings`: `set_settings(delay_s=0.05)`.

        Raises:
            TraceError: no such field, or a value out of range.
        """
        known = LinkSettings.__dataclass_fields__
        for name in changes:
            if name not in known:
                raise TraceError(f"link setting {name}", "is unknown", f"use one of {', '.join(known)}")
        whole = {name: int(value) if name in ("queue_bytes", "seed") else value for name, value in changes.items()}
        self._settings = replace(self._settings, **whole)  # type: ignore[arg-type]
        settings = self._settings

        def act(relay: Relay, now_s: float) -> None:
            for direction in _directions(relay, way):
                direction.queue.set_settings(settings, now_s)

        self._call(act)

    def set_epoch(self, epoch_s: float) -> None:
        """Moves the traces' time 0 to a moment of `time.monotonic()`, so that several links run in step."""

        def act(relay: Relay, now_s: float) -> None:
            relay.epoch_s = epoch_s
            for direction in (relay.up, relay.down):
                direction.queue.set_origin(epoch_s, now_s)

        self._call(act)

    def stats(self) -> ShaperStats:
        """All figures at this moment."""
        return self._call(self._stats)

    # --- inside ---------------------------------------------------------------------------------------------------

    def _run(self, relay: Relay) -> None:
        try:
            while True:
                while not self._calls.empty():
                    act = self._calls.get()
                    if act is None:
                        return
                    act()
                relay.step()
        except Exception:
            log.exception("link %s: stopped by an error", self._address)
        finally:
            relay.close()

    def _call(self, act: Callable[[Relay, float], Result]) -> Result:
        """Runs a function on the relay's thread, between two of its rounds."""
        relay, thread = self._relay, self._thread
        if relay is None or thread is None or not thread.is_alive():
            raise TraceError(f"link {self._address}", "is not running", "start it first")
        answer: Future[Result] = Future()

        def run() -> None:
            try:
                answer.set_result(act(relay, time.monotonic()))
            except Exception as error:
                answer.set_exception(error)

        self._calls.put(run)
        relay.wake()
        return answer.result(_ANSWER_S)

    def _direction(self, index: int, trace: Trace, epoch_s: float) -> Direction:
        settings = replace(self._settings, seed=self._settings.seed * 2 + index)
        now_s = time.monotonic()
        link_queue = LinkQueue(trace, settings, now_s)
        link_queue.set_origin(epoch_s, now_s)
        return Direction(index, link_queue)

    def _set_paused(self, relay: Relay, paused: bool, now_s: float) -> None:
        self._paused = paused
        for direction in (relay.up, relay.down):
            direction.queue.set_paused(paused, now_s)

    def _resume(self, relay: Relay, now_s: float) -> None:
        relay.cut_until_s = 0.0
        self._set_paused(relay, False, now_s)

    def _stats(self, relay: Relay, now_s: float) -> ShaperStats:
        return ShaperStats(
            link_time_s=now_s - relay.epoch_s,
            connections=len(relay.connections),
            accepted=relay.accepted,
            refused=relay.refused,
            paused=self._paused,
            cut=now_s < relay.cut_until_s,
            up=_direction_stats(relay.up, now_s),
            down=_direction_stats(relay.down, now_s),
        )


def _direction_stats(direction: Direction, now_s: float) -> DirectionStats:
    link_queue, counters = direction.queue, direction.counters
    link_queue.advance(now_s)
    return DirectionStats(
        rate_bps=link_queue.rate_bps,
        trace_time_s=link_queue.trace_time_s,
        read_bytes=counters.read_bytes,
        delivered_bytes=counters.delivered_bytes,
        dropped_bytes=counters.dropped_bytes,
        queued_bytes=link_queue.queued_bytes,
        flying_bytes=link_queue.flying_bytes,
        peak_queue_bytes=counters.peak_queue_bytes,
        lost_packets=link_queue.lost_packets,
        per_second=tuple(counters.per_second),
    )


def _directions(relay: Relay, way: Way) -> list[Direction]:
    return [direction for name, direction in (("up", relay.up), ("down", relay.down)) if way in (name, "both")]


def _buffer_bytes(*traces: Trace) -> int:
    """Kernel buffers for the fastest of the traces; 0 (the kernel's own, which grow) where that is fast."""
    peak_bps = max(trace.peak_bps for trace in traces)
    if peak_bps > SMALL_BUFFER_BPS:
        return 0
    return max(MIN_BUFFER_BYTES, int(min(peak_bps, math.inf) * SMALL_BUFFER_S / 8))


def _listen(address: Address) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address.host, address.port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise TraceError(f"link {address}", f"cannot listen: {error.strerror}", "choose another address") from None
    return listener
