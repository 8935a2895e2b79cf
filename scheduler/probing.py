"""When to send bytes over an idle link only to learn its goodput, and how many. Pure: time is an argument."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from scheduler.estimate import MIN_MESSAGE_BYTES, LinkEstimator

LinkName = tuple[str, str]
"""Source and target."""


@dataclass(frozen=True)
class ProbeConfig:
    """The probe budget."""

    budget: float = 0.01
    """Share of a link's estimated capacity that probes may take while it is idle."""
    interval_s: float = 0.8
    """No two probes of a link are closer together; below the heartbeat, so that each may bring one."""
    again_s: float = 0.2
    """The same where a link is new, or has just come back from an outage."""
    doubt_bytes: int = 8192
    """Size of such a probe, of which a header is no large part, where it takes `doubt_s` at most."""
    doubt_s: float = 0.1
    max_interval_s: float = 3.0
    """Nor farther apart, even where the budget would have them: a link that came back is to be found within 5 s.
    The least probe every 3 s is 5 kbit/s."""
    missed_interval_s: float = 0.9
    """The same for a link that a stream would use, were it faster, while what was saved of the budget lasts."""
    lately_s: float = 10.0
    """A link that was left no longer ago than this is probed as soon as half of that time has gone by again: what
    made a stream leave is likely to be over soon, or else to last as long again."""
    saved_s: float = 15.0
    """So many seconds of the budget can be saved: outages that end, end soon as a rule. What was saved on a fast link
    is forgotten as slowly."""
    first_bytes: int = 64 * 1024
    """Size of the first probe of a link of which nothing is known."""
    max_bytes: int = 1 << 20
    patience_s: float = 10.0
    """A probe of which nothing is seen for this long is lost."""
    unseen: int = 3
    """After so many probes of which nothing was seen the next ones are the least: in an outage they wait in the link,
    and are in the way of the first frames behind it."""


@dataclass
class _Probed:
    at_s: float
    lost_after_s: float
    unseen: int
    """Probes, this one among them, since something was last seen to cross."""


class Prober:
    """Decides on the probes of all links."""

    def __init__(self, config: ProbeConfig | None = None) -> None:
        self.config = config or ProbeConfig()
        self._probed: dict[LinkName, _Probed] = {}
        self._saved: dict[LinkName, tuple[float, float]] = {}
        """Bytes of the budget that were not used, and when they were counted."""

    def due(
        self,
        links: Iterable[LinkName],
        find: Callable[[str, str], LinkEstimator | None],
        now: float,
        missed: Mapping[LinkName, float] = MappingProxyType({}),
        *,
        busy: Collection[LinkName] = frozenset(),
        every: bool = True,
    ) -> list[tuple[LinkName, int]]:
        """The probes to send now.

        Args:
            links: those that planning rests on; all others are forgotten.
            find: the estimator of a link, or None where nothing has crossed yet.
            now: the time.
            missed: those out of devices that compute alone, and for how many seconds they have: these links carry
                nothing, and each second in which it is not seen that they are back is lost.
            busy: those that frames go by. The next frame tells as much as a probe, which would only be in its way: no
                more are sent than need be.
            every: whether `links` are all; if not, nothing is forgotten.

        Returns:
            Links and payload bytes, in the order of `links`.
        """
        wanted = dict.fromkeys(links)
        if every and not (self._probed.keys() <= wanted.keys() and self._saved.keys() <= wanted.keys()):
            self._probed = {link: each for link, each in self._probed.items() if link in wanted}
            self._saved = {link: each for link, each in self._saved.items() if link in wanted}
        orders = []
        for link in wanted:
            estimator, last = find(*link), self._probed.get(link)
            saved = self._save(link, estimator, now)
            missed_s = missed.get(link) if saved >= MIN_MESSAGE_BYTES else None
            size = self._size(last, estimator, now, missed_s, link in busy)
            if size:
                if estimator is not None and not estimator.unsettled:  # few others, as the first one
                    self._saved[link] = max(0.0, saved - size), now
                unseen = 1 + _unseen(last, estimator, now)
                self._probed[link] = _Probed(now, now + self.config.patience_s, unseen)
                orders.append((link, size))
        return orders

    def _size(
        self, last: _Probed | None, estimator: LinkEstimator | None, now: float, missed_s: float | None, busy: bool
    ) -> int:
        """Bytes to send over a link now; 0 for none."""
        level_bps = None if estimator is None else estimator.tracker.level
        if estimator is None or level_bps is None:
            return self.config.first_bytes if last is None or now >= last.lost_after_s else 0
        unsettled, freed = (estimator.unsettled, estimator.freed) if not busy else (False, False)
        again = unsettled or (missed_s is not None and estimator.doubtful)
        longest_s = self._longest_s(missed_s)
        interval_s = self.config.again_s if again else min(math.inf if busy else self.config.interval_s, longest_s)
        age_s = estimator.tracker.age_s(now)
        if age_s < interval_s and not freed:
            return 0
        if estimator.stalled and last is not None and now < last.lost_after_s:
            return 0
        since_s = age_s if last is None else min(age_s, now - last.at_s)
        if since_s < interval_s:
            return 0
        size = self._within_budget(level_bps, since_s)
        # A sample that the estimate does not follow yet, or a budget saved up for long enough.
        if size >= MIN_MESSAGE_BYTES or estimator.doubtful or since_s >= longest_s:
            if _unseen(last, estimator, now) >= self.config.unseen:
                return MIN_MESSAGE_BYTES
            doubt = self.config.doubt_bytes if unsettled else 0
            return max(size, MIN_MESSAGE_BYTES, min(doubt, int(self.config.doubt_s * level_bps / 8.0)))
        return 0

    def _longest_s(self, missed_s: float | None) -> float:
        """After so long a link is probed, whatever the budget says."""
        if missed_s is None:
            return self.config.max_interval_s
        if missed_s > self.config.lately_s:
            return self.config.missed_interval_s
        return min(self.config.missed_interval_s, max(self.config.again_s, missed_s / 2.0))

    def _save(self, link: LinkName, estimator: LinkEstimator | None, now: float) -> float:
        """Count the bytes of the budget that were not used until now."""
        level_bps = None if estimator is None else estimator.tracker.level
        if level_bps is None:
            return 0.0
        per_s = self.config.budget * level_bps / 8.0
        most = per_s * self.config.saved_s
        saved, then = self._saved.get(link, (most, now))
        if saved > most:
            saved = most + (saved - most) * math.exp(-(now - then) / self.config.saved_s)
        else:
            saved = min(most, saved + per_s * (now - then))
        self._saved[link] = saved, now
        return saved

    def _within_budget(self, goodput_bps: float, idle_s: float) -> int:
        idle_s = min(idle_s, self.config.max_interval_s)
        return min(self.config.max_bytes, int(self.config.budget * goodput_bps * idle_s / 8.0))


def _unseen(last: _Probed | None, estimator: LinkEstimator | None, now: float) -> int:
    """Probes that were sent since something was last seen to cross the link."""
    if last is None:
        return 0
    age_s = math.inf if estimator is None else estimator.tracker.age_s(now)
    return 0 if last.at_s <= now - age_s else last.unseen
