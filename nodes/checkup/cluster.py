"""What the scheduler, and through it every node's own report, says of the deployment."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from nodes.agent import SchedulerAddress
from nodes.checkup.echo import Prober, wait_open
from nodes.checkup.findings import Finding, Status
from nodes.config import NodeConfig
from nodes.keys import Purpose
from nodes.view import Watch
from pipeline.errors import AnabranchError
from scheduler.commands import ClusterState
from scheduler.events import VIEWERS, topic
from scheduler.reports import Report

SCHEDULER = "scheduler"


def scheduler(prober: Prober, address: SchedulerAddress, listen_s: float) -> tuple[list[Finding], Watch]:
    """Whether both sockets of the scheduler take this node, and what is heard from it in so many seconds."""
    watch = Watch()
    try:
        plans, _ = prober.factory.subscriber(address.plans, bind=False, topics=(topic(VIEWERS),))
    except AnabranchError as error:
        return [Finding(SCHEDULER, "plans", Status.WRONG, f"{error.thing}: {error.condition}", error.mend)], watch
    with plans:
        found = [_opened(prober, "plans", address.plans)]
        if prober.may_enter(Purpose.REPORTS, prober.scheduler):
            reports, _ = prober.factory.publisher(address.reports, bind=False)
            with reports:
                found.append(_opened(prober, "reports", address.reports))
        deadline_s = time.monotonic() + listen_s
        while found[0].status is Status.OK and (left_s := deadline_s - time.monotonic()) > 0:
            if plans.poll(int(left_s * 1000) + 1):
                watch.take(plans.recv_multipart()[-1])
    if found[0].status is Status.OK and watch.state is None:
        mend = "look into its log, and check that it is the same release"
        found.append(Finding(SCHEDULER, "plans", Status.WRONG, f"it says nothing in {listen_s:.0f} s", mend))
    return found, watch


def _opened(prober: Prober, what: str, endpoint: str) -> Finding:
    try:
        wait_open(prober.factory, endpoint, prober.limit_s)
    except AnabranchError as error:
        return Finding(SCHEDULER, what, Status.WRONG, f"{error.thing}: {error.condition}", error.mend)
    return Finding(SCHEDULER, what, Status.OK, f"takes this node at {endpoint}")


def nodes(watch: Watch, expected: Sequence[NodeConfig], fingerprint: str, listen_s: float) -> Iterator[Finding]:
    """Whether everybody reports, as what the deployment file says, with the same model, and refuses nothing."""
    tiers = {node.name: node.tier for node in expected}
    for name in sorted(tiers.keys() - watch.reports.keys()):
        mend = f"start it: anabranch {tiers[name]} --name {name}; its log says what keeps it"
        yield Finding(name, "reports", Status.WRONG, f"nothing heard in {listen_s:.0f} s", mend)
    for report in watch.nodes():
        yield from _node(report, tiers.get(report.node), fingerprint)
    if watch.state is not None:
        yield from _state(watch.state)


def _node(report: Report, tier: str | None, fingerprint: str) -> Iterator[Finding]:
    name, said = report.node, str(report.tier or "tile")
    load = report.load
    text = f"{said}, {load.cpu_node:.2f} of {load.cores} cores busy, {load.memory_bytes / 1e6:.0f} MB"
    if tier is not None and tier != said:
        yield Finding(name, "reports", Status.WRONG, f"runs as {said}, not as {tier}", f"start it: anabranch {tier}")
    else:
        yield Finding(name, "reports", Status.OK, text)
    if fingerprint and report.model != fingerprint:
        mend = "start all nodes with the same model and weights"
        yield Finding(name, "model", Status.WRONG, f"holds {report.model[:12]}, here it is {fingerprint[:12]}", mend)
    elif fingerprint:
        yield Finding(name, "model", Status.OK, "the same fingerprint")
    for readiness in report.epochs:
        for epoch, reason in readiness.refused.items():
            text = f"cannot run plan {readiness.stream}#{epoch}: {reason}"
            yield Finding(name, "plans", Status.WRONG, text, "mend what it says, or start it with the same release")


def _state(state: ClusterState) -> Iterator[Finding]:
    for node in state.nodes:
        if node.refused:
            yield Finding(node.node, "versions", Status.WRONG, f"refused by the scheduler: {node.refused}")
        if not node.alive:
            mend = "start it again, or see what cut it off"
            yield Finding(node.node, "reports", Status.WRONG, f"gone: heard last {node.age_s:.0f} s ago", mend)
    for link in state.links:
        figures = {"goodput_bps": link.goodput_bps, "rtt_s": link.rtt_s}
        text = f"{link.goodput_bps / 1e6:.1f} Mbit/s (+-{link.uncertainty:.0%}), round trip {link.rtt_s * 1e3:.1f} ms"
        about = f"{link.source} -> {link.target}"
        yield Finding(about, "link as planned with", Status.OK, text, figures=figures)
    for stream in state.streams:
        if stream.problem:
            yield Finding(stream.device, "stream", Status.NOTE, f"{stream.stream}: {stream.problem}")
        if stream.waiting_for:
            text = f"{stream.stream} waits for {', '.join(stream.waiting_for)}"
            yield Finding(stream.device, "stream", Status.NOTE, text, "start them, or wait until they are warm")
