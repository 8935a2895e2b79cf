"""`anabranch bench`."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

import nodes.bench
from nodes.bench.report import BenchReport
from pipeline.errors import ConfigError

NOT_BENCHES = {"report"}


def names() -> list[str]:
    """Names of all benchmarks."""
    found = (module.name for module in pkgutil.iter_modules(nodes.bench.__path__))
    return sorted(name for name in found if name not in NOT_BENCHES and not name.startswith("_"))


def bench(
    name: Annotated[str, typer.Argument(help="Which one; without a name, all are listed.")] = "",
    json: Annotated[bool, typer.Option("--json", help="One JSON object: rows and bars.")] = False,
) -> None:
    """Run a benchmark: a table of figures, and the bars that they are held to. Exit code 1 where one falls short.

    Example: anabranch bench pipeline --json
    """
    if not name:
        typer.echo("\n".join(names()))
        return
    if name not in names():
        raise ConfigError(f"benchmark {name!r}", "unknown", f"known are {', '.join(names())}")
    report: BenchReport = importlib.import_module(f"nodes.bench.{name}").run()
    if json:
        typer.echo(report.as_json())
    else:
        _show(report, Console())
    if not report.ok:
        sys.exit(1)


def _show(report: BenchReport, console: Console) -> None:
    table = Table(title=f"bench {report.name}", title_justify="left")
    columns = list(dict.fromkeys(key for row in report.rows for key in row))
    for column in columns:
        table.add_column(column)
    for row in report.rows:
        table.add_row(*("" if row.get(column) is None else str(row[column]) for column in columns))
    console.print(table)
    bars = Table(title="bars", title_justify="left")
    for column in ("figure", "value", "bound", ""):
        bars.add_column(column)
    for bar in report.bars:
        sign = ">=" if bar.sense == "min" else "<="
        verdict = "[green]ok[/]" if bar.ok else "[red]falls short[/]"
        bars.add_row(bar.name, f"{bar.value:.4g}", f"{sign} {bar.bound:.4g}", verdict)
    if report.bars:
        console.print(bars)
    for note in report.notes:
        console.print(note, highlight=False)
