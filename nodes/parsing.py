"""Reads what options say about tiers, links and graphs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline import tablefile
from pipeline.errors import ConfigError
from pipeline.model.graph import ModelGraph
from pipeline.plan import Plan, Tier
from scheduler.problem import HOPS, Hop
from traces.units import parse_time_s


def parse_speeds(text: str) -> dict[Tier, float]:
    """`device=0.25,edge=0.5` as a mapping.

    Raises:
        ConfigError: an unknown tier, or a speed that is not in (0, 1].
    """
    speeds: dict[Tier, float] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        tier, _, value = part.partition("=")
        try:
            speeds[Tier(tier)] = float(value)
        except ValueError as error:
            raise ConfigError(f"--emulate-speed {part}", "not TIER=FRACTION", "for example device=0.25") from error
        if not 0 < speeds[Tier(tier)] <= 1:
            raise ConfigError(f"--emulate-speed {part}", "not a fraction of 1", "a node can only be made slower")
    return speeds


def parse_tiers(text: str) -> tuple[Tier, ...]:
    """`device,edge,cloud` or a part of it that begins with the device.

    Raises:
        ConfigError: something else.
    """
    try:
        tiers = tuple(Tier(part.strip()) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(f"--tiers {text}", str(error), "for example device,cloud") from error
    if tiers != tuple(tier for tier in Tier if tier in tiers) or tiers[0] is not Tier.DEVICE:
        raise ConfigError(f"--tiers {text}", "not in the order device, edge, cloud, or without the device")
    return tiers


def parse_names(text: str) -> dict[Tier, str]:
    """`device=cam,cloud=big` as a mapping, in the order of the stream.

    Raises:
        ConfigError: an unknown tier, or no device.
    """
    pairs = dict(part.strip().partition("=")[::2] for part in text.split(","))
    tiers = parse_tiers(",".join(tier for tier in Tier if tier in pairs))
    if set(pairs) != set(tiers) or not all(pairs.values()):
        raise ConfigError(f"--nodes {text}", "not TIER=NAME", "for example device=cam,cloud=big")
    return {tier: pairs[tier] for tier in tiers}


def read_graph(path: Path) -> ModelGraph:
    """A block graph from a file.

    Raises:
        ConfigError: the file is missing or is none.
    """
    return tablefile.decode(path, ModelGraph, "graph", "name the model.json of a run's folder")


def read_plan(path: Path) -> Plan:
    """A plan from a file.

    Raises:
        ConfigError: the file is missing or is none.
    """
    return tablefile.decode(path, Plan, "plan", "write one with `anabranch plan --out`")


def parse_links(texts: Sequence[str]) -> dict[Hop, str]:
    """`device-edge=TRACE` each, as a mapping.

    Raises:
        ConfigError: something else, or a link that does not exist.
    """
    links: dict[Hop, str] = {}
    for text in texts:
        hop, trace = _by_hop(text, "--trace")
        links[hop] = trace
    return links


def parse_delays(texts: Sequence[str], default: Mapping[Hop, float]) -> dict[Hop, float]:
    """`20ms` (of all links) or `edge-cloud=20ms` each, in seconds, on top of `default`.

    Raises:
        ConfigError: something else, or a link that does not exist.
        TraceError: not a time.
    """
    delays = dict(default)
    for text in texts:
        if "=" in text:
            hop, value = _by_hop(text, "--delay")
            delays[hop] = parse_time_s(value)
        else:
            delays = dict.fromkeys(HOPS, parse_time_s(text))
    return delays


def _by_hop(text: str, option: str) -> tuple[Hop, str]:
    names = {f"{a}-{b}": (a, b) for a, b in HOPS}
    name, _, value = text.partition("=")
    if name not in names or not value:
        raise ConfigError(f"{option} {text}", "not HOP=VALUE", f"hops are {', '.join(names)}")
    return names[name], value
