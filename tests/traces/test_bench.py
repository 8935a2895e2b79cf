"""The shaper's benchmark runs and reports; its bars are for an idle machine, so they are not held here."""

from __future__ import annotations

from nodes.bench.shaper import measure, run
from traces.trace import Trace


def test_a_short_measurement() -> None:
    measured = measure(Trace.constant(20e6), seconds=2)
    assert len(measured.errors) == 2 and 0 < measured.cores < 1
    assert measured.rate_bps > 10e6


def test_the_report_has_a_row_for_each_link_and_one_for_no_shaper() -> None:
    report = run(seconds=1, rates_bps=(5e6,), library=("3g.down",), real=())
    assert [row["link"] for row in report.rows] == ["5 Mbit/s", "3g-1.down", "no shaper"]
    assert {bar.sense for bar in report.bars} == {"max"}
