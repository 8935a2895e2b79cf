"""The relay: real sockets through a shaped link."""

from __future__ import annotations

import hashlib
import io
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest

from tests.traces.waiting import until
from traces.errors import TraceError
from traces.link import Address, LinkSettings, Shaper, ShaperConfig, ShaperProcess
from traces.link.control import execute, serve_commands
from traces.trace import Trace

FAST = Trace.constant(1e9)
NO_EXTRAS = LinkSettings()


class Server:
    """A listening socket whose connections are served by a function, one thread each."""

    def __init__(self, serve: Callable[[socket.socket], None]) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = Address("127.0.0.1", self._listener.getsockname()[1])
        self._serve = serve
        self._threads: list[threading.Thread] = []
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()

    def _accept(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            if self._closing(connection):
                return
            thread = threading.Thread(target=self._run, args=(connection,))
            self._threads.append(thread)
            thread.start()

    def _closing(self, connection: socket.socket) -> bool:
        if self._serve is not _nothing:
            return False
        connection.close()
        return True

    def _run(self, connection: socket.socket) -> None:
        with connection:
            try:
                self._serve(connection)
            except OSError:
                pass  # the client or the link has gone

    def close(self) -> None:
        """Ends with all of its threads."""
        self._serve = _nothing
        socket.create_connection((self.address.host, self.address.port)).close()
        self._accepting.join(5)
        self._listener.close()
        for thread in self._threads:
            thread.join(5)


def _nothing(_: socket.socket) -> None:
    return


def echo(connection: socket.socket) -> None:
    """Sends back what comes."""
    while data := connection.recv(65536):
        connection.sendall(data)


def swallow(connection: socket.socket) -> None:
    """Reads to the end, then says how much it was."""
    total, digest = 0, hashlib.sha256()
    while data := connection.recv(1 << 20):
        total += len(data)
        digest.update(data)
    connection.sendall(f"{total} {digest.hexdigest()}".encode())


@contextmanager
def linked(
    serve: Callable[[socket.socket], None], up: Trace = FAST, down: Trace = FAST, settings: LinkSettings = NO_EXTRAS
) -> Iterator[Shaper]:
    """A server behind a shaped link."""
    server = Server(serve)
    try:
        with Shaper(ShaperConfig(up, down, server.address, settings=settings)) as shaper:
            yield shaper
    finally:
        server.close()


def connect(shaper: Shaper | ShaperProcess) -> socket.socket:
    """A client of the link."""
    client = socket.create_connection((shaper.address.host, shaper.address.port), timeout=20)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client


def read_all(client: socket.socket) -> bytes:
    """Everything until the other side ends."""
    parts = []
    while data := client.recv(1 << 20):
        parts.append(data)
    return b"".join(parts)


def read_exactly(client: socket.socket, size: int) -> bytes:
    """So many bytes."""
    parts = b""
    while len(parts) < size:
        parts += client.recv(size - len(parts))
    return parts


def is_gone(client: socket.socket) -> bool:
    """Whether the connection has been reset or ended."""
    try:
        return client.recv(1) == b""
    except ConnectionError:
        return True


def is_refused(shaper: Shaper) -> bool:
    """Whether a new connection is reset or ended, during the connect or after it."""
    try:
        with connect(shaper) as client:
            return is_gone(client)
    except ConnectionError:
        return True


def round_trip_s(client: socket.socket) -> float:
    """Time of one byte there and back."""
    began = time.monotonic()
    client.sendall(b"x")
    assert client.recv(1) == b"x"
    return time.monotonic() - began


def test_all_bytes_arrive_in_order_and_both_ends_close() -> None:
    data = np.random.default_rng(3).bytes(8_000_000)
    with linked(swallow) as shaper, connect(shaper) as client:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        assert read_all(client).decode() == f"{len(data)} {hashlib.sha256(data).hexdigest()}"
        until(lambda: shaper.stats().connections == 0)
        stats = shaper.stats()
        assert stats.up.delivered_bytes == stats.up.read_bytes == len(data) and stats.up.dropped_bytes == 0
        assert sum(nbytes for _, nbytes in stats.up.per_second) == len(data)


def test_many_small_messages_of_several_clients() -> None:
    with linked(echo, Trace.constant(20e6), Trace.constant(20e6)) as shaper:
        clients = [connect(shaper) for _ in range(5)]
        for size in range(1, 21):
            for number, client in enumerate(clients):
                client.sendall(bytes([number]) * size)
            for number, client in enumerate(clients):
                assert read_exactly(client, size) == bytes([number]) * size
        for client in clients:
            client.close()


def test_the_rate_is_the_traces() -> None:
    # 2 Mbit/s for half a second, then 8: 125 kB + 500 kB take 1 s.
    up = Trace(np.array([0.0, 0.5]), np.array([2e6, 8e6]), 10.0)
    with linked(swallow, up) as shaper, connect(shaper) as client:
        began = time.monotonic()
        client.sendall(bytes(625_000))
        client.shutdown(socket.SHUT_WR)
        read_all(client)
        # The link began shortly before the first byte: what it could not pass then it passes at 8 Mbit/s.
        assert 0.97 < time.monotonic() - began < 1.15


def test_delay_is_one_way_each_way() -> None:
    with linked(echo, settings=LinkSettings(delay_s=0.04)) as shaper, connect(shaper) as client:
        times_s = [round_trip_s(client) for _ in range(5)]
        assert 0.08 <= min(times_s) < 0.09
        shaper.set_settings(delay_s=0.0)
        assert min(round_trip_s(client) for _ in range(5)) < 0.01


def test_a_full_queue_holds_the_sender_up() -> None:
    settings = LinkSettings(queue_bytes=50_000)
    with linked(swallow, Trace.constant(100e3), settings=settings) as shaper, connect(shaper) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16_384)
        client.setblocking(False)
        sent, block = 0, bytes(10_000)
        until(lambda: shaper.stats().connections == 1)
        quiet_s = time.monotonic() + 0.3
        while time.monotonic() < quiet_s:
            try:
                sent += client.send(block)
                quiet_s = time.monotonic() + 0.3
            except BlockingIOError:
                threading.Event().wait(0.01)
            # The queue, and small kernel buffers on either side; not megabytes.
            assert sent < 50_000 + 300_000
        stats = shaper.stats()
        assert 40_000 < stats.up.peak_queue_bytes <= 50_000


def test_a_pause_stops_everything_and_resuming_goes_on() -> None:
    with linked(echo) as shaper, connect(shaper) as client:
        round_trip_s(client)
        shaper.pause()
        assert shaper.stats().paused and shaper.stats().up.rate_bps == 0
        client.sendall(b"y")
        client.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.recv(1)
        shaper.resume()
        client.settimeout(10)
        assert client.recv(1) == b"y"


def test_a_cut_resets_connections_until_it_ends() -> None:
    with linked(echo) as shaper, connect(shaper) as client:
        round_trip_s(client)
        shaper.cut(float("inf"))
        assert is_gone(client)
        assert is_refused(shaper)
        assert shaper.stats().cut and shaper.stats().refused == 1
        shaper.resume()
        with connect(shaper) as again:
            round_trip_s(again)


def test_retimed_while_it_runs() -> None:
    with linked(swallow, Trace.constant(100e3)) as shaper, connect(shaper) as client:
        client.sendall(bytes(40_000))  # would take 3.2 s
        client.shutdown(socket.SHUT_WR)
        began = time.monotonic()
        shaper.set_rate(50e6, "up")
        read_all(client)
        assert time.monotonic() - began < 1.0
        shaper.set_trace(Trace(np.array([0.0, 5.0]), np.array([1e6, 3e6]), 10.0), "up", at_s=6.0)
        stats = shaper.stats()
        assert stats.up.rate_bps == 3e6 and stats.down.rate_bps == 1e9
        shaper.set_epoch(time.monotonic() - 2.0)
        assert shaper.stats().up.rate_bps == 1e6 and shaper.stats().link_time_s == pytest.approx(2.0, abs=0.5)


def test_a_receiver_that_does_not_read_stops_only_itself() -> None:
    release = threading.Event()
    first = threading.Event()

    def serve(connection: socket.socket) -> None:
        if not first.is_set():
            first.set()
            release.wait(15)
        echo(connection)

    settings = LinkSettings(queue_bytes=100_000)
    with linked(serve, Trace.constant(200e6), Trace.constant(200e6), settings) as shaper:
        stuck, other = connect(shaper), connect(shaper)
        until(first.is_set)
        stuck.setblocking(False)
        sent, quiet_s = 0, time.monotonic() + 0.3
        while time.monotonic() < quiet_s:
            try:
                sent += stuck.send(bytes(65536))
                quiet_s = time.monotonic() + 0.3
            except BlockingIOError:
                threading.Event().wait(0.01)
        assert round_trip_s(other) < 1.0
        release.set()
        stuck.close()
        other.close()


def test_a_target_that_is_away_resets_the_client() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        target = Address("127.0.0.1", taken.getsockname()[1])
    with Shaper(ShaperConfig(FAST, FAST, target)) as shaper:
        assert is_refused(shaper)
        until(lambda: shaper.stats().refused == 1)


def test_misuse_is_told() -> None:
    with Shaper(ShaperConfig(FAST, FAST, Address("127.0.0.1", 9))) as shaper:
        with pytest.raises(TraceError, match="started already"):
            shaper.start()
        with pytest.raises(TraceError, match="cannot listen"):
            Shaper(ShaperConfig(FAST, FAST, shaper.address, shaper.address)).start()
        with pytest.raises(TraceError, match="is unknown; use one of queue_bytes"):
            shaper.set_settings(speed=1.0)
    with pytest.raises(TraceError, match="is not running"):
        shaper.stats()
    shaper.stop()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.0.0.1:80", Address("10.0.0.1", 80)),
        (":80", Address("127.0.0.1", 80)),
        ("tcp://localhost:0", Address("localhost", 0)),
        ("[::1]:9", Address("::1", 9)),
    ],
)
def test_addresses(text: str, expected: Address) -> None:
    assert Address.parse(text) == expected and Address.parse(str(expected)) == expected


@pytest.mark.parametrize("text", ["", "host", "host:99999", "udp://host:5", "a:b"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(TraceError, match="HOST:PORT"):
        Address.parse(text)


def test_commands() -> None:
    with Shaper(ShaperConfig(FAST, FAST, Address("127.0.0.1", 9))) as shaper:
        for line in ("pause", "resume", "cut", "cut 1s", "rate up 5Mbit", "trace down lte-driving", "delay 20ms"):
            assert execute(shaper, line)["ok"], line
        stats = execute(shaper, "stats")
        assert stats["ok"] and shaper.stats().up.rate_bps == 5e6
        for line, error in (
            ("", "is empty"),
            ("fly", "is unknown; use one of pause"),
            ("rate", "takes one value"),
            ("rate up fast", "is not a rate"),
            ("trace nothing", "is no file"),
            ("queue 10", "holds no packet"),
        ):
            answer = execute(shaper, line)
            assert not answer["ok"] and error in str(answer["error"])
        answers = io.StringIO()
        serve_commands(shaper, io.StringIO("pause\nstop\nresume\n"), answers)
        assert [json.loads(line)["ok"] for line in answers.getvalue().splitlines()] == [True, True]


def test_a_shaper_in_its_own_process() -> None:
    server = Server(echo)
    try:
        config = ShaperConfig(Trace.constant(10e6), FAST, server.address, settings=LinkSettings(delay_s=0.02))
        with ShaperProcess(config) as shaper:
            with connect(shaper) as client:
                assert min(round_trip_s(client) for _ in range(3)) >= 0.04
                shaper.set_rate(1e6, "up")
                shaper.set_trace(Trace.constant(3e6), "down")
                shaper.pause()
                stats = shaper.stats()
                assert stats["paused"] and stats["connections"] == 1 and shaper.pid > 0
                shaper.resume()
                assert shaper.stats()["down"]["rate_bps"] == 3e6
                with pytest.raises(TraceError, match="command 'fly'"):
                    shaper.command("fly")
            with pytest.raises(TraceError, match="cannot listen"):
                ShaperProcess(replace(config, listen=shaper.address)).start()
        with pytest.raises(TraceError, match="is not running"):
            shaper.stats()
    finally:
        server.close()
