"""`anabranch compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from nodes.report.comparison import comparison_rows
from nodes.report.html import write_comparison
from nodes.report.record import load_run
from pipeline.errors import ConfigError


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs, live or simulated.")],
    out: Annotated[Path, typer.Option(help="Folder for compare.html and its picture.")] = Path("."),
    json: Annotated[bool, typer.Option("--json", help="Print the totals as JSON.")] = False,
) -> None:
    """Lay runs side by side, on one page.

    Example:

        anabranch compare runs/joint runs/dyno runs/device-only --out runs
    """
    if len(runs) < 2:
        raise ConfigError("compare", "one run", "name at least two")
    records = [load_run(folder) for folder in runs]
    path = write_comparison(records, out)
    if json:
        totals = {str(folder): record.totals for folder, record in zip(runs, records, strict=True)}
        typer.echo(msgspec.json.encode(totals).decode())
        return
    columns, rows = comparison_rows(records)
    table = Table(title=records[0].model, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", no_wrap=number > 0, overflow="fold")
    for row in rows:
        table.add_row(*row)
    console = Console()
    console.print(table)
    console.print(f"report: {path}", highlight=False)
