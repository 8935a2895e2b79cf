"""What a benchmark returns: rows for a table, and bars that hold it to the figures it was asked for."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
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

    @property
    def columns(self) -> list[str]:
        """Names of all columns, in the order in which rows first have them."""
        return list(dict.fromkeys(key for row in self.rows for key in row))

    def as_markdown(self) -> str:
        """Notes, bars and rows as a page."""
        bars = [
            {
                "figure": bar.name,
                "value": f"{bar.value:.4g}",
                "bound": f"{'at least' if bar.sense == 'min' else 'at most'} {bar.bound:.4g}",
                "": "ok" if bar.ok else "falls short",
            }
            for bar in self.bars
        ]
        notes = "\n".join(f"- {note}" for note in self.notes)
        head = f"# bench {self.name}\n\n`anabranch bench {self.name} --markdown`"
        tables = _table(["figure", "value", "bound", ""], bars), _table(self.columns, self.rows)
        return "\n\n".join(part for part in (head, notes, *tables) if part)

    def as_json(self) -> bytes:
        """One object: `rows`, `bars` (with `ok`), `notes`."""
        bars = [{**msgspec.to_builtins(bar), "ok": bar.ok} for bar in self.bars]
        return msgspec.json.encode({"name": self.name, "rows": self.rows, "bars": bars, "notes": self.notes})


def _table(columns: Sequence[str], rows: Sequence[Mapping[str, Cell]]) -> str:
    if not rows:
        return ""
    cells = [["" if row.get(each) is None else str(row[each]).replace("|", "\\|") for each in columns] for row in rows]
    lines = [list(columns), ["---"] * len(columns), *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
