"""The shaper against the kernel's own token bucket, in network namespaces where they may be made."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from nodes.bench._relay import Receiver, sender
from tests.traces.waiting import until
from traces.errors import TraceError
from traces.lab import Lab, LabLink, why_not
from traces.link import Address, Shaper, ShaperConfig
from traces.trace import Trace

PAYLOAD_SHARE = 1448 / 1514
"""Of the bytes that the token bucket counts, those that a program sees: the rest are Ethernet, IP and TCP headers."""

SECONDS = 4
RECEIVE = """
import json, socket, sys, time
listener = socket.create_server(("", 7000))
open(sys.argv[1] + ".ready", "w").close()
connection, _ = listener.accept()
began, bins = time.monotonic(), [0] * 100
while data := connection.recv(1 << 20):
    bins[min(99, int(time.monotonic() - began))] += len(data)
json.dump(bins, open(sys.argv[1], "w"))
"""
SEND = """
import os, socket, sys, time
client = socket.create_connection((os.environ["LAB_B"], 7000), timeout=10)
ends = time.monotonic() + float(sys.argv[1])
while time.monotonic() < ends:
    client.sendall(bytes(16384))
"""


@pytest.fixture(scope="module")
def namespaces() -> None:
    """Skips where the machine lets nobody make network namespaces, and says why."""
    reason = why_not()
    if reason:
        pytest.skip(f"no network namespaces: {reason}")


def through_the_kernel(trace: Trace, folder: Path) -> list[int]:
    """Bytes of each second through a token bucket that follows the trace."""
    out = folder / "bins.json"
    with Lab([LabLink("a", "b", trace, trace)]) as lab:
        receiver = lab.run("b", [sys.executable, "-c", RECEIVE, str(out)])
        until((folder / "bins.json.ready").exists)
        client = lab.run("a", [sys.executable, "-c", SEND, str(SECONDS + 0.5)])
        assert client.wait(30) == 0 and receiver.wait(30) == 0
    return [int(count / PAYLOAD_SHARE) for count in json.loads(out.read_text())]


def through_the_shaper(trace: Trace) -> list[int]:
    """Bytes of each second through the shaper."""
    receiver = Receiver()
    with Shaper(ShaperConfig(trace, trace, Address("127.0.0.1", receiver.port))) as shaper:
        with sender(shaper.address.port):
            until(lambda: shaper.stats().link_time_s >= SECONDS)
        epoch_s = time.monotonic() - shaper.stats().link_time_s
    counts = receiver.per_second(epoch_s, SECONDS)
    receiver.close()
    return counts


@pytest.mark.usefixtures("namespaces")
def test_the_shaper_delivers_what_a_token_bucket_delivers(tmp_path: Path) -> None:
    rate_bps = 20e6
    trace = Trace.constant(rate_bps, 60.0)
    kernel, shaper = through_the_kernel(trace, tmp_path), through_the_shaper(trace)
    inside = slice(1, SECONDS)  # the first second has the opening of TCP's window
    assert np.median(kernel[inside]) * 8 == pytest.approx(rate_bps, rel=0.05)
    assert np.median(shaper[inside]) == pytest.approx(np.median(kernel[inside]), rel=0.05)


@pytest.mark.usefixtures("namespaces")
def test_a_lab_has_its_nodes_addresses_and_leaves_nothing_behind() -> None:
    slow = Trace.constant(5e6)
    links = [LabLink("device", "edge", slow, slow), LabLink("edge", "cloud", slow, slow)]
    with Lab(links) as lab:
        assert lab.nodes == ["device", "edge", "cloud"]
        assert lab.address("cloud") == "10.77.0.3"
        assert lab.run("edge", ["sh", "-c", 'test "$LAB_DEVICE" = 10.77.0.1']).wait(10) == 0
        with pytest.raises(TraceError, match="is on no link; the nodes are device, edge, cloud"):
            lab.run("moon", ["true"])
        sleeper = lab.run("device", ["sleep", "100"])
        prefix = lab.prefix
    assert sleeper.poll() is not None
    spaces = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    assert prefix not in spaces


@pytest.mark.usefixtures("namespaces")
def test_the_script_runs_commands_in_the_nodes() -> None:
    script = Path(__file__).resolve().parents[2] / "scripts" / "lab"
    command = [str(script), "--link", "device-edge=3g", "--run", "device=exit 7"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 7 and "edge: 10.77.0.2" in done.stderr
    wrong = subprocess.run([str(script), "--link", "device"], capture_output=True, text=True, timeout=60, check=False)
    assert wrong.returncode == 1 and "error: link 'device': is not FIRST-SECOND=TRACE" in wrong.stderr


def test_why_not_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("traces.lab.os.geteuid", lambda: 1000)
    assert why_not() == "network namespaces need root"
