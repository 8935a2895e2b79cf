"""The link shaper: a pure queue that obeys a trace, and a TCP relay around it."""

from traces.link.address import Address
from traces.link.counters import DirectionStats, ShaperStats
from traces.link.process import ShaperProcess
from traces.link.queue import Delivery, LinkQueue, LinkSettings
from traces.link.shaper import Shaper, ShaperConfig

__all__ = [
    "Address",
    "Delivery",
    "DirectionStats",
    "LinkQueue",
    "LinkSettings",
    "Shaper",
    "ShaperConfig",
    "ShaperProcess",
    "ShaperStats",
]
