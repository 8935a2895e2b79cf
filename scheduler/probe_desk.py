"""Which idle links are probed, since some stream would use them. Part of the pure core."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from scheduler.estimate import MIN_MESSAGE_BYTES, LinkEstimator
from scheduler.outbox import Outbox
from scheduler.outlook import Outlook
from scheduler.probing import LinkName, ProbeConfig, Prober
from scheduler.registry import Registry
from scheduler.streams import StreamState


class ProbeDesk:
    """Orders the probes that are due.

    Args:
        config: the budget.
        registry: knows links and nodes.
        links: the pairs of nodes that are joined, tile workers aside; None where any may be.
        outbox: takes the orders.
    """

    def __init__(
        self, config: ProbeConfig, registry: Registry, links: Collection[LinkName] | None, outbox: Outbox
    ) -> None:
        self._prober = Prober(config)
        self._registry = registry
        self._links = links
        self._outbox = outbox
        self._alone: Mapping[str, float] = {}
        """Devices whose streams would go by a link, were there a fast one, and for how long they have been alone."""
        self.urgent = False
        """Whether a link is new or has just come back: then its probes do not wait for the heartbeat."""

    def mind(self, source: str, estimator: LinkEstimator) -> None:
        """Take note of a link that was just reported on."""
        self.urgent = self.urgent or estimator.unsettled or (source in self._alone and estimator.doubtful)

    def probe_due(self, streams: Collection[StreamState], outlook: Outlook) -> None:
        """Probe the links that planning for these streams rests on, as far as that is due."""
        planned = self._planned(streams)
        wanted = self._joined(outlook.routes(planned))
        self.urgent, self._alone = False, _alone_s(planned, outlook.now)
        missed = {link: self._alone[link[0]] for link in wanted if link[0] in self._alone}
        busy = {link for link in map(self._busy, planned) if link is not None}
        for link, size in self._prober.due(wanted, self._registry.link, outlook.now, missed, busy=busy):
            self._order(link, size)

    def probe_left(self, streams: Collection[StreamState], outlook: Outlook) -> None:
        """Probe those alone that a stream has left lately: they may be back at any moment."""
        lately_s, now = self._prober.config.lately_s, outlook.now
        left = self._planned(each for each in streams if now - each.alone_s < lately_s)
        if not left:
            return
        alone_s = _alone_s(left, now)
        missed = {link: alone_s[link[0]] for link in self._joined(outlook.routes(left)) if link[0] in alone_s}
        for link, size in self._prober.due(missed, self._registry.link, now, missed, every=False):
            self._order(link, size)

    def _busy(self, state: StreamState) -> LinkName | None:
        """The link out of its device, where frames go by it that tell how fast it is."""
        device = self._registry.get(state.device)
        if device is None or state.current.is_device_only:
            return None
        running = state.stream, state.current.epoch
        stages = (each for each in device.report.stages if (each.stream, each.epoch) == running)
        tells = any(each.packed_bytes.window >= MIN_MESSAGE_BYTES for each in stages)
        source, target, *_ = state.current.nodes
        return (source, target) if tells else None

    def _planned(self, streams: Iterable[StreamState]) -> list[StreamState]:
        return [each for each in streams if each.may_change and self._registry.usable(each.device)]

    def _order(self, link: LinkName, size: int) -> None:
        source, target = self._registry.get(link[0]), self._registry.get(link[1])
        if source is not None and target is not None:
            tiles, endpoints = None in (source.report.tier, target.report.tier), target.report.endpoints
            self._outbox.probe(*link, endpoints.tiles if tiles else endpoints.frames, size, tiles=tiles)

    def _joined(self, links: list[LinkName]) -> list[LinkName]:
        joined = self._links
        if joined is None:
            return links
        workers = {each.name for each in self._registry if each.report.tier is None}
        return [link for link in links if link in joined or not workers.isdisjoint(link)]


def _alone_s(streams: Iterable[StreamState], now: float) -> dict[str, float]:
    """Devices that compute alone, and for how long they have."""
    return {each.device: now - each.alone_s for each in streams if each.current.is_device_only}
