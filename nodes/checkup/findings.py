"""What a check has found."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import msgspec
from rich.table import Table
from rich.text import Text


class Status(StrEnum):
    """How a finding is to be taken."""

    OK = "ok"
    NOTE = "note"
    """It works, or could not be told; worth a look."""
    WRONG = "wrong"


COLOURS = {Status.OK: "green", Status.NOTE: "yellow", Status.WRONG: "red"}


class Finding(msgspec.Struct, frozen=True):
    """One line of the account."""

    about: str
    """A node's name, or `this machine`."""
    check: str
    status: Status
    text: str
    mend: str = ""
    figures: dict[str, float] = {}
    """What was measured, with the unit in the name."""


def is_well(findings: Sequence[Finding]) -> bool:
    """Whether nothing is wrong."""
    return not any(finding.status is Status.WRONG for finding in findings)


def as_table(findings: Sequence[Finding]) -> Table:
    """For people."""
    table = Table("about", "check", "", "found", "mend", title="anabranch doctor", title_justify="left")
    for one in findings:
        status = Text(one.status, style=COLOURS[one.status])
        table.add_row(Text(one.about), Text(one.check), status, Text(one.text), Text(one.mend))
    return table


def as_json(findings: Sequence[Finding]) -> bytes:
    """For programs: `ok`, and the findings."""
    return msgspec.json.encode({"ok": is_well(findings), "findings": list(findings)})
