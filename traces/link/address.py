"""Addresses as people write them: `127.0.0.1:7000`, `:7000`, `tcp://[::1]:7000`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from traces.errors import TraceError, quoted

_ADDRESS = re.compile(r"(?:tcp://)?(?:\[(?P<v6>[0-9a-fA-F:.]+)\]|(?P<host>[^:/\[\]]*)):(?P<port>\d{1,5})")


@dataclass(frozen=True)
class Address:
    """A TCP endpoint."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """An address from text; a missing host is this machine (loopback).

        Raises:
            TraceError: no such form, or a port above 65535.
        """
        match = _ADDRESS.fullmatch(text.strip())
        if match is None or int(match["port"]) > 65535:
            raise TraceError(f"address {quoted(text)}", "is not HOST:PORT", "write it as 127.0.0.1:7000")
        return cls(match["v6"] or match["host"] or "127.0.0.1", int(match["port"]))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
