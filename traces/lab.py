"""A laboratory of network namespaces: one per node, joined by links that the kernel's token buckets shape.

For those with root, as a check on the shaper: the same topology as packets, with the kernel's own TCP. Each node is
a namespace with one address; each link is a pair of virtual Ethernet devices, and each end's token bucket (tc tbf)
is set anew whenever the trace's rate changes. Everything is gone when the lab ends.

    sudo scripts/lab --link device-edge=lte-driving --link edge-cloud=100Mbit,20Mbit \\
        --run cloud='anabranch cloud ...' --run edge='...' --run device='...'

In each node's environment, LAB_DEVICE, LAB_EDGE and so on are the nodes' addresses.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field

from traces.errors import TraceError
from traces.trace import Trace

UPDATE_S = 0.1
"""How often a bucket is set anew; a call of tc takes some 3 ms, so finer steps would cost more than they tell."""
DOWN_BPS = 8000.0
"""tc knows no rate of 0: an outage is one byte a millisecond."""
LATENCY = "100ms"
"""Length of the token bucket's queue: a modem's, as the shaper's own default."""
_ADDRESS = "10.77.0.{}"


@dataclass(frozen=True)
class LabLink:
    """Two nodes and the capacity of each direction."""

    first: str
    second: str
    forth: Trace
    """From the first to the second."""
    back: Trace

    @property
    def nodes(self) -> tuple[str, str]:
        """Both ends."""
        return self.first, self.second


def why_not() -> str:
    """Why there can be no lab here; empty where there can."""
    if not sys.platform.startswith("linux"):
        return "network namespaces need Linux"
    if os.geteuid() != 0:
        return "network namespaces need root"
    for tool in ("ip", "tc"):
        if shutil.which(tool) is None:
            return f"the command {tool} is missing (package iproute2)"
    probe = Lab([LabLink("a", "b", Trace.constant(1e6), Trace.constant(1e6))], prefix=f"anab-p{os.getpid()}")
    try:
        probe.build()
    except TraceError as error:
        return str(error)
    finally:
        probe.close()
    return ""


@dataclass
class Lab:
    """The namespaces, links and processes of one run. Use it as a context manager."""

    links: list[LabLink]
    prefix: str = field(default_factory=lambda: f"anab-{os.getpid()}")
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    """By node; those that `run` started."""
    _ended: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Lab:
        try:
            self.build()
        except TraceError:
            self.close()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def nodes(self) -> list[str]:
        """All nodes, in the order in which links name them."""
        return list(dict.fromkeys(node for link in self.links for node in link.nodes))

    def address(self, node: str) -> str:
        """A node's address, the same on all of its links."""
        return _ADDRESS.format(self.nodes.index(node) + 1)

    def build(self) -> None:
        """Makes namespaces and links, and starts the traces.

        Raises:
            TraceError: the kernel refuses (no rights, no token bucket).
        """
        for node in self.nodes:
            _tool("ip", "netns", "add", self._space(node))
            _tool("ip", "-n", self._space(node), "link", "set", "lo", "up")
            _tool("ip", "-n", self._space(node), "addr", "add", f"{self.address(node)}/32", "dev", "lo")
        for number, link in enumerate(self.links):
            self._join(number, link)
        self._thread = threading.Thread(target=self._follow, name="lab", daemon=True)
        self._thread.start()

    def run(self, node: str, command: list[str]) -> subprocess.Popen[bytes]:
        """Starts a command in a node's namespace, with the nodes' addresses in its environment.

        Raises:
            TraceError: no such node.
        """
        if node not in self.nodes:
            raise TraceError(f"node {node}", "is on no link", f"the nodes are {', '.join(self.nodes)}")
        addresses = {f"LAB_{name.upper().replace('-', '_')}": self.address(name) for name in self.nodes}
        inside = ["ip", "netns", "exec", self._space(node), *command]
        process = subprocess.Popen(inside, env={**os.environ, **addresses}, start_new_session=True)
        self.processes[node] = process
        return process

    def close(self) -> None:
        """Ends the processes and takes everything away."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join(5)
        for process in self.processes.values():
            _end(process)
        for node in self.nodes:
            subprocess.run(["ip", "netns", "del", self._space(node)], capture_output=True, check=False)

    def _join(self, number: int, link: LabLink) -> None:
        names = [f"l{number}{side}" for side in "ab"]
        spaces = [self._space(node) for node in link.nodes]
        peer = ["peer", "name", names[1], "netns", spaces[1]]
        _tool("ip", "-n", spaces[0], "link", "add", names[0], "type", "veth", *peer)
        for name, space, other, trace in zip(names, spaces, reversed(link.nodes), (link.forth, link.back), strict=True):
            # Whole segments of 64 KiB would each overdraw the bucket: let TCP cut them itself.
            _tool("ip", "-n", space, "link", "set", name, "gso_max_size", "1500", "up")
            _tool("ip", "-n", space, "route", "add", f"{self.address(other)}/32", "dev", name, "src", self._own(space))
            _tool("ip", "netns", "exec", space, "tc", "qdisc", "add", *_bucket(name, trace.rate_at(0.0)))

    def _own(self, space: str) -> str:
        return self.address(space.removeprefix(f"{self.prefix}-"))

    def _space(self, node: str) -> str:
        return f"{self.prefix}-{node}"

    def _follow(self) -> None:
        """Sets every bucket to the mean rate of the next step of its trace."""
        began_s, step = time.monotonic(), 0
        last: dict[tuple[int, int], float] = {}
        while not self._ended.wait(max(0.0, began_s + step * UPDATE_S - time.monotonic())):
            now_s = time.monotonic() - began_s
            for number, link in enumerate(self.links):
                for side, (node, trace) in enumerate(zip(link.nodes, (link.forth, link.back), strict=True)):
                    rate_bps = trace.bits_between(now_s, now_s + UPDATE_S) / UPDATE_S
                    if last.get((number, side)) != round(rate_bps):
                        last[number, side] = round(rate_bps)
                        change = ["qdisc", "change", *_bucket(f"l{number}{'ab'[side]}", rate_bps)]
                        command = ["ip", "netns", "exec", self._space(node), "tc", *change]
                        subprocess.run(command, capture_output=True, check=False)
            step = int((time.monotonic() - began_s) / UPDATE_S) + 1


def _bucket(device: str, rate_bps: float) -> list[str]:
    """tc's words for a token bucket: 2 ms of its rate deep, at least two packets."""
    rate_bps = max(rate_bps, DOWN_BPS)
    burst = max(3100, int(rate_bps * 0.002 / 8))
    return ["dev", device, "root", "tbf", "rate", f"{rate_bps:.0f}bit", "burst", str(burst), "latency", LATENCY]


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _tool(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = " ".join((done.stderr or done.stdout).split())
        raise TraceError(f"lab: {' '.join(command[:6])}...", reason or "failed", "run it as root, with iproute2")
