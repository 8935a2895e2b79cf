"""The addresses of a deployment on this machine, with a shaper in front of an inbox wherever a link has a trace."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from nodes.replayed import LiveLink, write_links
from pipeline.plan import Tier
from scheduler.problem import DEVICE_CLOUD, DEVICE_EDGE, EDGE_CLOUD, HOPS, Hop
from traces.link import Address, LinkSettings, ShaperConfig, ShaperProcess
from traces.load import load_both_ways

LOCALHOST = "127.0.0.1"


class LocalLinks:
    """Fixed free ports for all inboxes, so that all processes can start at once, and the shapers between them.

    A trace shapes a link in both directions: downstream with its uplink, and back with its downlink, where it has both.
    Results of the cloud go home through the edge's links where the cloud has none to the device.

    Args:
        names: the node of each tier.
        traces: trace (file, library name or rate) of each shaped link.
        delays: one-way delay of each shaped link, seconds; 0 where absent.

    Raises:
        TraceError: a trace that cannot be read.
    """

    def __init__(
        self, names: Mapping[Tier, str], traces: Mapping[Hop, str], delays: Mapping[Hop, float] | None = None
    ) -> None:
        self._names = names
        self._ports = {tier: free_port() for tier in names}
        self._shapers: dict[Hop, ShaperProcess] = {}
        self._traces = {hop: traces[hop] for hop in HOPS if hop in traces and set(hop) <= set(names)}
        self._delays = dict(delays or {})
        for hop, spec in self._traces.items():
            self._add(hop, spec)
        if {DEVICE_EDGE, EDGE_CLOUD} <= set(self._traces) and DEVICE_CLOUD not in self._traces:
            self._add_way_home(self._traces[EDGE_CLOUD])

    @property
    def are_shaped(self) -> bool:
        """Whether any link has a trace; links without one are then left out."""
        return bool(self._traces)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Run the shapers."""
        with contextlib.ExitStack() as stack:
            for shaper in self._shapers.values():
                stack.enter_context(shaper)
            yield

    def note(self, run_dir: Path, start_s: float | None = None) -> Path:
        """Write `links.json` into the run's folder."""
        return write_links(
            run_dir,
            [
                LiveLink(self._names[a], self._names[b], trace, start_s, True, self._delay_s((a, b)))
                for (a, b), trace in self._traces.items()
            ],
        )

    def begin(self, run_dir: Path) -> None:
        """Start all traces at their beginning, now, and note it in the run folder."""
        now = time.monotonic()
        for shaper in self._shapers.values():
            shaper.set_epoch(now)
        self.note(run_dir, now)

    def arguments(self, tier: Tier) -> list[str]:
        """Options of a node: where it listens, and the shapers through which it reaches its peers."""
        arguments = ["--listen", f"tcp://{LOCALHOST}:{self._ports[tier]}"]
        for (source, target), shaper in self._shapers.items():
            if source is tier:
                arguments += ["--peer", f"{self._names[target]}=tcp://{shaper.address}"]
        return arguments

    def _add(self, hop: Hop, spec: str) -> None:
        back, forth = load_both_ways(spec)
        settings = LinkSettings(delay_s=self._delay_s(hop))
        for (source, target), way, other in ((hop, forth, back), (hop[::-1], back, forth)):
            config = ShaperConfig(way, other, self._inbox(target), listen=_free_address(), settings=settings)
            self._shapers[source, target] = ShaperProcess(config)

    def _add_way_home(self, spec: str) -> None:
        """From the cloud to the device: over the link to the edge, and from there on as the edge's own results go."""
        back, forth = load_both_ways(spec)
        to = self._shapers[DEVICE_EDGE[::-1]].address
        settings = LinkSettings(delay_s=self._delay_s(EDGE_CLOUD))
        config = ShaperConfig(back, forth, to, listen=_free_address(), settings=settings)
        self._shapers[DEVICE_CLOUD[::-1]] = ShaperProcess(config)

    def _delay_s(self, hop: Hop) -> float:
        return self._delays.get(hop, 0.0)

    def _inbox(self, tier: Tier) -> Address:
        return Address(LOCALHOST, self._ports[tier])


def free_port() -> int:
    """A port of this machine that is free now."""
    with socket.socket() as probe:
        probe.bind((LOCALHOST, 0))
        return int(probe.getsockname()[1])


def _free_address() -> Address:
    return Address(LOCALHOST, free_port())
