"""`links.json` of a run's folder: the links that there are in a replay, their traces, and when those began."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from nodes.summary import write_json
from pipeline import tablefile
from pipeline.errors import ConfigError
from scheduler.problem import Hop, LinkEstimate
from traces.load import load_both_ways
from traces.trace import Trace

FILE = "links.json"


class LiveLink(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A shaped link of a live run."""

    source: str
    target: str
    trace: str
    """As `traces.load.load_trace` reads it."""
    start_s: float | None = None
    """When the trace began, on the scheduler's monotonic clock; None before the first result."""
    up: bool = False
    """Whether the uplink of a trace of both directions is replayed."""
    delay_s: float = 0.0
    """One way."""

    def capacity(self) -> Trace:
        """What the link can carry over time."""
        return load_both_ways(self.trace)[1 if self.up else 0]


def read_links(path: Path) -> dict[tuple[str, str], LiveLink]:
    """The links of a file, by source and target.

    Raises:
        ConfigError: it cannot be read.
    """
    found = tablefile.decode(path, list[LiveLink], "links", "name links.json of a replay")
    return {(link.source, link.target): link for link in found}


def write_links(folder: Path, links: list[LiveLink]) -> Path:
    """Write `links.json` into a run's folder.

    Raises:
        SinkError: it cannot be written.
    """
    write_json(folder / FILE, links)
    return folder / FILE


class TrueRates:
    """The rates that replayed links will have; until the traces begin, those of their beginning.

    Args:
        path: `links.json`; it is read again until it says when the traces began.
        hops: between which tiers each link is.
    """

    def __init__(self, path: Path, hops: Mapping[tuple[str, str], Hop]) -> None:
        self._path = path
        self._hops = hops
        self._links = read_links(path)
        self._traces = {name: link.capacity() for name, link in self._links.items()}
        self._begun = False

    def ahead(self, now: float, horizon_s: float) -> dict[Hop, LinkEstimate]:
        """The mean of each link from `now` on; see `scheduler.foresight.Foresee`."""
        self._look()
        found = {}
        for name, link in self._links.items():
            trace, begin_s = self._traces[name], link.start_s
            if begin_s is None:
                mean_bps = trace.opening_bps
            else:
                mean_bps = float(trace.bits_between(now - begin_s, now - begin_s + horizon_s)) / horizon_s
            found[self._hops[name]] = LinkEstimate(max(1.0, mean_bps), 2.0 * link.delay_s)
        return found

    def _look(self) -> None:
        if self._begun:
            return
        try:
            self._links = read_links(self._path)
        except ConfigError:
            return  # it is being written just now
        self._begun = all(link.start_s is not None for link in self._links.values())
