"""What pictures of runs show over time."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from matplotlib.colors import to_rgba

from nodes.report.comparison import comparison_picture, comparison_rows
from nodes.report.plots import TIERS, run_picture
from nodes.report.series import Stretch, bins, end_s, medians, rates, shared_links, stretches
from pipeline.plan import Tier
from scheduler.simulate import simulate
from scheduler.simulate.record import Frames, LinkSeries, PlanUse, Quantiles, RunRecord, Totals
from tests.scheduler.simulate.nets import scenario, split_plan
from traces.trace import Trace

LINK = "device-1 -> edge-1"


def record(results: list[tuple[float, int]], links: list[LinkSeries] | None = None, end: float = 0.0) -> RunRecord:
    """A run of one stream whose results came at these times, by these epochs; epoch 1 is a split plan."""
    came = sorted(results)
    frames = Frames(
        [0] * len(came), list(range(len(came))), [at_s - 0.01 for at_s, _ in came], [at_s for at_s, _ in came],
        [epoch for _, epoch in came], [1000 * epoch for _, epoch in came],
    )  # fmt: skip
    totals = Totals(
        len(came), len(came), {}, {}, 0, 1.0, 1.0, Quantiles(0.01, 0.01, 0.01), 0.01, 500.0, {}, {}, 0, None
    )
    plans = [PlanUse(0.0, 0, split_plan(), "", (0.6, 0.4))]
    return RunRecord("t", "live", "joint", "m", "latency", end, ["camera"], totals, frames, plans, links or [], [])


def link(rates_bps: list[float], step_s: float = 0.5) -> LinkSeries:
    return LinkSeries(LINK, [number * step_s for number in range(len(rates_bps))], rates_bps, [], [])


def computed_by_device(found: list[Stretch], at_s: float) -> float | None:
    """Share of the network that the device computes of the result that a time belongs to; None where there is none."""
    for each in found:
        if each.begin_s < at_s <= each.end_s:
            stages = zip(each.use.plan.stages, each.use.shares, strict=True)
            return sum(share for stage, share in stages if stage.tier is Tier.DEVICE)
    return None


@given(st.lists(st.tuples(st.floats(0.02, 60.0), st.integers(0, 1)), min_size=1, max_size=60, unique_by=lambda x: x[0]))
def test_each_result_is_shown_as_what_computed_it(results: list[tuple[float, int]]) -> None:
    run = record(results)
    found = stretches(run)
    for at_s, epoch in results:
        assert computed_by_device(found, at_s) == pytest.approx(0.6 if epoch else 1.0)
    assert all(a.end_s <= b.begin_s for a, b in itertools.pairwise(found))
    assert all(each.begin_s < each.end_s for each in found)


def test_where_nothing_came_nothing_is_shown_as_computed() -> None:
    results = [(0.1 * number, 1) for number in range(1, 100)] + [(20.0, 0), (20.1, 1)]
    found = stretches(record(results))
    assert [computed_by_device(found, at_s) for at_s in (5.0, 15.0, 19.95, 20.05)] == [0.6, None, 1.0, 0.6]


def test_an_outage_that_the_device_computes_through_is_drawn_as_the_devices() -> None:
    """The plan that frames are sent by stays for a while; the device computes them."""
    trace = Trace(np.array([0.0, 6.0, 18.0]), np.array([20e6, 0.0, 20e6]), 100.0, "outage")
    run = simulate(scenario(trace, seconds=18.0))
    alone = [at_s for at_s, epoch in zip(run.frames.done_s, run.frames.epoch, strict=True) if epoch == 0]
    assert alone and min(alone) > 6.0
    found = stretches(run)
    before, during = computed_by_device(found, 4.0), computed_by_device(found, alone[len(alone) // 2])
    assert before is not None and before < 1.0
    assert during == 1.0
    panel = next(axes for axes in run_picture(run).axes if "computed by" in axes.get_ylabel())
    colour = to_rgba(TIERS[Tier.DEVICE])
    paths = [
        path.get_extents()
        for bands in panel.collections
        if np.array_equal(np.asarray(bands.get_facecolor()), [colour])
        for path in bands.get_paths()
    ]
    assert any(each.height == 1.0 and each.x0 < alone[len(alone) // 2] <= each.x1 for each in paths)


@given(st.lists(st.floats(0.01, 500.0), min_size=1, max_size=80))
@example([6.0])  # the run's end on an edge of a bin
def test_rates_count_every_result_and_end_with_the_run(times: list[float]) -> None:
    run = record([(at_s, 1) for at_s in times])
    edges = bins(1.7 * end_s(run))
    found = rates(run, edges)
    seen_s = np.clip(end_s(run) - edges[:-1], 0.0, edges[1] - edges[0])
    known = np.isfinite(found)
    assert known.tolist() == (seen_s > 0.0).tolist(), "no gap in the line"
    assert float((found * seen_s)[known].sum()) == pytest.approx(len(times))


def test_medians_are_of_the_results_of_a_bin() -> None:
    run = record([(0.2, 1), (0.4, 1), (0.6, 1), (2.5, 1)])
    found = medians(run, [1.0, 5.0, 2.0, 7.0], np.arange(5.0))
    assert found.tolist()[0] == 2.0 and found.tolist()[2] == 7.0
    assert [math.isnan(each) for each in found] == [False, True, False, True]


def test_runs_on_one_link_share_its_truth_over_the_whole_axis() -> None:
    """A short live run and a long simulated one, with steps of another length."""
    long = [1e6, 2e6, 2e6, 0.0, 0.0, 3e6, 3e6, 3e6, 1e6, 1e6]
    short = record([(1.0, 1), (2.4, 1)], [link([bps for bps in long[:2] for _ in range(2)], 0.5)])
    full = record([(1.0, 1), (9.8, 1)], [link(long, 1.0)])
    (runs,) = shared_links([short, full])
    assert runs == [(1, full.links[0])]
    figure = comparison_picture([short, full])
    over_time = [axes for axes in figure.axes if axes.get_ylabel()]
    assert len({axes.get_xlim() for axes in over_time}) == 1
    assert over_time[0].get_xlim() == pytest.approx((0.0, 1.01 * 9.8))
    (area,) = over_time[0].collections
    assert area.get_paths()[0].get_extents().x1 >= 9.8


def test_runs_on_other_links_have_a_line_each() -> None:
    one, other = (record([(1.0, 1), (9.8, 1)], [link(rates, 1.0)]) for rates in ([1e6, 4e6] * 5, [4e6, 1e6, 1e6] * 3))
    (runs,) = shared_links([one, other])
    assert [number for number, _ in runs] == [0, 1]


def test_a_link_that_never_changes_is_left_out_beside_one_that_does() -> None:
    steady = LinkSeries("edge-1 -> cloud-1", [0.0, 1.0], [5e6, 5e6], [], [])
    run = record([(1.0, 1)], [steady, link([1e6, 2e6])])
    assert [[each.name for _, each in runs] for runs in shared_links([run])] == [[LINK]]
    assert [[each.name for _, each in runs] for runs in shared_links([record([(1.0, 1)], [steady])])] == [
        ["edge-1 -> cloud-1"]
    ]
    assert shared_links([record([(1.0, 1)])]) == []


def test_a_table_has_no_column_of_which_nothing_is_known() -> None:
    columns, rows = comparison_rows([record([(1.0, 1)]), record([(1.0, 1), (2.0, 0)])])
    assert "top-1" not in columns and "frames/s" in columns
    assert {len(row) for row in rows} == {len(columns)}
