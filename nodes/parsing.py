"""Reads what options say about tiers, links and graphs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from pipeline.errors import AnabranchError, ConfigError
from pipeline.model.graph import ModelGraph
from pipeline.plan import Tier


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
    try:
        return msgspec.json.decode(path.read_bytes(), type=ModelGraph)
    except (OSError, msgspec.DecodeError, AnabranchError) as error:
        raise ConfigError(f"graph {path}", str(error)) from error


def parse_links(texts: Sequence[str]) -> dict[tuple[Tier, Tier], str]:
    """`device-edge=TRACE` each, as a mapping.

    Raises:
        ConfigError: something else, or a link that does not exist.
    """
    links: dict[tuple[Tier, Tier], str] = {}
    for text in texts:
        link, _, trace = text.partition("=")
        source, _, target = link.partition("-")
        try:
            ends = Tier(source), Tier(target)
        except ValueError as error:
            raise ConfigError(f"--trace {text}", "not LINK=TRACE", "for example device-edge=lte-driving-1") from error
        if ends[0].rank >= ends[1].rank or not trace:
            raise ConfigError(f"--trace {text}", "not a link downstream", "device-edge, edge-cloud or device-cloud")
        links[ends] = trace
    return links
