"""The cells of `bench never_lose`: a fair order, slices that make up the whole, and a run that goes on where it was."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from nodes.bench import never_lose
from nodes.bench.never_lose import OBJECTIVES, ROUNDS, Case, ordered, sliced
from pipeline.errors import ConfigError
from scheduler.foresight import ORACLE
from traces.trace import Trace

TRACES = [Trace.constant(rate).named(f"trace-{number}") for number, rate in enumerate((1e6, 2e6, 5e6, 1e7, 1e8))]


def names(cases: list[Case]) -> list[str]:
    return [case.name for case in cases]


def test_every_round_has_every_trace_under_every_objective_and_all_rounds_have_every_cell() -> None:
    cases = ordered(TRACES)
    size = len(TRACES) * len(OBJECTIVES)
    assert len(set(names(cases))) == len(cases) == size * ROUNDS
    for start in range(0, len(cases), size):
        found = {(case.trace.name, case.objective) for case in cases[start : start + size]}
        assert len(found) == size
    assert names(ordered(TRACES, 3)) == names(cases)[: 3 * size]


@pytest.mark.parametrize("count", [1, 2, 7, 12, 500])
def test_slices_make_up_the_whole(count: int) -> None:
    cases = ordered(TRACES, 2)
    slices = [sliced(cases, f"{number}/{count}") for number in range(1, count + 1)]
    assert [name for part in slices for name in names(part)] == names(cases)
    assert max(map(len, slices)) - min(map(len, slices)) <= 1


@pytest.mark.parametrize("part", ["", "3", "0/2", "3/2", "1/0", "a/b", "-1/2", "1/2/3"])
def test_a_slice_that_cannot_be_is_refused(part: str) -> None:
    with pytest.raises(ConfigError, match="slice"):
        sliced(ordered(TRACES, 1), part)


def test_a_run_goes_on_from_its_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def measure(case: Case, seconds: float) -> dict[str, float]:
        asked.append(case.name)
        rivals = dict.fromkeys((*never_lose.RIVALS, never_lose.BEST_FIXED), 1.0)
        return {**rivals, never_lose.OURS: 2.0 + len(asked), ORACLE: 100.0}

    monkeypatch.setattr(never_lose, "measure", measure)
    monkeypatch.setattr(never_lose, "load_traces", lambda folder: TRACES)
    kept = tmp_path / "cells.jsonl"
    results = str(kept)
    never_lose.run(part="1/2", results=results)
    half = list(asked)
    whole = never_lose.run(results=results)
    assert len(half) == len(set(asked)) - len(half) == len(TRACES)
    assert len(asked) == len(whole.rows) == len(kept.read_bytes().splitlines())
    assert never_lose.run(results=results).rows == whole.rows
    assert len(asked) == len(whole.rows)
    never_lose.run(seconds=5.0, part="1/10", results=results)  # another length is another figure
    assert len(asked) == len(whole.rows) + 1
    assert msgspec.json.decode(kept.read_bytes().splitlines()[-1])["seconds"] == 5.0


def test_cells_that_fall_short_are_told_apart_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours is 2; the rival has nothing at the second trace, and is better at the others, by a hair at the last."""
    theirs = dict(zip([trace.name for trace in TRACES], (1.0, 0.0, 4.0, 2.5, 2.0205), strict=True))

    def measure(case: Case, seconds: float) -> dict[str, float]:
        rivals = dict.fromkeys((*never_lose.RIVALS, never_lose.BEST_FIXED), 0.0)
        return {**rivals, "dyno": theirs[case.trace.name], never_lose.OURS: 2.0, ORACLE: 2.0}

    monkeypatch.setattr(never_lose, "measure", measure)
    monkeypatch.setattr(never_lose, "load_traces", lambda folder: TRACES)
    results = str(tmp_path / "cells.jsonl")
    whole, short = never_lose.run(results=results), never_lose.run(results=results, show="short")
    assert [row["trace"] for row in short.rows] == ["trace-2"] * 2 + ["trace-3"] * 2 + ["trace-4"] * 2
    assert [row["of best rival"] for row in short.rows] == [0.5, 0.5, 0.8, 0.8, 0.99, 0.99], "0.98985, rounded"
    assert (whole.bars, whole.notes) == (short.bars, short.notes)
    assert whole.bars[0].value == 0.5 and not whole.ok
    (dyno,) = [note for note in whole.notes if note.startswith("over dyno")]
    assert dyno.endswith("least 0.500; it has none in 2 cells")
    assert "over hpa: it has no figure" in whole.notes
    assert any("by goal: throughput 3 of 5, latency 3 of 5" in note for note in whole.notes)
    with pytest.raises(ConfigError, match="short"):
        never_lose.run(show="few")
