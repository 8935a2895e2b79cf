"""Plans and nodes that failed a stream, and for how long they rest. Part of the pure core."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from pipeline.plan import Plan, Signature, signature

REFUSED_S = 30.0
"""A plan that a node refused, or was not ready for, rests for this long, as does the node; doubled each time."""

RETREAT_S = 3.0
"""A plan that the device gave up by itself rests for this long, doubled each time: a node may answer the scheduler
and yet take no frames. Three heartbeats, in which a node that is dead shows it."""

MAX_DOUBLINGS = 6

BACK_S = 2.0
"""A plan that was given up while a link of it carried nothing may be tried once that link has carried something for so
long: as long as the policy has any gain confirmed."""

FORGIVE_S = 60.0
"""What has not failed for this long begins with the shortest rest again."""

MAX_BANS = 64

Subject = Signature | str
"""What a plan does, or the name of a node."""


@dataclass(frozen=True)
class Ban:
    """A plan, or a node, that is not to be tried for a while."""

    until_s: float
    failures: int
    nodes: frozenset[str]
    """When one of them starts anew, the ban is off."""
    by_link: bool = False
    """Whether a link of the plan carried nothing when it failed."""
    back_s: float | None = None
    """Since when all of them do again."""


class Bans:
    """Those of one stream; false where there are none. The oldest go first beyond `MAX_BANS`."""

    def __init__(self) -> None:
        self._bans: dict[Subject, Ban] = {}

    def __bool__(self) -> bool:
        return bool(self._bans)

    def add_plan(self, plan: Plan, now: float) -> None:
        """A node refused the plan, or was not ready in time."""
        self._add(signature(plan), frozenset(plan.nodes), now, REFUSED_S)

    def add_retreat(self, plan: Plan, silent: bool, now: float) -> None:
        """The device gave `plan` up by itself; `silent` tells that a link of it carries nothing."""
        self._add(signature(plan), frozenset(plan.nodes), now, RETREAT_S, silent)

    def add_node(self, node: str, now: float) -> None:
        """Plan without this node for a while, so that another plan is found."""
        self._add(node, frozenset({node}), now, REFUSED_S)

    def pardon(self, node: str) -> None:
        """The node started anew: what failed with it may be tried again."""
        if self._bans:
            self._bans = {key: ban for key, ban in self._bans.items() if node not in ban.nodes}

    def bars_node(self, node: str, now: float) -> bool:
        """Whether the node refused a plan, or was not ready in time, lately."""
        return self._lasts(node, now)

    def bars(self, plan: Plan, silent: Callable[[Plan], bool], now: float) -> bool:
        """Whether the plan failed lately, and no link of it that was to blame is back; `silent` as in `add_retreat`.

        How long an outage was tells nothing of the link once it is over; a node that takes no frames is another matter.
        """
        if not self._bans:
            return False
        key = signature(plan)
        ban = self._bans.get(key)
        if ban is None or now >= ban.until_s or not ban.by_link:
            return self._lasts(key, now)
        back_s = None if silent(plan) else now if ban.back_s is None else ban.back_s
        if back_s is None or now - back_s < BACK_S:
            self._bans[key] = replace(ban, back_s=back_s)
            return True
        del self._bans[key]
        return False

    def _add(self, key: Subject, nodes: frozenset[str], now: float, rest_s: float, by_link: bool = False) -> None:
        last = self._bans.pop(key, None)
        failures = 0 if last is None or now > last.until_s + FORGIVE_S else last.failures
        self._bans[key] = Ban(now + rest_s * 2.0 ** min(failures, MAX_DOUBLINGS), failures + 1, nodes, by_link)
        while len(self._bans) > MAX_BANS:
            del self._bans[next(iter(self._bans))]

    def _lasts(self, key: Subject, now: float) -> bool:
        ban = self._bans.get(key)
        return ban is not None and now < ban.until_s
