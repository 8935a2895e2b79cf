"""The whole examination, in the order in which things depend on each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nodes.agent import SchedulerAddress
from nodes.checkup import cluster, machine, peers
from nodes.checkup.echo import Prober
from nodes.checkup.findings import Finding, Status
from nodes.config import NodeConfig
from nodes.keys import Role
from nodes.sockets import LOOPBACK
from scheduler.reports import Endpoints


@dataclass(frozen=True)
class Case:
    """What is examined, from where."""

    name: str
    role: Role
    scheduler: SchedulerAddress | None = None
    nodes: tuple[NodeConfig, ...] = ()
    """Of the deployment file; empty without one."""
    peers: Mapping[str, Endpoints] = field(default_factory=dict)
    """Addresses that go before the reported ones."""
    codecs: tuple[str, ...] = ()
    """Codecs that the deployment asks for."""
    model: str = ""
    """Spec; empty: the model is not loaded, and fingerprints are only held against each other."""
    weights: Path | None = None
    keys: Path | None = None
    insecure: bool = False
    listen_s: float = 2.5
    """How long reports are listened for: two heartbeats and a half."""
    limit_s: float = 3.0
    """For a connection, an echo, or a probe."""


def examine(case: Case) -> Iterator[Finding]:
    """Every finding, as soon as it is known."""
    own = next((node for node in case.nodes if node.name == case.name), None)
    yield machine.versions()
    yield machine.threads(own, case.nodes)
    yield from machine.codecs(case.codecs)
    fingerprint = ""
    if case.model:
        finding, fingerprint = machine.model(case.model, case.weights)
        yield finding
    findings, keyring = machine.keys(case.keys, case.name, case.role, case.nodes)
    yield from findings
    if case.keys is not None and keyring is None:
        return  # nobody would take this node without its keys
    with Prober(case.name, keyring, keyring is not None or case.insecure, case.limit_s) as prober:
        yield from _network(case, prober, fingerprint)


def _network(case: Case, prober: Prober, fingerprint: str) -> Iterator[Finding]:
    found: dict[str, Endpoints] = {node.name: _configured(node) for node in case.nodes}
    tiles = {node.name for node in case.nodes if node.tier == "tile"}
    if case.scheduler is not None:
        findings, watch = cluster.scheduler(prober, case.scheduler, case.listen_s)
        yield from findings
        if watch.state is not None:
            yield from cluster.nodes(watch, case.nodes, fingerprint, case.listen_s)
        for report in watch.nodes():
            found[report.node] = report.endpoints
            if report.tier is None:
                tiles.add(report.node)
    for node, endpoints in case.peers.items():
        found[node] = _pinned(endpoints.frames, found.get(node))
    for node, endpoints in found.items():
        if node != case.name:
            yield from peers.examine(prober, node, endpoints, node in tiles)
    if case.scheduler is None and not found:
        mend = "give --config, --scheduler or --peer"
        yield Finding(machine.HERE, "deployment", Status.NOTE, "no other node is known", mend)


def _pinned(endpoint: str, known: Endpoints | None) -> Endpoints:
    """An address that the user gives, for the inbox that the node is known to have."""
    if known is not None and known.results:
        return Endpoints(results=endpoint)
    if known is not None and known.tiles and not known.frames:
        return Endpoints(tiles=endpoint)
    return Endpoints(frames=endpoint)


def _configured(node: NodeConfig) -> Endpoints:
    """Where the file says that a node is; nowhere where its port is free to choose, or only its own machine knows."""
    endpoint = node.advertise or node.listen
    if endpoint.endswith(":*") or endpoint.startswith(("tcp://*", "tcp://0.0.0.0", *LOOPBACK)):
        return Endpoints()
    if node.tier == "device":
        return Endpoints(results=endpoint)
    return Endpoints(tiles=endpoint) if node.tier == "tile" else Endpoints(frames=endpoint)
