"""Logs stay small, and a scheduler goes on without one that can grow no further."""

from __future__ import annotations

import logging
import resource
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from nodes.app import app
from nodes.quiet import LINES, WINDOW_S, FewLines, OwnLog
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


@given(limit=st.integers(50, 500), sizes=st.lists(st.integers(0, 120), min_size=1, max_size=60))
def test_the_log_of_a_child_is_begun_anew_where_it_is_full(limit: int, sizes: list[int]) -> None:
    lines = [f"{number} {'x' * size}" for number, size in enumerate(sizes)]
    with tempfile.TemporaryDirectory() as folder:
        own = Path(folder) / "edge-1.log"
        with own.open("a") as stream:
            handler = OwnLog(stream, str(own), limit)
            for line in lines:
                handler.emit(logging.LogRecord("x", logging.WARNING, "x.py", 1, line, None, None))
                assert own.stat().st_size <= limit
        earlier = Path(folder) / "earlier-edge-1.log"
        kept = (earlier.read_text() if earlier.exists() else "") + own.read_text()
        assert kept.splitlines() == lines[len(lines) - len(kept.splitlines()) :], "the newest lines, in order"
        assert len(kept) > min(limit, sum(map(len, lines))), "a whole file of them, where there were so many"
        assert sorted(path.name for path in Path(folder).iterdir()) in (["edge-1.log"], [earlier.name, "edge-1.log"])


def test_a_log_of_somebody_elses_is_left_alone(tmp_path: Path) -> None:
    with (tmp_path / "all.log").open("a") as stream:
        handler = OwnLog(stream, "", 10)
        for _ in range(10):
            handler.emit(logging.LogRecord("x", logging.WARNING, "x.py", 1, "a line", None, None))
    assert (tmp_path / "all.log").read_text() == "a line\n" * 10
