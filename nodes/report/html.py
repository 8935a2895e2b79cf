"""Reports as one HTML file each: pictures inside, nothing from the network."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from nodes.report.comparison import comparison_picture, comparison_rows, labels
from nodes.report.plots import png, run_picture
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
th { font-weight: 600; } .figures td:not(:first-child), .figures th:not(:first-child) { text-align: right; }
"""

_RUN_KEY = (
    "Grey: what a link could carry, where that is known; orange: what the scheduler took it for. Bands: which tier "
    "computed what share of the network, by its arithmetic, for the results that came, and how what crossed each link "
    "was packed, the first link lowest; blank where no result came, or nothing was sent. Dotted lines: switches."
)

_COMPARISON_KEY = (
    "All runs on one time axis. Grey: what the link could carry; where the runs had different links, a line for each. "
    "A run's lines end with its last result."
)


def write_report(record: RunRecord, folder: Path) -> Path:
    """Write `report.html` and `report.png` of one run.

    Raises:
        SinkError: they cannot be written.
    """
    picture = png(run_picture(record))
    body = [
        f"<h1>{escape(record.title)}</h1>",
        f'<p class="about">{_text(_about(record))}</p>',
        _image(picture, "everything over time"),
        f'<p class="about">{_RUN_KEY}</p>',
        "<h2>Totals</h2>",
        _table((), ([_text(name), escape(value)] for name, value in record_rows(record))),
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
        _image(picture, "the runs over time, and their totals"),
        f'<p class="about">{_COMPARISON_KEY}</p>',
        "<h2>Totals</h2>",
        _side_by_side(records),
    ]
    for record, label in zip(records, labels(records), strict=True):
        about = f'<p class="about">{_text(_about(record))}</p>'
        body += [f"<h2>{escape(label)}</h2>", about, _image(png(run_picture(record)), label)]
    body.append(f'<p class="about">{_RUN_KEY}</p>')
    return _write(folder, "compare", picture, title, body)


def _about(record: RunRecord) -> str:
    parts = [record.kind, f"policy {record.policy}", f"objective {record.objective}"]
    if len(record.streams) > 1:
        parts.append(f"{len(record.streams)} streams")
    return "; ".join([*parts, *(f"{name}: {value}" for name, value in record.about.items())])


def _side_by_side(records: Sequence[RunRecord]) -> str:
    """The totals as a table, the best of a column in bold where one way is the better one."""
    columns, rows = comparison_rows(records)
    best = {"frames/s": max, "p50 ms": min, "p95 ms": min}
    for number, choose in ((columns.index(name), best[name]) for name in best if name in columns):
        known = [float(row[number]) for row in rows if row[number]]
        for row in rows:
            if row[number] and float(row[number]) == choose(known):
                row[number] = f"<strong>{row[number]}</strong>"
    return _table(columns, ([escape(row[0]), *row[1:]] for row in rows), "figures")


def _switches(record: RunRecord) -> str:
    uses = record.plans[:MAX_SWITCHES]
    rows = (
        [
            f"{use.at_s:.2f}",
            escape(record.streams[use.stream]),
            f"#{use.plan.epoch}",
            _text(use.line(cuts=True)),
            escape(use.reason),
        ]
        for use in uses
    )
    return _table(("s", "stream", "epoch", "plan", "reason"), rows)


def _remarks(record: RunRecord) -> str:
    rows = ([f"{each.at_s:.2f}", escape(each.kind), escape(each.reason)] for each in record.remarks[:MAX_SWITCHES])
    return _table(("s", "decision", "reason"), rows) if record.remarks else "<p>None.</p>"


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "") -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>\n" for row in rows)
    return f'<table class="{kind}"><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table>'


def _text(words: str) -> str:
    """Words as HTML, with real arrows."""
    return escape(words.replace("->", "\u2192"))


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
