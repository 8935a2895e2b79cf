"""`anabranch doctor` beside a deployment that is well, and beside ones that are not. Real sockets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from nodes.agent import SchedulerAddress
from nodes.app import app
from nodes.checkup.doctor import Case, examine
from nodes.checkup.findings import Finding, Status, is_well
from nodes.config import NodeConfig
from nodes.keys import Role, allow, new_key
from nodes.local.ports import Ports
from pipeline.model.spec import load_model
from pipeline.plan import Tier
from scheduler.reports import Endpoints
from tests.nodes.processes import eventually
from tests.nodes.tiny import NAMES, SPEC, Deployment

LISTEN_S = 0.5
NODES = tuple(NodeConfig(name, str(tier)) for tier, name in NAMES.items())  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keys of everybody in `tiny`, and of a tile worker that does not run."""
    folder = tmp_path_factory.mktemp("doctor") / "keys"
    for name, role in {"scheduler": Role.SCHEDULER, "tile-1": Role.TILE, **{NAMES[t]: Role(t) for t in Tier}}.items():
        new_key(folder, name, role)
    return folder


@pytest.fixture(scope="module")
def running(folder: Path) -> Iterator[tuple[Deployment, SchedulerAddress]]:
    """A whole deployment with keys, all of whose nodes have reported."""
    deployment = Deployment(keys=folder)
    with deployment.scheduler() as address:
        try:
            nodes = [deployment.node(Tier.EDGE, address), deployment.node(Tier.CLOUD, address)]
            device = deployment.device(address)
            heard = [node.agent for node in (*nodes, device)]
            eventually(lambda: all(agent and agent.heard_at_s for agent in heard), "the scheduler's word")
            yield deployment, address
        finally:
            deployment.stop()


@pytest.fixture
def case(running: tuple[Deployment, SchedulerAddress], folder: Path) -> Case:
    """The deployment as the machine of the edge node sees it."""
    return Case("edge-1", Role.EDGE, running[1], NODES, model=SPEC, keys=folder, listen_s=LISTEN_S)


def found(findings: list[Finding], about: str, check: str) -> Finding:
    """The one finding of that check."""
    (one,) = [finding for finding in findings if (finding.about, finding.check) == (about, check)]
    return one


def test_a_deployment_that_is_well(case: Case) -> None:
    findings = list(examine(case))
    assert is_well(findings), [finding for finding in findings if finding.status is Status.WRONG]
    for about, check in (
        ("cloud-1", "frames"),
        ("device-1", "results"),
        ("scheduler", "plans"),
        ("scheduler", "reports"),
    ):
        assert "takes this node" in found(findings, about, check).text
    for peer in ("cloud-1", "device-1"):
        assert found(findings, peer, "model").text == "the same fingerprint"
        assert 0 < found(findings, peer, "echo").figures["rtt_s"] < case.limit_s
        # Both ends are one machine: what is left is half a round trip.
        offset_s = found(findings, peer, "clock").figures["clock_offset_s"]
        assert abs(offset_s) <= found(findings, peer, "echo").figures["rtt_s"] + 1e-3
    assert found(findings, "cloud-1", "link").figures["goodput_bps"] > 1e6


def test_each_role_sees_what_it_may(case: Case, running: tuple[Deployment, SchedulerAddress]) -> None:
    findings = list(examine(replace(case, name="tile-1", role=Role.TILE, model="")))
    assert is_well(findings), [finding for finding in findings if finding.status is Status.WRONG]
    assert "has no business there" in found(findings, "cloud-1", "frames").text
    assert "takes this node" in found(findings, "edge-1", "answers").text


@pytest.mark.parametrize(
    ("change", "about", "check", "words"),
    [
        ({"model": "tests.nodes.tiny:other_net"}, "cloud-1", "model", "here it is"),
        ({"model": "tests.nodes.tiny:no_such_net"}, "this machine", "model", "no_such_net"),
        ({"codecs": ("fp32", "zip")}, "this machine", "codecs", "wanted and unknown"),
        ({"nodes": (*NODES, NodeConfig("tile-1", "tile"))}, "tile-1", "reports", "nothing heard"),
        ({"nodes": (*NODES, NodeConfig("camera", "device"))}, "camera", "keys", "not named"),
        ({"nodes": (NodeConfig("cloud-1", "edge"),)}, "cloud-1", "reports", "runs as cloud"),
        ({"role": Role.CLOUD}, "this machine", "keys", "has the role edge, not cloud"),
        ({"keys": None}, "scheduler", "plans", "it has keys and this node has none"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_found(case: Case, change: dict[str, object], about: str, check: str, words: str) -> None:
    findings = list(examine(replace(case, **change)))  # type: ignore[arg-type]
    assert not is_well(findings)
    wrong = [one for one in findings if one.status is Status.WRONG and (one.about, one.check) == (about, check)]
    assert wrong and words in wrong[0].text, findings


def test_a_peer_that_is_not_there(case: Case) -> None:
    with Ports() as ports:
        nowhere = f"tcp://127.0.0.1:{ports.reserve()}"
        findings = list(examine(replace(case, model="", peers={"cloud-1": Endpoints(frames=nowhere)})))
    assert "nothing listens there" in found(findings, "cloud-1", "frames").text
    assert not is_well(findings)


def test_a_key_that_nobody_allows(case: Case, folder: Path, tmp_path: Path) -> None:
    """The doctor's own key is new: the scheduler and the peers turn it away, and it says so of each."""
    new_key(tmp_path, "edge-1", Role.EDGE)
    lines = json.loads(CliRunner().invoke(app, ["keys", "show", "--json", "--keys", str(folder)]).stdout)
    for line in lines:
        if line["node"] != "edge-1":
            allow(tmp_path, line["node"], line["key"], Role(line["role"]))
    endpoint = {"cloud-1": _frames(case, "cloud-1")}
    findings = list(examine(replace(case, model="", keys=tmp_path, peers=endpoint)))
    assert "refuses this node's key" in found(findings, "scheduler", "plans").text
    assert "refuses this node's key" in found(findings, "cloud-1", "frames").text


def _frames(case: Case, node: str) -> Endpoints:
    text = found(list(examine(replace(case, model=""))), node, "frames").text
    return Endpoints(frames=text.rpartition(" ")[2])


def test_the_command(case: Case, folder: Path, tmp_path: Path) -> None:
    assert case.scheduler is not None
    file = tmp_path / "anabranch.toml"
    nodes = "".join(f'[[node]]\nname = "{node.name}"\ntier = "{node.tier}"\n' for node in NODES)
    file.write_text(
        f'model = "{SPEC}"\nkeys = "{folder}"\n[scheduler]\nreports = "{case.scheduler.reports}"\n'
        f'plans = "{case.scheduler.plans}"\n{nodes}'
    )
    run = CliRunner().invoke
    well = run(app, ["doctor", "--config", str(file), "--name", "edge-1", "--json"])
    assert well.exit_code == 0, well.output
    account = json.loads(well.stdout)
    assert account["ok"] and {"about", "check", "status", "text", "mend", "figures"} == account["findings"][0].keys()
    file.write_text(file.read_text().replace('name = "cloud-1"', 'name = "cloud-2"'))
    ill = run(app, ["doctor", "--config", str(file), "--name", "edge-1"])
    assert ill.exit_code == 1
    assert "cloud-2" in ill.stdout and "nothing heard" in ill.stdout
    assert load_model(SPEC).captured.graph.fingerprint in ill.stdout.replace("\n", "") or "fingerprint" in ill.stdout
