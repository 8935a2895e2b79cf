"""The addresses of a deployment on this machine, with a shaper in front of an inbox wherever a link has a trace."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from nodes.local.ports import LOCALHOST, Ports
from nodes.replayed import LiveLink, write_links
from pipeline.plan import Tier
from scheduler.problem import DEVICE_CLOUD, DEVICE_EDGE, EDGE_CLOUD, HOPS, Hop
from traces.link import Address, LinkSettings, ShaperConfig, ShaperProcess
from traces.load import load_both_ways
from traces.trace import Trace


class LocalLinks:
    """Fixed ports for all inboxes, so that all processes can start at once, and the shapers between them.

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
        self._reserved = Ports()
        self._ports = {tier: self._reserved.reserve() for tier in names}
        self.shapers: dict[Hop, ShaperProcess] = {}
        self._both_ways: list[tuple[Trace, Trace]] = []
        """Of each shaper, in the same order: up and down."""
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
        """Run the shapers; the ports are kept as long."""
        with self._reserved, contextlib.ExitStack() as stack:
            for shaper in self.shapers.values():
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

    def begin(self, run_dir: Path, start_s: float) -> None:
        """Let the traces begin, and note it in the run folder; until then links have their opening rate.

        Args:
            run_dir: the run's folder.
            start_s: the traces' time 0, on the monotonic clock; not long ago.
        """
        for shaper, (up, down) in zip(self.shapers.values(), self._both_ways, strict=True):
            shaper.set_trace(up, "up")
            shaper.set_trace(down, "down")
            shaper.set_epoch(start_s)
        self.note(run_dir, start_s)

    def arguments(self, tier: Tier) -> list[str]:
        """Options of a node: where it listens, and the shapers through which it reaches its peers."""
        arguments = ["--listen", f"tcp://{LOCALHOST}:{self._ports[tier]}"]
        for (source, target), shaper in self.shapers.items():
            if source is tier:
                arguments += ["--peer", f"{self._names[target]}=tcp://{shaper.address}"]
        return arguments

    def _add(self, hop: Hop, spec: str) -> None:
        back, forth = load_both_ways(spec)
        settings = LinkSettings(delay_s=self._delay_s(hop))
        self._shape(hop, forth, back, self._inbox(hop[1]), settings)
        self._shape(hop[::-1], back, forth, self._inbox(hop[0]), settings)

    def _shape(self, hop: Hop, up: Trace, down: Trace, to: Address, settings: LinkSettings) -> None:
        opening = Trace.constant(up.opening_bps), Trace.constant(down.opening_bps)
        config = ShaperConfig(*opening, to, listen=Address(LOCALHOST, self._reserved.reserve()), settings=settings)
        self.shapers[hop] = ShaperProcess(config)
        self._both_ways.append((up, down))

    def _add_way_home(self, spec: str) -> None:
        """From the cloud to the device: over the link to the edge, and from there on as the edge's own results go."""
        back, forth = load_both_ways(spec)
        to = self.shapers[DEVICE_EDGE[::-1]].address
        settings = LinkSettings(delay_s=self._delay_s(EDGE_CLOUD))
        self._shape(DEVICE_CLOUD[::-1], back, forth, to, settings)

    def _delay_s(self, hop: Hop) -> float:
        return self._delays.get(hop, 0.0)

    def _inbox(self, tier: Tier) -> Address:
        return Address(LOCALHOST, self._ports[tier])
