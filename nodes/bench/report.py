"""What a benchmark returns: rows for a table, and bars that hold it to the figures it was asked for."""

from __future__ import annotations

import sys
from typing import Literal

import msgspec

Cell = str | float | int | bool | None


def tell(text: str) -> None:
    """Say how far a benchmark is, on standard error."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


class Bar(msgspec.Struct, frozen=True):
    """One figure and the bound that it must keep."""

    name: str
    value: float
    bound: float
    sense: Literal["min", "max"]
    """`min`: the value must be at least the bound; `max`: at most."""

    @property
    def ok(self) -> bool:
        """Whether the value keeps the bound."""
        return self.value >= self.bound if self.sense == "min" else self.value <= self.bound


class BenchReport(msgspec.Struct, frozen=True):
    """All of a benchmark's figures."""

    name: str
    rows: list[dict[str, Cell]]
    bars: list[Bar] = []
    notes: list[str] = []

    @property
    def ok(self) -> bool:
        """Whether every bar holds."""
        return all(bar.ok for bar in self.bars)

    def as_json(self) -> bytes:
        """One object: `rows`, `bars` (with `ok`), `notes`."""
        bars = [{**msgspec.to_builtins(bar), "ok": bar.ok} for bar in self.bars]
        return msgspec.json.encode({"name": self.name, "rows": self.rows, "bars": bars, "notes": self.notes})
