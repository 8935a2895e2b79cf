"""Which incoming links a simulated node keeps figures of: no more than a live one (`nodes.links.LinkMeter`)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from scheduler.simulate.links import SimulatedLink
from scheduler.timing import MAX_PEERS, MAX_STRANGERS


class Peers:
    """Incoming links, by the peer that sends: of nodes that some plan has named, and of a few strangers.

    Without these bounds an edge told of a thousand links in each report, fifty times a second; a live scheduler refuses
    a report of more than 512.
    """

    def __init__(self) -> None:
        self.links: dict[str, SimulatedLink] = {}
        """Links that have been used, in the order of their first use."""
        self._named: set[str] = set()
        self._known: OrderedDict[str, None] = OrderedDict()
        self._strangers: OrderedDict[str, None] = OrderedDict()
        """Who has sent something, the latest last."""

    def learn(self, names: Iterable[str]) -> None:
        """An announcement has named these nodes."""
        for name in names:
            if name not in self._named:
                self._named.add(name)
                if name in self._strangers:
                    del self._strangers[name]
                    self._enter(self._known, MAX_PEERS, name)

    def expect(self, link: SimulatedLink) -> None:
        """A message has set out; where there is room, its link is kept from now on."""
        order, most = self._order(link.source)
        if link.source not in order and len(order) < most:
            order[link.source] = None
            self.links[link.source] = link

    def heard(self, link: SimulatedLink) -> None:
        """A message came in; the link that was heard of longest ago gives way to it."""
        self.links[link.source] = link
        self._enter(*self._order(link.source), link.source)

    def _order(self, peer: str) -> tuple[OrderedDict[str, None], int]:
        return (self._known, MAX_PEERS) if peer in self._named else (self._strangers, MAX_STRANGERS)

    def _enter(self, order: OrderedDict[str, None], most: int, peer: str) -> None:
        order[peer] = None
        order.move_to_end(peer)
        if len(order) > most:
            forgotten, _ = order.popitem(last=False)
            self.links.pop(forgotten).watch.forget()
