"""Logs stay small, and a scheduler goes on without one that can grow no further."""

from __future__ import annotations

import logging
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from nodes.app import app
from nodes.quiet import LINES, WINDOW_S, FewLines
from scheduler.events import Tick
from scheduler.service import EventLog

LIMIT_BYTES = 4096


@pytest.fixture
def small_files() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT_BYTES, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("small_files")
def test_a_full_disk_ends_the_event_log_alone(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl", b"{}\n")
    for second in range(1000):
        log.write(float(second), Tick(), [])
    log.close()
    assert (tmp_path / "events.jsonl").stat().st_size <= LIMIT_BYTES


def test_a_log_gets_few_lines_from_one_place_and_hears_of_the_rest() -> None:
    few = FewLines()

    def record(at_s: float, line: int = 1) -> logging.LogRecord:
        made = logging.LogRecord("x", logging.WARNING, "x.py", line, "peer %s", ("a",), None)
        made.created = at_s
        return made

    assert sum(few.filter(record(100.0)) for _ in range(10 * LINES)) == LINES
    assert few.filter(record(100.0, line=2)), "another place has lines of its own"
    late = record(100.0 + WINDOW_S)
    assert few.filter(late)
    assert late.getMessage() == f"peer a ({9 * LINES} more like this in between)"
    assert few.filter(record(5.0)), "a clock that was put back does not silence it"


def test_a_command_bounds_its_own_log_alone() -> None:
    """Whoever runs a command inside a process of his own keeps all lines of the handlers that he has set up."""
    before = {handler: list(handler.filters) for handler in logging.getLogger().handlers}
    assert before
    assert CliRunner().invoke(app, ["run", "--help"]).exit_code == 0
    assert {handler: handler.filters for handler in logging.getLogger().handlers} == before
