"""Shares of nodes and links, and the probes of idle links."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.plan import Tier
from scheduler.estimate import MIN_MESSAGE_BYTES, LinkEstimator
from scheduler.probing import ProbeConfig, Prober
from scheduler.reports import Crossing, Figure, LinkReport, Report, StageReport
from scheduler.sharing import LEAST_SHARE, Demand, Demands, sent_bps, share, usage_of
from tests.scheduler.test_estimate import step
from tests.scheduler.toys import plan_of
from traces.trace import Trace

LINK = ("phone", "edge")


@given(st.lists(st.tuples(st.floats(0.1, 10.0), st.floats(0.0, 1.0)), max_size=8), st.floats(0.1, 10.0))
def test_a_share_is_at_least_fair_and_at_most_all(others: list[tuple[float, float]], weight: float) -> None:
    found = share(weight, sum(used for _, used in others), [each for each, _ in others])
    assert LEAST_SHARE <= found <= 1.0
    assert found >= weight / (weight + sum(each for each, _ in others)) - 1e-12


def test_shares_follow_weights_and_what_others_leave() -> None:
    busy, idle = Demand(3.0, {"edge": 1.0}, {LINK: 8e6}), Demand(1.0, {"edge": 0.2}, {})
    both = Demands({"busy": busy, "idle": idle})
    assert Demands({"busy": busy}).node_share("mine", 1.0, "edge") == pytest.approx(0.25)
    assert Demands({"idle": idle}).node_share("mine", 1.0, "edge") == pytest.approx(0.8)
    assert both.node_share("idle", 1.0, "edge") == pytest.approx(0.25), "what a stream uses itself is left for it"
    assert both.node_share("mine", 1.0, "other") == 1.0
    assert both.link_share("mine", 1.0, LINK, 10e6) == pytest.approx(0.25)
    assert both.link_share("mine", 1.0, LINK, 80e6) == pytest.approx(0.9)


def test_usage_counts_stages_that_move() -> None:
    def stage(stream: str, epoch: int) -> StageReport:
        return StageReport(
            stream, epoch, 100, Figure(10.0, 10.0, 10.0), Figure(0.03, 0.03, 0.03), packed_bytes=Figure(1e4, 1e4, 1e4)
        )

    report = Report("phone", Tier.DEVICE, "i", 1, 0.0, stages=(stage("cam", 1), stage("cam", 2), stage("cam2", 1)))
    assert usage_of(report, {("cam", 2)}) == {"cam": pytest.approx(0.3)}
    plan = plan_of("cam", "phone", (Tier.EDGE, "edge"), epoch=2)
    assert sent_bps(report, plan) == {LINK: pytest.approx(10.0 * 1e4 * 8.0)}


class Idle:
    """A link over which nothing goes but probes."""

    def __init__(self, trace: Trace, missed: bool = False) -> None:
        self.trace = trace
        self.missed = {LINK: math.inf} if missed else {}
        self.prober = Prober()
        self.estimator: LinkEstimator | None = None
        self.sent: list[tuple[float, int]] = []
        self.free_s = 0.0
        self.under_way: list[tuple[int, float, float]] = []

    def run(self, start_s: int, until_s: int) -> None:
        """A report and a heartbeat per second."""
        for second in range(start_s, until_s):
            now = float(second)
            self._report(now)
            for _, size in self.prober.due([LINK], lambda *_: self.estimator, now, self.missed):
                self.sent.append((now, size))
                begin = max(now + 0.01, self.free_s)
                self.free_s = begin + self.trace.time_to_send(size * 8.0, begin)
                self.under_way.append((size, begin, self.free_s))

    def _report(self, now: float) -> None:
        done = [each for each in self.under_way if each[2] <= now]
        self.under_way = [each for each in self.under_way if each[2] > now]
        crossings = tuple(Crossing(size, end - begin, now - end, 1, True) for size, begin, end in done)
        if self.estimator is None and (done or self.under_way):
            self.estimator = LinkEstimator()
        if self.estimator is not None:
            size, begin = self.under_way[0][:2] if self.under_way else (0, now)
            self.estimator.add(LinkReport("phone", crossings, None, size, max(0.0, now - begin)), now)


@pytest.mark.parametrize("bps", [5e6, 50e6, 500e6])
def test_probes_keep_to_their_budget(bps: float) -> None:
    idle = Idle(step(bps))
    idle.run(0, 120)
    first, *rest = idle.sent
    assert first[1] == ProbeConfig().first_bytes
    assert sum(size for _, size in rest) * 8.0 <= 0.011 * bps * 120.0
    assert len(rest) >= 60


@pytest.mark.parametrize(("low", "high"), [(1e6, 20e6), (20e6, 1e6), (1e6, 4e6), (2e3, 20e6), (100e3, 1e6)])
def test_an_idle_link_that_changed_is_known_within_five_seconds(low: float, high: float) -> None:
    for offset in range(4):
        idle = Idle(step(low, high, each_s=30.0 + offset / 4))
        idle.run(0, 36)
        assert idle.estimator is not None
        found = idle.estimator.goodput(35.0)
        assert found is not None
        assert found.value == pytest.approx(high, rel=0.2)


@pytest.mark.parametrize(("low", "high"), [(2e6, 20e6), (1e6, 20e6), (1e6, 4e6)])
def test_a_link_that_a_stream_would_use_is_soon_known_to_be_back(low: float, high: float) -> None:
    for offset in range(4):
        idle = Idle(step(low, high, each_s=8.0 + offset / 4), missed=True)
        idle.run(0, 12)
        assert idle.estimator is not None
        found = idle.estimator.goodput(11.0)
        assert found is not None
        assert found.value == pytest.approx(high, rel=0.2)


def test_what_is_spent_on_a_missed_link_was_saved_before() -> None:
    idle, bps, config = Idle(step(1e6), missed=True), 1e6, ProbeConfig()
    idle.run(0, 120)
    spent = sum(size for _, size in idle.sent[1:])
    assert spent <= config.budget * bps / 8.0 * (120.0 + config.saved_s) + 4 * MIN_MESSAGE_BYTES
    assert sum(at_s < 10.0 for at_s, _ in idle.sent) > sum(at_s >= 110.0 for at_s, _ in idle.sent)


def test_a_link_of_which_nothing_is_seen_is_tried_again_in_a_while() -> None:
    prober = Prober()
    sent = [now for now in range(60) if prober.due([LINK], lambda *_: None, float(now))]
    assert sent == [0, 10, 20, 30, 40, 50]
    assert prober.due([], lambda *_: None, 60.0) == []


def test_a_link_that_was_left_lately_is_looked_at_ever_less_often() -> None:
    estimator, prober = LinkEstimator(), Prober()
    for second in range(5):
        estimator.add(LinkReport("phone", (Crossing(50_000, 0.02, 0.0),), None, 0, 0.0), float(second))
    sent = []
    for tick in range(40):
        now = 4.25 + tick * 0.25
        if prober.due([LINK], lambda *_: estimator, now, {LINK: now - 4.0}, every=False):
            sent.append(now)
            estimator.add(LinkReport("phone", (Crossing(2048, 2048 * 8 / 1e6, 0.0, 1, True),), None, 0, 0.0), now + 0.1)
    assert sent[0] <= 4.75
    assert len([at for at in sent if at < 7.0]) > len([at for at in sent if 10.0 < at < 13.0])


def test_what_was_saved_on_a_fast_link_is_there_when_it_is_slow_and_forgotten_in_time() -> None:
    idle, config = Idle(step(20e6, 200e3, each_s=60.0), missed=True), ProbeConfig()
    idle.run(0, 180)
    spent = [sum(size for at_s, size in idle.sent if begin <= at_s < begin + 30.0) for begin in (60.0, 150.0)]
    assert spent[0] > 1.5 * spent[1]
    assert spent[1] <= 1.5 * config.budget * 200e3 / 8.0 * 30.0 + 4 * MIN_MESSAGE_BYTES


@given(st.lists(st.tuples(st.integers(1, 40), st.booleans()), min_size=1, max_size=12))
def test_a_link_that_frames_go_by_has_a_probe_only_where_none_has_come_for_long(frames: list[tuple[int, bool]]) -> None:
    """Not even behind an outage, when an idle link is looked at again and again."""
    estimator, prober, longest_s = LinkEstimator(), Prober(), ProbeConfig().max_interval_s
    now = 0.0
    for ticks, stuck in frames:
        estimator.add(LinkReport("phone", (Crossing(25_000, 3.0 if stuck else 0.1, 0.0),), None, 0, 0.0), now)
        waits_s = [0.25 * tick for tick in range(1, ticks + 1)]
        probed = [each for each in waits_s if prober.due([LINK], lambda *_: estimator, now + each, busy={LINK})]
        assert all(silent_s >= longest_s for silent_s in probed)
        assert probed or 0.25 * ticks < longest_s, "a link that came back is to be found"
        now += 0.25 * ticks
