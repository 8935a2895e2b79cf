"""When to send bytes over an idle link only to learn its goodput, and how many. Pure: time is an argument."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

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
    first_bytes: int = 64 * 1024
    """Size of the first probe of a link of which nothing is known."""
    max_bytes: int = 1 << 20
    patience_s: float = 10.0
    """A probe of which nothing is seen for this long is lost."""


@dataclass
class _Probed:
    at_s: float
    lost_after_s: float


class Prober:
    """Decides on the probes of all links."""

    def __init__(self, config: ProbeConfig | None = None) -> None:
        self.config = config or ProbeConfig()
        self._probed: dict[LinkName, _Probed] = {}

    def due(
        self, links: Iterable[LinkName], find: Callable[[str, str], LinkEstimator | None], now: float
    ) -> list[tuple[LinkName, int]]:
        """The probes to send now.

        Args:
            links: those that planning rests on; all others are forgotten.
            find: the estimator of a link, or None where nothing has crossed yet.
            now: the time.

        Returns:
            Links and payload bytes, in the order of `links`.
        """
        wanted = dict.fromkeys(links)
        self._probed = {link: each for link, each in self._probed.items() if link in wanted}
        orders = []
        for link in wanted:
            size = self._size(link, find(*link), now)
            if size:
                self._probed[link] = _Probed(now, now + self.config.patience_s)
                orders.append((link, size))
        return orders

    def _size(self, link: LinkName, estimator: LinkEstimator | None, now: float) -> int:
        """Bytes to send over the link now; 0 for none."""
        last = self._probed.get(link)
        seen = None if estimator is None else estimator.tracker.estimate(now)
        if estimator is None or seen is None:
            return self.config.first_bytes if last is None or now >= last.lost_after_s else 0
        interval_s = self.config.again_s if estimator.unsettled else self.config.interval_s
        if seen.age_s < interval_s and not estimator.freed:
            return 0
        if estimator.stalled and last is not None and now < last.lost_after_s:
            return 0
        since_s = seen.age_s if last is None else min(seen.age_s, now - last.at_s)
        if since_s < interval_s:
            return 0
        size = self._within_budget(seen.value, since_s)
        # A sample that the estimate does not follow yet, or a budget saved up for long enough.
        if size >= MIN_MESSAGE_BYTES or estimator.doubtful or since_s >= self.config.max_interval_s:
            doubt = self.config.doubt_bytes if estimator.unsettled else 0
            return max(size, MIN_MESSAGE_BYTES, min(doubt, int(self.config.doubt_s * seen.value / 8.0)))
        return 0

    def _within_budget(self, goodput_bps: float, idle_s: float) -> int:
        idle_s = min(idle_s, self.config.max_interval_s)
        return min(self.config.max_bytes, int(self.config.budget * goodput_bps * idle_s / 8.0))
