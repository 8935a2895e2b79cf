"""When a better plan is worth a switch. Pure: no clock, no planner.

A switch loses no frame here, but it warms segments on every node and, on a noisy link, it is soon regretted. So a
plan has to be better by a margin, and to stay better for a moment; each recent switch raises the margin, so that
a link that is noisy but stationary comes to rest. What cannot wait does not: a bound that is broken, a node that
is gone.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from scheduler.objective import Goal, Objective
from scheduler.problem import Cost
from scheduler.swings import Swing
from scheduler.tracker import MEMORY_S


@dataclass(frozen=True)
class PolicyConfig:
    """The constants of the policy; docs/live-loop.md has their reasons."""

    margin: float = 0.10
    """A plan has to be better by this share."""
    noise_margin: float = 2.5
    """And by this many standard deviations of what is only the estimates' sampling noise."""
    dwell_s: float = 3.0
    """No plan is left earlier than this for a gain below `large_gain`."""
    confirm_s: float = 2.0
    """A gain below `large_gain` must have been seen for this long without a break."""
    pays_s: float = 2.5
    """A gain of `margin` pays for its switch in this time: 0.25 s of results, four times what a switch costs where
    550 come a second (simulated). One that has lasted for longer is likely to last as long again: it may be the
    smaller for it."""
    large_gain: float = 1.25
    """From this ratio on, from twice the noise margin on, and from what the links may become in the next two seconds
    (one deviation), a change is no noise: neither dwell nor confirmation is asked for. It pays for what a switch costs,
    0.07 s of results, in 0.3 s."""
    step: float = 0.10
    """Added to the margin for every switch for a gain below `large_gain` within `memory_s`."""
    memory_s: float = 300.0
    forced_memory_s: float = 60.0
    """A second switch that was forced within this time doubles the dwell time, and so does each further one: what let a
    plan down once may be over soon, what did so again is not."""
    max_dwell_s: float = 30.0


NEAR = 0.02
"""Plans within this share of each other in a goal are alike in it, and the next goal decides."""

MAX_GAIN = 100.0
"""A gain above this counts as this in a mean."""


@dataclass(frozen=True)
class Gain:
    """How much better a candidate is, in the first goal in which the two plans differ."""

    ratio: float
    """Cost of the current plan over that of the candidate; above 1 is better."""
    goal: Goal


class Doubt(NamedTuple):
    """How unsure a link's estimate is, or a gain that hangs on it: log deviations."""

    noise: float = 0.0
    """What more samples of the same level would take away."""
    whole: float = 0.0
    """With what the link may become over the next two seconds (`scheduler.tracker.HORIZON_S`)."""


CERTAIN = Doubt()


@dataclass(frozen=True)
class Offer:
    """A candidate beside the current plan, under the same estimates and at the same quantile."""

    gain: Gain
    current_broken: str = ""
    """The bound that the current plan breaks, or empty."""
    candidate_broken: str = ""
    doubt: Doubt = CERTAIN
    """See `gain_doubt`."""


@dataclass(frozen=True)
class Verdict:
    """What the policy makes of an offer."""

    switch: bool
    reason: str
    threshold: float
    """The gain that was asked for."""


class SwitchPolicy:
    """The policy of one stream."""

    def __init__(self, config: PolicyConfig | None = None) -> None:
        self.config = config or PolicyConfig()
        self._small: deque[float] = deque(maxlen=32)
        self._forced: deque[float] = deque(maxlen=32)
        self._latest_s = -math.inf
        self._better_since_s: float | None = None
        """Since when the gain has been what is asked for."""
        self._above, self._near = _Lasting(), _Lasting()
        """Gains above the margin, and above `NEAR`, without a break."""

    def judge(self, offer: Offer, now: float) -> Verdict:
        """Whether to switch to the candidate."""
        noise = self.config.noise_margin * offer.doubt.noise
        threshold = 1.0 + max(self.config.margin, noise) + self._steps(now)
        large = max(self.config.large_gain, threshold, 1.0 + 2.0 * noise, math.exp(offer.doubt.whole))
        if offer.current_broken and not offer.candidate_broken:
            return Verdict(True, f"{offer.current_broken} is broken", 0.0)
        if offer.candidate_broken and not offer.current_broken:
            return self._keep(f"{offer.candidate_broken} would be broken", threshold)
        gain, goal = offer.gain.ratio, offer.gain.goal
        if gain < 1.0 + NEAR + self._steps(now):
            return self._keep(f"{goal} gain {gain:.2f} is below {threshold:.2f}", threshold)
        since = self._since(offer, threshold, now)
        if since is None:
            return Verdict(False, f"{goal} gain {gain:.2f} is below {threshold:.2f}", threshold)
        wait_s = self._wait_s(now, since, gain >= large)
        if wait_s > 0.0:
            return Verdict(False, f"{goal} gain {gain:.2f} has to last for {wait_s:.1f} s more", threshold)
        return Verdict(True, f"{goal} gain {gain:.2f}", threshold)

    def kept(self) -> None:
        """No better plan is on offer: a gain that shows again has to last anew."""
        self._better_since_s = None
        self._above.end()
        self._near.end()

    def switched(self, now: float, ratio: float = math.inf, *, forced: bool = False) -> None:
        """A switch was decided.

        Args:
            now: when.
            ratio: the gain that was hoped for.
            forced: whether a broken bound or a lost node forced it: the way back then takes the dwell time at least.
        """
        self._latest_s = now
        if forced:
            self._forced.append(now)
        elif ratio < self.config.large_gain:
            self._small.append(now)
        self.kept()

    def _keep(self, reason: str, threshold: float) -> Verdict:
        self.kept()
        return Verdict(False, reason, threshold)

    def _steps(self, now: float) -> float:
        return self.config.step * sum(1 for at in self._small if now - at < self.config.memory_s)

    def _since(self, offer: Offer, threshold: float, now: float) -> float | None:
        """Since when the candidate is better, by each gain or by their mean; None where it is not."""
        gain, noise = offer.gain.ratio, offer.doubt.noise
        margin, steps = self.config.margin, self._steps(now)
        if offer.gain.goal is Goal.HEADROOM:
            self._near.end()  # it pays once the link is faster, and not in time
        else:
            self._near.add(gain, now)
        if gain < 1.0 + margin + steps:
            self._above.end()
        else:
            self._above.add(gain, now)
        if gain < threshold:
            self._better_since_s = None
        elif self._better_since_s is None:
            self._better_since_s = now
        if self._above.mean >= 1.0 + max(margin, self._lasting_noise(noise, self._above.lasted_s(now))) + steps:
            return self._above.since_s
        lasted_s = self._near.lasted_s(now)
        if lasted_s > self.config.pays_s:
            paid = max(NEAR, margin * self.config.pays_s / lasted_s)
            if self._near.mean >= 1.0 + max(paid, self._lasting_noise(noise, lasted_s)) + steps:
                return self._near.since_s
        return self._better_since_s

    def _lasting_noise(self, noise: float, lasted_s: float) -> float:
        """What is asked for of a mean of gains over a time.

        The estimates' noise is another one after some four of their memories: the mean over n times as long is
        1 / sqrt(n) as noisy.
        """
        return self.config.noise_margin * noise / math.sqrt(1.0 + lasted_s / (4.0 * MEMORY_S))

    def _wait_s(self, now: float, since: float, large: bool) -> float:
        forced = sum(1 for at in self._forced if now - at < self.config.forced_memory_s)
        if large and not forced:
            return 0.0
        dwell_s = min(self.config.max_dwell_s, self.config.dwell_s * 2.0 ** max(0, forced - 1))
        confirmed = 0.0 if large else since + self.config.confirm_s - now
        return max(self._latest_s + dwell_s - now, confirmed)


_COST_OF: dict[Goal, Callable[[Cost, float], float]] = {
    Goal.THROUGHPUT: lambda cost, fps: max(cost.period_s, 1.0 / fps if fps > 0 else 0.0),
    Goal.HEADROOM: lambda cost, fps: max(cost.headroom_s, 1.0 / fps if fps > 0 else 0.0),
    Goal.LATENCY: lambda cost, fps: cost.answer_s,
    Goal.BYTES: lambda cost, fps: cost.bytes,
    Goal.CLOUD: lambda cost, fps: cost.cloud_busy_s,
    Goal.ENERGY: lambda cost, fps: math.inf if cost.energy_j is None else cost.energy_j,
}


def gain(objective: Objective, current: Cost, candidate: Cost, fps: float = 0.0) -> Gain:
    """Compare two costs by the objective's order of priority.

    Args:
        objective: the priorities.
        current: of the plan that runs.
        candidate: of the plan that might.
        fps: frame rate of the source, above which no throughput is gained; 0 where there is no limit.
    """
    for level in objective.levels:
        of = _COST_OF[level.goal]
        old, new = of(current, fps), of(candidate, fps)
        if old == new:
            continue
        ratio = math.inf if new <= 0.0 else old / new
        if not 1.0 / (1.0 + max(NEAR, level.tolerance)) <= ratio <= 1.0 + max(NEAR, level.tolerance):
            return Gain(ratio, level.goal)
    return Gain(1.0, objective.levels[0].goal)


def mean_cost(cost: Cost, swings: Sequence[Swing]) -> Cost:
    """A plan's cost over the next seconds, where its links (one swing each) stay as they are or are what they were.

    Only the link that may change most counts. Results add up over time, so the period is that of the mean rate.
    """
    at = max(range(len(swings)), key=lambda place: swings[place].change, default=None)
    if at is None or not swings[at].change or not cost.links:
        return cost
    stays, then = swings[at].stays, _slower(cost, swings[at].slower, at)
    return replace(
        cost,
        latency_s=cost.latency_s**stays * then.latency_s ** (1.0 - stays),
        pipeline_s=_mean_period_s(stays, cost.pipeline_s, then.pipeline_s),
    )


def _mean_period_s(stays: float, now_s: float, then_s: float) -> float:
    return 0.0 if min(now_s, then_s) <= 0.0 else 1.0 / (stays / now_s + (1.0 - stays) / then_s)


def gain_doubt(goal: Goal, current: Cost, candidate: Cost, fps: float, links: Doubt) -> Doubt:
    """How unsure a gain is, where the links' estimates are so unsure."""
    return Doubt(*(gain_noise(goal, current, candidate, fps, each) for each in links))


def gain_noise(goal: Goal, current: Cost, candidate: Cost, fps: float, noise: float) -> float:
    """Log deviation of a gain, where the links' estimates have one of `noise`.

    A gain is as uncertain as the links only where one plan waits for them and the other does not. Of two plans that
    both send all the time it is the ratio of their bytes, whatever the link does.
    """
    of = _COST_OF[goal]
    logs = []
    for factor in (math.exp(-noise), 1.0, math.exp(noise)):
        old, new = of(_slower(current, factor), fps), of(_slower(candidate, factor), fps)
        if not (0.0 < old < math.inf and 0.0 < new < math.inf):
            return noise
        logs.append(math.log(old / new))
    return max(abs(logs[0] - logs[1]), abs(logs[2] - logs[1]))


def _slower(cost: Cost, factor: float, at: int | None = None) -> Cost:
    """A plan's cost where its links, or the one at this place, take so many times as long."""
    if not cost.links:
        return cost
    before_s = [*(link.transfer_s for link in cost.links), cost.home.transfer_s]
    slow = [at is None or place == at for place in range(len(cost.links))]
    # The way home is the device's own link, as a rule.
    sent_s = [each * factor if slower else each for each, slower in zip(before_s, [*slow, slow[0]], strict=True)]
    return replace(
        cost,
        latency_s=cost.latency_s + sum(sent_s) - sum(before_s),
        pipeline_s=max(cost.busy_s, *sent_s),
    )


class _Lasting:
    """Gains in a row."""

    def __init__(self) -> None:
        self.since_s: float | None = None
        self._sum_of_logs, self._count = 0.0, 0

    def add(self, gain: float, now: float) -> None:
        if self.since_s is None:
            self.since_s = now
        self._sum_of_logs += math.log(min(gain, MAX_GAIN))
        self._count += 1

    def end(self) -> None:
        self.since_s = None
        self._sum_of_logs, self._count = 0.0, 0

    @property
    def mean(self) -> float:
        """Geometric; 0 where there are none."""
        return math.exp(self._sum_of_logs / self._count) if self._count else 0.0

    def lasted_s(self, now: float) -> float:
        return 0.0 if self.since_s is None else now - self.since_s
