"""`anabranch doctor`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from nodes.checkup.doctor import Case, examine
from nodes.checkup.findings import as_json, as_table, is_well
from nodes.commands import options as opt
from nodes.config import read_deployment
from nodes.keys import Role
from pipeline.errors import ConfigError


def doctor(
    config: opt.Config = None,
    name: Annotated[str, typer.Option(help="Node that this machine is, and speaks as; `scheduler` for that one.")] = "",
    role: Annotated[Role, typer.Option(help="What the node is.")] = Role.VIEWER,
    scheduler: opt.Scheduler = "",
    peer: opt.Peer = None,
    model: Annotated[str, typer.Option(help="Compare fingerprints with this model; empty: do not load one.")] = "",
    weights: opt.Weights = None,
    keys: opt.Keys = None,
    insecure: opt.Insecure = False,
    timeout: Annotated[float, typer.Option(help="Seconds for a connection, an echo, or a probe.", min=0.1)] = 3.0,
    json: Annotated[bool, typer.Option("--json", help="One JSON object: ok, and the findings.")] = False,
) -> None:
    """Check a deployment from this node: keys, versions, models, codecs, who is reached, clocks, links, threads.

    Says what to mend, and ends with exit code 1 where something is wrong. It may run beside the node itself.

    Examples:

        anabranch doctor --config anabranch.toml --name edge-1

        anabranch doctor --name edge-1 --role edge --keys keys --scheduler tcp://10.0.0.1:5700,tcp://10.0.0.1:5701
    """
    case = Case(
        name or "doctor", role, opt.scheduler_address(scheduler), peers=opt.peer_endpoints(peer or ()), model=model,
        weights=weights, keys=keys, insecure=insecure, limit_s=timeout,
    )  # fmt: skip
    if config is not None:
        case = _of_file(config, case)
    console = Console()
    if json:
        findings = list(examine(case))
        typer.echo(as_json(findings))
    else:
        with console.status("examining"):
            findings = list(examine(case))
        console.print(as_table(findings))
    if not is_well(findings):
        sys.exit(1)


def _of_file(config: Path, case: Case) -> Case:
    if case.name == "doctor":
        raise ConfigError("anabranch doctor", "no --name", "say which node of the file this machine is")
    deployment = read_deployment(config)
    role = Role.SCHEDULER if case.name == "scheduler" else Role(deployment.named(case.name).tier)
    return Case(
        case.name, role, deployment.scheduler.address, deployment.node, case.peers,
        tuple(filter(None, deployment.scheduler.codec.split(","))), deployment.model, deployment.weights,
        deployment.keys, deployment.insecure, limit_s=case.limit_s,
    )  # fmt: skip
