"""Plans only over links that there are: in a replay, those that have a trace."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

from pipeline.plan import Plan
from scheduler.world import Advice, Advisor, World


class Joined:
    """An advisor that hides all other links, which on one machine are as fast as its memory.

    Tile workers stand beside their edge node, and no trace is ever of the way between them.

    Args:
        inner: advises.
        links: the pairs of nodes that are joined.
    """

    def __init__(self, inner: Advisor, links: Collection[tuple[str, str]]) -> None:
        self._inner = inner
        self._links = frozenset(links)

    def advise(self, world: World) -> Advice:
        """The inner advisor's advice in the world without the other links."""
        workers = {each.name for each in world.candidates if each.tier is None}
        links = {
            name: found for name, found in world.links.items() if name in self._links or not workers.isdisjoint(name)
        }
        return self._inner.advise(dataclasses.replace(world, links=links))

    def stage_s(self, plan: Plan, node: str) -> float | None:
        """See `Advisor.stage_s`."""
        return self._inner.stage_s(plan, node)
