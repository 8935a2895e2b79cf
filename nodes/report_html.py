"""Reports as one HTML file each: pictures inside, nothing from the network."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from nodes.report_plots import comparison_picture, labels, png, run_picture
from nodes.simulation import record_rows
from pipeline.errors import SinkError
from scheduler.simulate.record import RunRecord

MAX_SWITCHES = 500
"""Rows of the table of switches; the record has all."""

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #222; max-width: 1180px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin: 0 0 .2rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
p.about { color: #666; margin: 0 0 1rem; }
img { max-width: 100%; height: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
td, th { padding: .25rem .9rem .25rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid #eee; }
th { font-weight: 600; } td.number { text-align: right; } td.best { font-weight: 700; }
code { font-size: .9em; background: #f5f5f5; padding: 0 .25em; border-radius: 3px; }
"""


def write_report(record: RunRecord, folder: Path) -> Path:
    """Write `report.html` and `report.png` of one run.

    Raises:
        SinkError: they cannot be written.
    """
    picture = png(run_picture(record))
    body = [
        f"<h1>{escape(record.title)}</h1>",
        f'<p class="about">{escape(_about(record))}</p>',
        _image(picture, "everything over time"),
        "<h2>Totals</h2>",
        _table((), ([escape(name), escape(value)] for name, value in record_rows(record))),
        "<h2>Plans and switches</h2>",
        _switches(record),
        "<h2>Decisions</h2>",
        _remarks(record),
    ]
    return _write(folder, "report", picture, record.title, body)


def write_comparison(records: Sequence[RunRecord], folder: Path) -> Path:
    """Write `compare.html` and `compare.png` of several runs.

    Raises:
        SinkError: they cannot be written.
    """
    picture = png(comparison_picture(records))
    title = f"{records[0].model}: {len(records)} runs side by side"
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="about">{escape(_about(records[0]))}</p>',
        _image(picture, "the runs over time, and their totals"),
        "<h2>Totals</h2>",
        _side_by_side(records),
    ]
    for record, label in zip(records, labels(records), strict=True):
        body += [f"<h2>{escape(label)}</h2>", _image(png(run_picture(record)), label)]
    return _write(folder, "compare", picture, title, body)


def comparison_rows(records: Sequence[RunRecord]) -> tuple[list[str], list[list[str]]]:
    """The totals of several runs: column names, and a row per run."""
    columns = ["policy", "frames/s", "p50 ms", "p95 ms", "kB/frame", "drop", "top-1", "switches"]
    rows = []
    for record, label in zip(records, labels(records), strict=True):
        totals = record.totals
        latency = totals.latency_s
        rows.append(
            [
                label,
                f"{totals.fps:.2f}",
                "" if latency is None else f"{latency.p50 * 1e3:.0f}",
                "" if latency is None else f"{latency.p95 * 1e3:.0f}",
                f"{totals.bytes_per_frame / 1e3:.1f}",
                "" if totals.drop is None else f"{totals.drop:.2%}",
                "" if totals.accuracy is None else f"{totals.accuracy:.1%}",
                str(totals.switches),
            ]
        )
    return columns, rows


def _about(record: RunRecord) -> str:
    parts = [record.kind, f"policy {record.policy}", f"objective {record.objective}"]
    if len(record.streams) > 1:
        parts.append(f"{len(record.streams)} streams")
    return "; ".join([*parts, *(f"{name}: {value}" for name, value in record.about.items())])


def _side_by_side(records: Sequence[RunRecord]) -> str:
    columns, rows = comparison_rows(records)
    best = {1: max, 2: min, 3: min}
    for column, choose in best.items():
        known = [float(row[column]) for row in rows if row[column]]
        if known:
            for row in rows:
                if row[column] and float(row[column]) == choose(known):
                    row[column] = f"<strong>{row[column]}</strong>"
    return _table(columns, ([escape(row[0]), *row[1:]] for row in rows))


def _switches(record: RunRecord) -> str:
    uses = record.plans[:MAX_SWITCHES]
    rows = (
        [
            f"{use.at_s:.2f}",
            escape(record.streams[use.stream]),
            f"#{use.plan.epoch}",
            escape(use.line(cuts=True)),
            escape(use.reason),
        ]
        for use in uses
    )
    return _table(("s", "stream", "epoch", "plan", "reason"), rows)


def _remarks(record: RunRecord) -> str:
    rows = ([f"{each.at_s:.2f}", escape(each.kind), escape(each.reason)] for each in record.remarks[:MAX_SWITCHES])
    return _table(("s", "decision", "reason"), rows) if record.remarks else "<p>None.</p>"


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>\n" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table>"


def _image(picture: bytes, text: str) -> str:
    data = base64.b64encode(picture).decode()
    return f'<img alt="{escape(text)}" src="data:image/png;base64,{data}">'


def _write(folder: Path, stem: str, picture: bytes, title: str, body: Sequence[str]) -> Path:
    page = "\n".join(
        [
            "<!doctype html>",
            f'<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>',
            f"<style>{_STYLE}</style></head><body>",
            *body,
            "</body></html>",
        ]
    )
    path = folder / f"{stem}.html"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{stem}.png").write_bytes(picture)
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise SinkError(f"report {path}", error.strerror or "cannot be written", "choose another folder") from error
    return path
