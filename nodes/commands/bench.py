"""`anabranch bench`."""

from __future__ import annotations

import importlib
import pkgutil
import sys
import typing
from collections.abc import Callable
from typing import Annotated

import msgspec
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
    settings: Annotated[list[str] | None, typer.Argument(help="Of the benchmark, each as NAME=VALUE.")] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object: rows and bars.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Rows, bars and notes as a page of Markdown.")] = False,
) -> None:
    """Run a benchmark: a table of figures, and the bars that they are held to. Exit code 1 where one falls short.

    Example: anabranch bench predicted plans=4 networks=resnet18 --json
    """
    if not name:
        typer.echo("\n".join(names()))
        return
    if name not in names():
        raise ConfigError(f"benchmark {name!r}", "unknown", f"known are {', '.join(names())}")
    measure: Callable[..., BenchReport] = importlib.import_module(f"nodes.bench.{name}").run
    report = measure(**_settings(measure, settings or []))
    if json:
        typer.echo(report.as_json())
    elif markdown:
        typer.echo(report.as_markdown())
    else:
        _show(report, Console())
    if not report.ok:
        sys.exit(1)


def _settings(measure: Callable[..., BenchReport], given: list[str]) -> dict[str, object]:
    """Arguments of a benchmark's `run`, of the types that it asks for."""
    wanted = {key: kind for key, kind in typing.get_type_hints(measure).items() if kind in (bool, int, float, str)}
    found: dict[str, object] = {}
    for each in given:
        name, _, value = each.partition("=")
        if name not in wanted:
            known = f"it has {', '.join(wanted)}" if wanted else "it has none"
            raise ConfigError(f"setting {each!r}", "not of this benchmark", known)
        try:
            found[name] = msgspec.convert(value, wanted[name], strict=False)
        except msgspec.ValidationError as error:
            raise ConfigError(f"setting {each!r}", str(error)) from error
    return found


def _show(report: BenchReport, console: Console) -> None:
    table = Table(title=f"bench {report.name}", title_justify="left")
    for column in report.columns:
        table.add_column(column)
    for row in report.rows:
        table.add_row(*("" if row.get(column) is None else str(row[column]) for column in report.columns))
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
