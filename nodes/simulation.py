"""From the options of `anabranch simulate` to a scenario, and from a record to rows for people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from nodes.machine import emulated_profile
from nodes.parsing import parse_delays, parse_links
from pipeline.calibrate import Calibration
from pipeline.errors import ConfigError
from pipeline.model.capture import CapturedModel
from pipeline.model.graph import ModelGraph
from pipeline.model.spec import load_model
from pipeline.plan import Plan, Tier
from scheduler.foresight import ORACLE
from scheduler.handmade import plan_of
from scheduler.objective import Objective
from scheduler.packing import arithmetic, measured
from scheduler.problem import Hop
from scheduler.profile import load as load_profile
from scheduler.simulate import first_plan_s
from scheduler.simulate.figures import Machine, assumed_packing
from scheduler.simulate.record import RunRecord
from scheduler.simulate.scenario import DELAYS_S, Channel, Scenario, node_name
from scheduler.simulate.scenes import Spread
from scheduler.tables import SegmentTimes
from traces.load import load_both_ways

NOISE, EMULATED_NOISE = 0.05, 0.01
"""Log deviation of service times; emulated nodes keep time."""

RELAY_S = 0.0015
"""By which a message takes longer than its bytes through a shaped link of a replay: the relay wakes once a millisecond,
and passes every byte on between two threads (measured: 6 ms over four relays, in the least)."""

STEP_S = 0.0002
"""What a hand-over between two threads of a live node takes, with headers and the sleep of emulated nodes."""

SOURCE_S = 0.01
"""From a live device's first plan to its first frame (measured: 14 to 21 ms behind the commit, two control messages
included)."""

WORKER_GAIN = 0.8
"""By which each tile worker makes the edge faster: halos and hand-overs cost the rest."""

_PREFIXES = {"K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}


@dataclass(frozen=True)
class SimulationOptions:
    """What was asked for, as people write it."""

    model: str = "builtin"
    policy: str = "joint"
    objective: str = "throughput,latency"
    max_drop: float = 0.01
    speeds: Mapping[str, str] = field(default_factory=lambda: {"device": "20G", "edge": "200G", "cloud": "2T"})
    emulated: Mapping[Tier, float] = field(default_factory=dict)
    """Speeds as shares of this machine's, which is measured; where given, the run is one of `anabranch replay`."""
    profiles: tuple[str, ...] = ()
    calibration: Path | None = None
    traces: tuple[str, ...] = ()
    delays: tuple[str, ...] = ()
    workers: int = 0
    seconds: float = 60.0
    frames: int | None = None
    fps: float = 0.0
    admit: str = "every"
    streams: int = 1
    tiers: tuple[Tier, ...] = tuple(Tier)
    """Of those that a link joins; the device is always one."""
    cut: str = ""
    codec: str = "fp32"
    noise: float | None = None
    """Log deviation of service times; None for 0.05, or what emulated nodes show."""
    seed: int = 0
    weights: Path | None = None


def build_scenario(options: SimulationOptions, graph: ModelGraph | None = None) -> Scenario:
    """The scenario of these options.

    Args:
        options: what was asked for.
        graph: the network, where it is loaded already.

    Raises:
        AnabranchError: a model, profile, table, policy or figure that does not work.
        TraceError: a trace that does not.
    """
    captured = None
    if graph is None or options.emulated:
        loaded = load_model(options.model, weights=options.weights).captured
        graph, captured = loaded.graph, loaded if options.emulated else None
    channels = {hop: each for hop, each in _channels(options).items() if set(hop) <= set(options.tiers)}
    tiers = [tier for tier in Tier if any(tier in hop for hop in channels)] or [Tier.DEVICE]
    made = Scenario(
        graph=graph,
        # As in a live run, or, for imagined machines, assumed figures.
        packing=measured(graph, options.calibration) or (arithmetic(graph) if captured else assumed_packing(graph)),
        times={tier: _times(options, graph, tier, captured) for tier in tiers},
        channels=channels,
        policy=options.policy,
        fixed=_fixed(options, graph, tiers),
        objective=Objective.parse(options.objective, max_drop=options.max_drop),
        admit=options.admit,
        fps=options.fps,
        seconds=options.seconds,
        frames=options.frames,
        streams=options.streams,
        seed=options.seed,
        noise=options.noise if options.noise is not None else (EMULATED_NOISE if captured else NOISE),
        overhead_s=STEP_S if captured else 0.0,
        spread=_spread(graph, options.calibration) if captured else {},
        trace_spread_s=7.0 if options.streams > 1 else 0.0,
    )
    waits = captured is not None and options.policy != ORACLE
    return made.alike(lead_s=first_plan_s(made) + SOURCE_S) if waits else made


def _spread(graph: ModelGraph, path: Path | None) -> Spread:
    """How packed bytes differ between the frames of a calibration; of none where the network has none."""
    found = Calibration.of(graph.fingerprint, path)
    return {} if found is None else {(entry.cut, entry.codec): entry.spread for entry in found.entries}


def _channels(options: SimulationOptions) -> dict[Hop, Channel]:
    delays = parse_delays(options.delays, DELAYS_S)
    found = {}
    for hop, text in parse_links(options.traces).items():
        back, forth = load_both_ways(text)
        found[hop] = Channel(forth, delays[hop] + (RELAY_S if options.emulated else 0.0), back)
    return found


def _times(options: SimulationOptions, graph: ModelGraph, tier: Tier, captured: CapturedModel | None) -> SegmentTimes:
    for text in options.profiles:
        name, _, path = text.partition("=")
        if name not in list(Tier):
            raise ConfigError(f"--profile {text}", "not TIER=FILE", "tiers are device, edge, cloud")
        if name == tier:
            times = load_profile(Path(path), graph).bind(graph)
            return _faster(times, options.workers) if tier is Tier.EDGE else times
    if captured is not None:
        times = emulated_profile(captured, tier, options.emulated.get(tier, 1.0)).bind(graph)
    else:
        times = Machine(parse_speed(options.speeds[tier])).times(graph)
    return _faster(times, options.workers) if tier is Tier.EDGE else times


def _faster(times: SegmentTimes, workers: int) -> SegmentTimes:
    factor = 1.0 / (1.0 + WORKER_GAIN * workers)
    return replace(
        times, enter_s=times.enter_s * factor, leave_s=times.leave_s * factor, block_s=times.block_s * factor
    )


def _fixed(options: SimulationOptions, graph: ModelGraph, tiers: list[Tier]) -> Plan | None:
    if options.policy != "fixed":
        return None
    return plan_of(graph, "stream-1", {tier: node_name(tier) for tier in tiers}, options.cut, options.codec)


def parse_speed(text: str) -> float:
    """`20G` as FLOP/s.

    Raises:
        ConfigError: no positive number.
    """
    factor = _PREFIXES.get(text[-1:].upper(), 1.0)
    digits = text[:-1] if text[-1:].upper() in _PREFIXES else text
    try:
        value = float(digits) * factor
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise ConfigError(f"speed {text!r}", "not a positive number of FLOP/s", "for example 20G")
    return value


def record_rows(record: RunRecord) -> list[tuple[str, str]]:
    """The totals of a run as names and values."""
    totals = record.totals
    rows = [
        ("frames admitted", f"{totals.frames_admitted:,}"),
        ("results", f"{totals.results:,}"),
        ("frames/s", f"{totals.fps:.2f}"),
    ]
    if totals.latency_s is not None:
        latency = totals.latency_s
        values = " / ".join(f"{each * 1e3:.0f}" for each in (latency.p50, latency.p95, latency.p99))
        rows.append(("latency p50 / p95 / p99", f"{values} ms"))
    rows.append(("bytes per frame", f"{totals.bytes_per_frame:,.0f}"))
    if len(totals.link_bytes) <= 8:
        rows += [(f"bytes {name}", f"{count:,.0f}") for name, count in totals.link_bytes.items()]
    rows.append(("switches", str(totals.switches)))
    if alone := totals.epochs.get(0):
        rows.append(("by the device alone, in outages or before a plan", f"{alone:,} results"))
    if totals.drop is not None:
        rows.append(("accuracy drop", f"{totals.drop:.2%}"))
    if totals.accuracy is not None:
        rows.append(("accuracy (top-1)", f"{totals.accuracy:.2%}"))
    rows.append(("dropped before admission", _counts(totals.drops)))
    rows.append(("admitted again", _counts(totals.readmitted)))
    return rows


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items()) or "none"
