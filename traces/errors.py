"""The one error of this package.

`traces` imports no other part of the project, so it cannot use the project's error tree; its own
error has the same shape: "thing: condition", and where there is one, "; mend", on one line.
"""

from __future__ import annotations


class TraceError(ValueError):
    """A trace, a trace file, a link's settings or an address that cannot be used."""

    def __init__(self, thing: str, condition: str, mend: str = "", line: int | None = None) -> None:
        self.thing = thing
        self.condition = condition
        self.mend = mend
        self.line = line
        """Line of the broken file, counted from 1; None where the fault is in no one line."""
        where = thing if line is None else f"{thing}, line {line}"
        text = f"{where}: {condition}" + (f"; {mend}" if mend else "")
        super().__init__(" ".join(text.split()))


def quoted(text: str, limit: int = 40) -> str:
    """The text in quotes, cut short and on one line, to show in a message."""
    return repr(text if len(text) <= limit else text[:limit] + "…")
