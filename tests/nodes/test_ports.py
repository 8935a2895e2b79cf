"""Ports that are kept until their process listens: nobody else gets them, and that process does."""

from __future__ import annotations

import errno
import socket

import pytest
import zmq

from nodes.local.ports import LOCALHOST, Ports
from traces.link import Address, ShaperConfig, ShaperProcess
from traces.trace import Trace


def test_a_reserved_port_is_nobody_elses() -> None:
    with Ports() as ports:
        numbers = [ports.reserve() for _ in range(64)]
        assert len(set(numbers)) == len(numbers)
        for port in numbers:
            with socket.socket() as other, pytest.raises(OSError, match="in use") as refused:
                other.bind((LOCALHOST, port))
            assert refused.value.errno == errno.EADDRINUSE
    with socket.socket() as later:
        later.bind((LOCALHOST, numbers[0]))


def test_its_process_listens_on_it_again_and_again() -> None:
    with Ports() as ports:
        port = ports.reserve()
        for _ in range(2):  # a node that was killed and started anew: its context's end closes the listener
            with zmq.Context() as context, context.socket(zmq.PULL) as pull, context.socket(zmq.PUSH) as push:
                pull.bind(f"tcp://{LOCALHOST}:{port}")
                push.connect(f"tcp://{LOCALHOST}:{port}")
                push.send(b"a frame")
                assert pull.poll(20_000) and pull.recv() == b"a frame"


def test_a_shaper_listens_on_it() -> None:
    with Ports() as ports, socket.create_server((LOCALHOST, 0)) as target:
        fast = Trace.constant(1e8)
        listen = Address(LOCALHOST, ports.reserve())
        config = ShaperConfig(fast, fast, Address(LOCALHOST, target.getsockname()[1]), listen=listen)
        with ShaperProcess(config) as shaper, socket.create_connection((LOCALHOST, listen.port)) as client:
            assert shaper.address.port == listen.port
            client.sendall(b"a frame")
            target.settimeout(20)
            with target.accept()[0] as arrived:
                arrived.settimeout(20)
                assert arrived.recv(64) == b"a frame"
