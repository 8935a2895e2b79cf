"""From the scheduler's options to its decision core."""

from __future__ import annotations

import platform
import secrets
import sys
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

import msgspec
import torch

from nodes.config import read_deployment
from nodes.parsing import parse_names, read_graph
from nodes.replayed import TrueRates, read_links
from pipeline.errors import ConfigError
from pipeline.model.graph import ModelGraph
from pipeline.model.spec import load_model
from pipeline.plan import Plan
from scheduler.advising import PlannerAdvisor
from scheduler.advisor import NoAdvisor
from scheduler.catalogue import MeasuredCatalogue
from scheduler.core import CoreConfig, SchedulerCore
from scheduler.events import VIEWERS, StreamSettings
from scheduler.foresight import ORACLE, Foresight, OracleCore
from scheduler.handmade import Tiling, plan_of, tiled
from scheduler.insisting import Insisting
from scheduler.joined import Joined
from scheduler.objective import Objective
from scheduler.packing import arithmetic, measured
from scheduler.planners import make
from scheduler.problem import Problem
from scheduler.profile import Profile
from scheduler.profile import load as load_profile
from scheduler.service import Core
from scheduler.tiling import Tiler, tile_table
from scheduler.world import Advisor

FIXED = "fixed"

MAX_DROP = 0.01
"""Accuracy that a plan may cost where nobody said otherwise: one percentage point."""


@dataclass(frozen=True)
class Deciding:
    """What the scheduler is started with."""

    model: str = "builtin"
    weights: Path | None = None
    graph: Path | None = None
    planner: str = "fixed"
    cut: str = ""
    codec: str = "fp32"
    nodes: str = "device=device-1,edge=edge-1,cloud=cloud-1"
    profiles: tuple[str, ...] = ()
    """NODE=FILE each; `*=FILE` for the nodes that have none of their own."""
    calibration: Path | None = None
    objective: Objective = field(default_factory=lambda: Objective(max_drop=MAX_DROP))
    links: Path | None = None
    """`links.json` of a replay: the links that there are. Without it, any two nodes may be joined."""
    tiling: Tiling = field(default_factory=Tiling)
    incarnation: str = field(default_factory=lambda: secrets.token_hex(8))
    """Of this start; a log is replayed under the one that its header names."""

    def resolved(self, config: Path | None) -> Deciding:
        """With what the deployment file says, where one is given."""
        if config is None:
            return self
        deployment = read_deployment(config)
        own = deployment.scheduler
        first = {node.tier: node.name for node in reversed(deployment.node) if node.tier != "tile"}
        nodes = ",".join(f"{tier}={name}" for tier, name in first.items())
        return replace(
            self, model=deployment.model, weights=deployment.weights, planner=own.planner, cut=own.cut,
            codec=own.codec, nodes=nodes, profiles=own.profiles, calibration=own.calibration,
            objective=Objective.parse(own.objective, max_drop=own.max_drop),
        )  # fmt: skip


def build_core(deciding: Deciding) -> tuple[Core, bytes]:
    """The core, and the header line of its event log.

    Raises:
        AnabranchError: a model, cut, codec or planner that does not work.
    """
    graph = read_graph(deciding.graph) if deciding.graph else _graph(deciding)
    settings = StreamSettings(planner=deciding.planner, objective=deciding.objective, plan=_fixed_plan(deciding, graph))
    links = None if deciding.links is None else frozenset(read_links(deciding.links))
    config = CoreConfig(deciding.incarnation, model=graph.fingerprint, settings=settings, links=links)
    core = SchedulerCore(_advisor(deciding, graph), config)
    header = _header(deciding, graph, settings)
    if deciding.planner == ORACLE:
        return OracleCore(core, _foresight(deciding, graph), settings), header
    return core, header


def _advisor(deciding: Deciding, graph: ModelGraph) -> Advisor:
    if deciding.planner in (FIXED, ORACLE):
        return NoAdvisor()
    advisor = Insisting(PlannerAdvisor(_catalogue(deciding, graph), {deciding.planner: make(deciding.planner)}))
    return advisor if deciding.links is None else Joined(advisor, read_links(deciding.links))


def _catalogue(deciding: Deciding, graph: ModelGraph) -> MeasuredCatalogue:
    if not deciding.profiles:
        mend = "measure one on each machine with `anabranch profile`, and name it with --profile NODE=FILE"
        raise ConfigError(f"planner {deciding.planner}", "it needs the nodes' profiles", mend)
    profiles = dict(_profile(text, graph) for text in deciding.profiles)
    # Without a calibration, arithmetic: under it only exact codecs keep a bound on the accuracy drop.
    packing = measured(graph, deciding.calibration) or arithmetic(graph)
    return MeasuredCatalogue(graph, profiles, packing, _tiler(deciding, graph))


def _tiler(deciding: Deciding, graph: ModelGraph) -> Tiler | None:
    """Weighs tiles where there may be any: for that the network itself is needed, not only its graph."""
    if deciding.tiling.count < 2:
        return None
    captured = load_model(deciding.model, weights=deciding.weights).captured
    if captured.graph.fingerprint != graph.fingerprint:
        raise ConfigError("--tiles", "the graph is not that of the model", "give --model and --weights as the nodes do")
    return partial(tile_table, captured, codec=deciding.tiling.codec)


def _foresight(deciding: Deciding, graph: ModelGraph) -> Foresight:
    if deciding.links is None:
        raise ConfigError(f"planner {ORACLE}", "it needs traces to know ahead", "use it in a replay")
    catalogue = _catalogue(deciding, graph)
    nodes = parse_names(deciding.nodes)
    times = {name: catalogue.times(graph.fingerprint, name, "") for name in nodes.values()}
    problem = Problem(
        graph=graph,
        stream=VIEWERS,
        nodes=nodes,
        times={name: found for name, found in times.items() if found is not None},
        packing=catalogue.packing(graph.fingerprint),
        links={},
        objective=deciding.objective,
        fills_up=deciding.objective.fills_up,
        hedges=deciding.objective.hedges,
    )
    tiers = {name: tier for tier, name in nodes.items()}
    hops = {name: (tiers[name[0]], tiers[name[1]]) for name in read_links(deciding.links)}
    return Foresight(problem, TrueRates(deciding.links, hops).ahead)


def _profile(text: str, graph: ModelGraph) -> tuple[str, Profile]:
    node, equals, path = text.partition("=")
    if not (node and equals and path):
        raise ConfigError(f"--profile {text}", "not NODE=FILE", "for example edge-1=edge.json, or *=any.json")
    return node, load_profile(Path(path), graph)


def _graph(deciding: Deciding) -> ModelGraph:
    return load_model(deciding.model, weights=deciding.weights).captured.graph


def _fixed_plan(deciding: Deciding, graph: ModelGraph) -> Plan | None:
    if deciding.planner != FIXED:
        return None
    plan = plan_of(graph, "*", parse_names(deciding.nodes), deciding.cut, deciding.codec)
    return tiled(plan, graph, deciding.tiling)


def _header(deciding: Deciding, graph: ModelGraph, settings: StreamSettings) -> bytes:
    """The log's first line describes it: what was started, with which versions, on what, by which clock."""
    header = {
        "log": "anabranch events",
        "format": 1,
        "scheduler": deciding.incarnation,
        "anabranch": version("anabranch"),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "machine": f"{platform.system()} {platform.machine()}",
        "command": sys.argv[1:],
        "clock": "monotonic seconds of the scheduler's machine",
        "model": graph.name,
        "fingerprint": graph.fingerprint,
        "settings": msgspec.to_builtins(settings),
    }
    return msgspec.json.encode(header) + b"\n"
