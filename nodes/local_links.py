"""The addresses of a deployment on this machine, with a shaper in front of an inbox wherever a link has a trace."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pipeline.plan import Tier


@dataclass(frozen=True)
class ShapedLink:
    """One shaper process: a relay that listens, obeys a trace, and passes on."""

    name: str
    trace: str
    listen: str
    target: str

    def arguments(self, delay_s: float) -> list[str]:
        """`anabranch link ...`."""
        return [
            "link", "--trace", self.trace, "--delay", f"{delay_s * 1e3:g}ms",
            "--listen", self.listen, "--to", self.target, "--quiet",
        ]  # fmt: skip


class LocalLinks:
    """Fixed free ports for all inboxes and shapers, so that all processes can start at once.

    The way home has the links' traces too: results go through a shaper from the last tier to the device.
    """

    def __init__(self, names: Mapping[Tier, str], traces: Mapping[tuple[Tier, Tier], str]) -> None:
        self._names = names
        self._ports = {tier: free_port() for tier in names}
        self._shapers: dict[tuple[Tier, Tier], ShapedLink] = {}
        for (source, target), trace in traces.items():
            if source in names and target in names:
                self._shape(source, target, trace)
                if source is Tier.DEVICE:
                    self._shape(target, source, trace)

    def shapers(self) -> Iterator[ShapedLink]:
        """Every shaper that must run."""
        yield from self._shapers.values()

    def arguments(self, tier: Tier) -> list[str]:
        """Options of a node: where it listens, and the shapers through which it reaches its peers."""
        arguments = ["--listen", f"tcp://{self._address(tier)}"]
        for (source, target), link in self._shapers.items():
            if source is tier:
                arguments += ["--peer", f"{self._names[target]}=tcp://{link.listen}"]
        return arguments

    def _shape(self, source: Tier, target: Tier, trace: str) -> None:
        name = f"link-{source}-{target}"
        self._shapers[source, target] = ShapedLink(name, trace, f"127.0.0.1:{free_port()}", self._address(target))

    def _address(self, tier: Tier) -> str:
        return f"127.0.0.1:{self._ports[tier]}"


def free_port() -> int:
    """A port of this machine that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
