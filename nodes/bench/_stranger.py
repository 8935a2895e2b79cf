"""A hostile peer: floods and forges on whatever socket it is pointed at, as fast as it can, over and over.

It knows what anybody can learn who hears the plans: the names, the model's fingerprint, the epoch, and the tensors of
the cuts. Run as a process: `python -m nodes.bench._stranger KNOWLEDGE ENDPOINT...`.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import msgspec
import zmq

from pipeline.frames import wire
from pipeline.frames.wire import (
    Buffer,
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
from scheduler.events import encode, topic
from scheduler.reports import Endpoints, Readiness, Report

PAUSE_S = 0.001
"""Between two tries to connect, where it was cut off."""

GREETING = b"\xff\0\0\0\0\0\0\0\x01\x7f\x03\x00NULL" + bytes(16 + 32)
READY = b"\x04\x1a\x05READY\x0bSocket-Type\0\0\0\x04PUSH"
"""A handshake of ZMTP 3.0 without keys (ZeroMQ RFC 23)."""

Parts = list[Buffer]


class Knowledge(msgspec.Struct, frozen=True):
    """What a stranger has found out."""

    stream: str
    model: str
    epoch: int
    edge: str
    worker: str
    tensors: tuple[tuple[str, tuple[int, ...], str, str], ...]
    """Name, shape, dtype and codec of what crosses."""
    outputs: tuple[tuple[str, tuple[int, ...], str, str], ...]
    """The same of a result."""


def forgeries(known: Knowledge, rng: random.Random) -> Iterator[Parts]:
    """Messages that are whole and plausible, on any data socket."""
    for hop in (0, 1, 2, 3):
        specs = known.outputs if hop in (2, 3) else known.tensors
        headers, buffers = _tensors(specs, rng)
        for frame, epoch, model in ((0, known.epoch, known.model), (rng.randrange(1 << 20), 1 << 40, known.model),
                                    (1, known.epoch, "0" * 64)):  # fmt: skip
            header = FrameHeader(
                known.stream, model, epoch, frame, rng.randrange(2), hop, time.monotonic_ns(), headers,
                (Hop(known.edge),), True,
            )  # fmt: skip
            yield _whole(header, buffers)
    for reason in ("codec", "unknown-epoch", "model-mismatch", "made up"):
        yield _whole(DropNotice(known.stream, known.epoch, rng.randrange(1 << 12), 0, known.edge, reason, "forged"))
    headers, buffers = _tensors(known.tensors, rng)
    yield _whole(Tile(known.edge, known.stream, known.epoch, rng.getrandbits(60), 0, 1, headers), buffers)
    yield _whole(TileDone(known.worker, rng.randrange(1 << 12), 0.0, 0.0, headers), buffers)
    yield _whole(TileReady(known.worker, rng.getrandbits(60), (0.0,)))
    yield _whole(Tile(known.edge, known.stream, known.epoch, rng.getrandbits(60), 1, 1, (), chain=rng.getrandbits(60)))
    tasks = (
        TileTask("no", "cut", (0, 1), (0, 1)),
        TileTask("input", "output", (0, 8), (0, 8), gives=((5, 2),), chained=True),
    )
    for task in tasks:
        yield _whole(TileOrder(known.edge, known.model, rng.getrandbits(60), "fp32", (task,)))
    name = f"made-up-{rng.getrandbits(32)}"
    yield _whole(Head(name, 1 << 40))
    yield _whole(Ping(name, 1))
    yield _whole(Pong(known.edge, 1, 1 << 61, 2))
    yield _whole(Probe(name), [bytes(1 << 16)])


def damaged(parts: Parts, rng: random.Random) -> Iterator[Parts]:
    """A message with every kind of damage."""
    head, rest = bytes(parts[0]), parts[1:]
    yield [head[: rng.randrange(len(head))], *rest]
    flipped = bytearray(head)
    flipped[rng.randrange(len(flipped))] ^= 1 << rng.randrange(8)
    yield [bytes(flipped), *rest]
    yield [bytes((wire.WIRE_VERSION + 1,)) + head[1:], *rest]
    yield [head, *rest, b"one too many"]
    yield [head]
    yield [head, *(bytes(buffer)[:-1] for buffer in rest)]
    if rest:
        noisy = bytearray(rest[0])
        for _ in range(3):
            noisy[rng.randrange(len(noisy))] ^= 0x40
        yield [head, bytes(noisy), *rest[1:]]


def nonsense(known: Knowledge, rng: random.Random) -> Iterator[Parts]:
    """Messages that are none, or claim the impossible."""
    yield [rng.randbytes(rng.randrange(200))]
    yield [b""] * 50
    yield [bytes((wire.WIRE_VERSION, 0xDF)) + struct.pack(">I", 0xFFFFFFFF)]  # a map of four billion entries
    yield [bytes((wire.WIRE_VERSION, 0xDB)) + struct.pack(">I", 0xFFFFFFFF) + b"x"]  # a string as long
    yield [bytes((wire.WIRE_VERSION,)) + b"\x91" * 60_000]  # nested as deep
    for shape in ((1 << 30,) * 3, (0, 1 << 30), ((1 << 31) - 1,) * 8):
        tensor = TensorHeader("x", "fp32", "float32", shape, 4)
        yield _whole(FrameHeader(known.stream, known.model, known.epoch, 1, 0, 1, 0, (tensor,)), [b"1234"])
    yield [rng.randbytes(wire.MAX_HEADER_BYTES + 1)]


def reports(known: Knowledge, rng: random.Random) -> Iterator[Parts]:
    """Reports that are none, or of nodes that are none."""
    name = f"made-up-{rng.getrandbits(40)}"
    report = Report(name, None, "x", 1, 0.0, known.model, endpoints=Endpoints(tiles="tcp://127.0.0.1:1"))
    yield [topic(name), encode(report)]
    yield [topic(name), encode(msgspec.structs.replace(report, version=99))]
    infinite = msgspec.msgpack.encode({**msgspec.to_builtins(report), "type": "report", "sent_s": float("inf")})
    yield [topic(name), infinite]
    ready = (Readiness(known.stream, ((1 << 62) - 1,)),)
    yield [topic(name), encode(msgspec.structs.replace(report, epochs=ready))]
    yield [topic(name), rng.randbytes(300)]
    yield [b"", b"\xdf\xff\xff\xff\xff"]


def everything(known: Knowledge, rng: random.Random) -> Iterator[Parts]:
    """One round of all there is."""
    forged = list(forgeries(known, rng))
    yield from forged
    yield from (parts for one in forged for parts in damaged(one, rng))
    yield from nonsense(known, rng)
    yield from reports(known, rng)
    yield from forged[::-1]  # replayed, and out of order


def flood(endpoint: str, known: Knowledge, stopped: Callable[[], bool], seed: int, publish: bool = False) -> int:
    """Send everything, again and again, until `stopped`; returns how many messages were taken by the socket."""
    rng, sent = random.Random(seed), 0
    with zmq.Context() as context, context.socket(zmq.PUB if publish else zmq.PUSH) as outbox:
        outbox.setsockopt(zmq.LINGER, 0)
        outbox.setsockopt(zmq.SNDTIMEO, 100)
        outbox.setsockopt(zmq.RECONNECT_IVL, 1)
        outbox.connect(endpoint)
        for parts in itertools.chain.from_iterable(everything(known, rng) for _ in itertools.count()):
            if stopped():
                return sent
            with contextlib.suppress(zmq.Again):
                outbox.send_multipart(parts)
                sent += 1
            if publish:
                time.sleep(0)  # a PUB socket never makes its sender wait: let its own thread send
    return sent


def knock(endpoint: str, stopped: Callable[[], bool], seed: int) -> None:
    """What is not ZeroMQ, breaks off in mid-handshake, or claims a frame of 2^62 bytes."""
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    rng = random.Random(seed)
    openings = (
        b"GET / HTTP/1.1\r\n\r\n", b"\0" * 100, GREETING[:20], GREETING + b"\x04\xff" * 20,
        GREETING + READY + b"\x02" + struct.pack(">Q", 1 << 62), rng.randbytes(500),
    )  # fmt: skip
    for opening in itertools.cycle(openings):
        if stopped():
            return
        with contextlib.suppress(OSError), socket.create_connection((host, int(port)), 1.0) as connection:
            connection.settimeout(0.05)
            connection.sendall(opening)
            connection.recv(4096)
        time.sleep(PAUSE_S)


@contextlib.contextmanager
def attack(endpoints: Mapping[str, str], known: Knowledge) -> Iterator[None]:
    """One flooding and one knocking stranger per socket, in a process of their own; `reports` is the scheduler's."""
    addresses = [f"PUB={endpoint}" if name == "reports" else endpoint for name, endpoint in endpoints.items()]
    arguments = [sys.executable, "-m", "nodes.bench._stranger", msgspec.json.encode(known).decode(), *addresses]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE) as process:
        try:
            yield
        finally:
            process.communicate()


def _whole(header: Header, buffers: Sequence[Buffer] = ()) -> Parts:
    return wire.encode(Message(header, buffers))


def _tensors(
    specs: Sequence[tuple[str, tuple[int, ...], str, str]], rng: random.Random
) -> tuple[tuple[TensorHeader, ...], list[bytes]]:
    buffers = [rng.randbytes(TensorSpec(name, shape, dtype).nbytes) for name, shape, dtype, _ in specs]
    headers = (
        TensorHeader(name, codec, dtype, shape, len(buffer))
        for (name, shape, dtype, codec), buffer in zip(specs, buffers, strict=True)
    )
    return tuple(headers), buffers


def main(arguments: Sequence[str]) -> None:
    """Flood all endpoints until standard input closes; endpoints that begin with `PUB=` take reports."""
    os.nice(19)
    known = msgspec.json.decode(arguments[0], type=Knowledge)
    ended = threading.Event()
    threads = []
    for seed, endpoint in enumerate(arguments[1:]):
        publish, address = endpoint.startswith("PUB="), endpoint.removeprefix("PUB=")
        threads.append(threading.Thread(target=flood, args=(address, known, ended.is_set, seed, publish)))
        threads.append(threading.Thread(target=knock, args=(address, ended.is_set, seed)))
    for thread in threads:
        thread.start()
    while os.read(0, 4096):
        continue
    ended.set()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main(sys.argv[1:])
