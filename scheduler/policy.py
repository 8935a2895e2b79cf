"""When a better plan is worth a switch. Pure: no clock, no planner.

A switch loses no frame here, but it warms segments on every node and, on a noisy link, it is soon regretted. So a
plan has to be better by a margin, and to stay better for a moment; each recent switch raises the margin, so that
a link that is noisy but stationary comes to rest. What cannot wait does not: a bound that is broken, a node that
is gone.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from scheduler.estimate import MEMORY_S
from scheduler.objective import Goal, Objective
from scheduler.problem import Cost


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
    large_gain: float = 1.5
    """From this ratio on, and from twice the noise margin on, a change is no noise: neither dwell nor confirmation
    is asked for."""
    step: float = 0.10
    """Added to the margin for every switch for a gain below `large_gain` within `memory_s`."""
    memory_s: float = 300.0
    forced_memory_s: float = 60.0
    """A second switch that was forced within this time doubles the dwell time, and so does each further one: what let a
    plan down once may be over soon, what did so again is not."""
    max_dwell_s: float = 30.0


MAX_GAIN = 100.0
"""A gain above this counts as this in a mean."""


@dataclass(frozen=True)
class Gain:
    """How much better a candidate is, in the first goal in which the two plans differ."""

    ratio: float
    """Cost of the current plan over that of the candidate; above 1 is better."""
    goal: Goal


@dataclass(frozen=True)
class Offer:
    """A candidate beside the current plan, under the same estimates and at the same quantile."""

    gain: Gain
    current_broken: str = ""
    """The bound that the current plan breaks, or empty."""
    candidate_broken: str = ""
    noise: float = 0.0
    """Log deviation of the links' estimates about their levels, from the number of samples alone."""


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
        self._above_since_s: float | None = None
        """Since when it has been above the margin."""
        self._logs: list[float] = []
        """Of the gains since then."""

    def judge(self, offer: Offer, now: float) -> Verdict:
        """Whether to switch to the candidate."""
        least, lasting, threshold = self._thresholds(offer, now)
        large = max(self.config.large_gain, threshold, 1.0 + 2.0 * self.config.noise_margin * offer.noise)
        if offer.current_broken and not offer.candidate_broken:
            return Verdict(True, f"{offer.current_broken} is broken", 0.0)
        if offer.candidate_broken and not offer.current_broken:
            return self._keep(f"{offer.candidate_broken} would be broken", threshold)
        gain, goal = offer.gain.ratio, offer.gain.goal
        if gain < least:
            return self._keep(f"{goal} gain {gain:.2f} is below {least:.2f}", least)
        since = self._since(gain, lasting, threshold, now)
        if since is None:
            return Verdict(False, f"{goal} gain {gain:.2f} is below {threshold:.2f}", threshold)
        wait_s = self._wait_s(now, since, gain >= large)
        if wait_s > 0.0:
            return Verdict(False, f"{goal} gain {gain:.2f} has to last for {wait_s:.1f} s more", threshold)
        return Verdict(True, f"{goal} gain {gain:.2f}", threshold)

    def kept(self) -> None:
        """No better plan is on offer: a gain that shows again has to last anew."""
        self._above_since_s = self._better_since_s = None

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

    def _thresholds(self, offer: Offer, now: float) -> tuple[float, float, float]:
        """The gain below which a candidate is not looked at, the mean gain that is enough, and the gain that is.

        The estimates' noise is another one after some four of their memories: the mean of gains over n times as long is
        1 / sqrt(n) as noisy.
        """
        steps = self.config.step * sum(1 for at in self._small if now - at < self.config.memory_s)
        lasted_s = 0.0 if self._above_since_s is None else now - self._above_since_s
        noise = self.config.noise_margin * offer.noise
        lasting = noise / math.sqrt(1.0 + lasted_s / (4.0 * MEMORY_S))
        least = self.config.margin
        return 1.0 + least + steps, 1.0 + max(least, lasting) + steps, 1.0 + max(least, noise) + steps

    def _since(self, gain: float, lasting: float, threshold: float, now: float) -> float | None:
        """Since when the candidate is better, by each gain or by their mean; None where it is not."""
        if self._above_since_s is None:
            self._above_since_s, self._logs = now, []
        self._logs.append(math.log(min(gain, MAX_GAIN)))
        if gain < threshold:
            self._better_since_s = None
        elif self._better_since_s is None:
            self._better_since_s = now
        is_enough = math.exp(statistics.fmean(self._logs)) >= lasting
        return self._above_since_s if is_enough else self._better_since_s

    def _wait_s(self, now: float, since: float, large: bool) -> float:
        forced = sum(1 for at in self._forced if now - at < self.config.forced_memory_s)
        if large and not forced:
            return 0.0
        dwell_s = min(self.config.max_dwell_s, self.config.dwell_s * 2.0 ** max(0, forced - 1))
        confirmed = 0.0 if large else since + self.config.confirm_s - now
        return max(self._latest_s + dwell_s - now, confirmed)


NEAR = 0.02
"""Plans within this share of each other in a goal are alike in it, and the next goal decides."""

_COST_OF: dict[Goal, Callable[[Cost, float], float]] = {
    Goal.THROUGHPUT: lambda cost, fps: max(cost.period_s, 1.0 / fps if fps > 0 else 0.0),
    Goal.LATENCY: lambda cost, fps: cost.latency_s,
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
