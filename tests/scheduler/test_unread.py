"""Connections of a port are found by descriptor, also where a descriptor was something else before."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from scheduler.unread import Identity, connections

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="descriptors are listed on Linux alone")


@pytest.fixture
def door() -> Iterator[tuple[ExitStack, socket.socket]]:
    """Something to close sockets with, and a listening one."""
    with ExitStack() as stack, socket.create_server(("127.0.0.1", 0)) as listening:
        yield stack, listening


def _accepted(stack: ExitStack, listening: socket.socket) -> tuple[socket.socket, socket.socket]:
    outer = stack.enter_context(socket.create_connection(listening.getsockname()))
    inner, _ = listening.accept()
    return outer, stack.enter_context(inner)


def test_connections_are_found_by_look_after_look(door: tuple[ExitStack, socket.socket]) -> None:
    stack, listening = door
    port, others = listening.getsockname()[1], dict[int, Identity]()
    assert connections(port, others) == {}
    outer, inner = _accepted(stack, listening)
    outer.sendall(bytes(100))
    inner.recv(100, socket.MSG_WAITALL)
    for _ in range(2):
        [(source, received)] = connections(port, others).items()
        assert source.descriptor == inner.fileno()
        assert source.port == outer.getsockname()[1]
        assert received == 100
        assert inner.fileno() not in others
        assert listening.fileno() in others


def test_a_descriptor_that_was_a_file_is_looked_at_anew(door: tuple[ExitStack, socket.socket]) -> None:
    stack, listening = door
    port, others = listening.getsockname()[1], dict[int, Identity]()
    outer, inner = _accepted(stack, listening)
    was = os.open(os.devnull, os.O_RDONLY)
    connections(port, others)
    assert was in others
    os.dup2(inner.fileno(), was)
    try:
        inner.close()
        [(source, _)] = connections(port, others).items()
        assert source == (was, *outer.getsockname())
        assert was not in others
    finally:
        os.close(was)
