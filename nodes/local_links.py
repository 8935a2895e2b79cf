"""The addresses of a deployment on this machine, with a shaper in front of an inbox wherever a link has a trace."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from nodes.run_record import LiveLink
from nodes.summary import write_json
from pipeline.plan import Tier
from traces.link import Address, LinkSettings, ShaperConfig, ShaperProcess
from traces.load import load_trace


class LocalLinks:
    """Fixed free ports for all inboxes, so that all processes can start at once, and the shapers between them.

    A trace gives a link's capacity in both directions: results go home through a shaper of the same trace.

    Raises:
        TraceError: a trace that cannot be read.
    """

    def __init__(
        self, names: Mapping[Tier, str], traces: Mapping[tuple[Tier, Tier], str], delay_s: float = 0.0
    ) -> None:
        self._names = names
        self._ports = {tier: free_port() for tier in names}
        self._settings = LinkSettings(delay_s=delay_s)
        self._traces: dict[tuple[Tier, Tier], str] = {}
        self._shapers: dict[tuple[Tier, Tier], ShaperProcess] = {}
        for (source, target), trace in traces.items():
            if source in names and target in names:
                self._add(source, target, trace)
                if source is Tier.DEVICE:
                    self._add(target, source, trace)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Run the shapers."""
        with contextlib.ExitStack() as stack:
            for shaper in self._shapers.values():
                stack.enter_context(shaper)
            yield

    def begin(self, run_dir: Path) -> None:
        """Start all traces at their beginning, now, and note it in the run folder."""
        now = time.monotonic()
        for shaper in self._shapers.values():
            shaper.set_epoch(now)
        write_json(
            run_dir / "links.json",
            [
                LiveLink(self._names[a], self._names[b], trace, now)
                for (a, b), trace in self._traces.items()
                if a.rank < b.rank
            ],
        )

    def arguments(self, tier: Tier) -> list[str]:
        """Options of a node: where it listens, and the shapers through which it reaches its peers."""
        arguments = ["--listen", f"tcp://127.0.0.1:{self._ports[tier]}"]
        for (source, target), shaper in self._shapers.items():
            if source is tier:
                arguments += ["--peer", f"{self._names[target]}=tcp://{shaper.address}"]
        return arguments

    def _add(self, source: Tier, target: Tier, spec: str) -> None:
        trace, to = load_trace(spec), Address.parse(f"127.0.0.1:{self._ports[target]}")
        self._traces[source, target] = spec
        self._shapers[source, target] = ShaperProcess(ShaperConfig(trace, trace, to, settings=self._settings))


def free_port() -> int:
    """A port of this machine that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
