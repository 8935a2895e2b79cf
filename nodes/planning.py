"""From the options of `anabranch plan` to a problem."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from nodes.simulation import parse_speed
from pipeline.errors import ConfigError
from pipeline.model.capture import CapturedModel
from pipeline.plan import Tier
from pipeline.tiling.crew import Crew
from scheduler.objective import Objective
from scheduler.packing import measured
from scheduler.problem import HOPS, Hop, LinkEstimate, LoadEstimate, Power, Problem
from scheduler.profile import load
from scheduler.simulate.figures import Machine, assumed_packing
from scheduler.tables import SegmentTimes
from scheduler.tiles import TileTable
from scheduler.tiling import tile_table
from traces.units import parse_rate_bps, parse_time_s

NODES = {Tier.DEVICE: "device-1", Tier.EDGE: "edge-1", Tier.CLOUD: "cloud-1"}

HOP_NAMES = {f"{hop[0]}-{hop[1]}": hop for hop in HOPS}


@dataclass(frozen=True)
class PlanOptions:
    """What was asked for, as people write it."""

    nodes: tuple[str, ...]
    """TIER=SPEED or TIER=PROFILE.json, the latter with an optional `@SPEED`."""
    links: tuple[str, ...]
    """HOP=RATE[,RTT[,UNCERTAINTY]]."""
    loads: tuple[str, ...] = ()
    """TIER=SLOWDOWN[,UNCERTAINTY]."""
    calibration: Path | None = None
    tiles: int = 1
    tile_link: str = "1Gbit"
    fps: float = 0.0
    power: str = ""
    """WATTS[,WATTS]: of the device while computing, and while sending."""
    objective: Objective = field(default_factory=Objective)


def build_problem(captured: CapturedModel, options: PlanOptions, is_adaptive: bool = False) -> Problem:
    """The problem of these options.

    Raises:
        AnabranchError: an option that does not make sense, or a profile or calibration of another network.
        TraceError: a rate or time that is none.
    """
    graph = captured.graph
    times = {tier: _times(captured, value) for tier, value in _by_tier(options.nodes, "--node").items()}
    return Problem(
        graph=graph,
        stream="stream-1",
        nodes={tier: NODES[tier] for tier in times},
        times={NODES[tier]: found for tier, found in times.items()},
        packing=measured(graph, options.calibration) or assumed_packing(graph),
        links=dict(parse_link(text) for text in options.links),
        loads={NODES[tier]: _load(value) for tier, value in _by_tier(options.loads, "--load").items()},
        objective=options.objective,
        tiles=_tiles(captured, times, options),
        power=_power(options.power),
        fps=options.fps or None,
        fills_up=is_adaptive and options.objective.fills_up,
        hedges=is_adaptive and options.objective.hedges,
    )


def parse_link(text: str) -> tuple[Hop, LinkEstimate]:
    """`device-edge=20Mbit,5ms,0.3` as a hop with its estimate.

    Raises:
        ConfigError: an unknown hop, or not the three figures.
        TraceError: a rate or time that is none.
    """
    name, separator, values = text.partition("=")
    rate, *rest = values.split(",")
    if name not in HOP_NAMES or not separator or len(rest) > 2:
        mend = f"for example device-edge=20Mbit,5ms; hops are {', '.join(HOP_NAMES)}"
        raise ConfigError(f"--link {text}", "not HOP=RATE[,RTT[,UNCERTAINTY]]", mend)
    rtt_s = parse_time_s(rest[0]) if rest else 0.0
    uncertainty = _number(rest[1], f"--link {text}") if len(rest) > 1 else 0.0
    return HOP_NAMES[name], LinkEstimate(parse_rate_bps(rate), rtt_s, uncertainty)


def parse_sweep(text: str) -> tuple[Hop, float, float]:
    """`device-edge=1:200Mbps` as a hop and two rates; the first takes the second's unit where it has none.

    Raises:
        ConfigError: not of that form, or an empty range.
        TraceError: a rate that is none.
    """
    name, _, values = text.partition("=")
    low, colon, high = values.partition(":")
    if name not in HOP_NAMES or not colon:
        raise ConfigError(f"--sweep {text}", "not HOP=LOW:HIGH", "for example device-edge=1:200Mbps")
    unit = high.lstrip("0123456789.eE+-")
    first = parse_rate_bps(low if low.lstrip("0123456789.eE+-") else low + unit)
    last = parse_rate_bps(high)
    if not 0 < first < last:
        raise ConfigError(f"--sweep {text}", "an empty range", "give the lower rate first")
    return HOP_NAMES[name], first, last


def _by_tier(texts: Sequence[str], option: str) -> dict[Tier, str]:
    found: dict[Tier, str] = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if name not in list(Tier) or not separator:
            raise ConfigError(f"{option} {text}", "not TIER=VALUE", "tiers are device, edge, cloud")
        found[Tier(name)] = value
    return found


def _times(captured: CapturedModel, text: str) -> SegmentTimes:
    path, _, speed = text.partition("@")
    if not path.endswith(".json"):
        return Machine(parse_speed(text)).times(captured.graph)
    found = load(Path(path), captured.graph).bind(captured.graph)
    factor = _number(speed, f"--node {text}") if speed else 1.0
    if factor <= 0:
        raise ConfigError(f"--node {text}", "a speed that is not positive")
    scaled = {name: getattr(found, name) / factor for name in ("enter_s", "leave_s", "block_s")}
    return replace(found, **scaled, packing_scale=found.packing_scale / factor)


def _load(text: str) -> LoadEstimate:
    figures = [_number(each, f"--load {text}") for each in text.split(",")]
    return LoadEstimate(*figures[:2])


def _power(text: str) -> Power | None:
    return Power(*[_number(each, f"--power {text}") for each in text.split(",")[:2]]) if text else None


def _number(text: str, option: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise ConfigError(option, f"{text!r} is no number") from error


def _tiles(captured: CapturedModel, times: dict[Tier, SegmentTimes], options: PlanOptions) -> TileTable | None:
    if options.tiles < 2 or Tier.EDGE not in times:
        return None
    block_s = times[Tier.EDGE].block_s
    names = (NODES[Tier.EDGE], *(f"tile-{number}" for number in range(1, options.tiles)))
    crew = Crew(
        speeds=(1.0,) * options.tiles,
        block_s={block.name: float(block_s[block.index]) for block in captured.graph.blocks},
        goodput_bps=parse_rate_bps(options.tile_link),
    )
    return tile_table(captured, crew, names)
