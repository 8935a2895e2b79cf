"""Checks that need no network: versions, torch, codecs, the model, and this node's keys."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

import torch
import zmq

from nodes.checkup.findings import Finding, Status
from nodes.config import NodeConfig
from nodes.keys import Keyring, Role
from pipeline.errors import AnabranchError, KeysError
from pipeline.frames.wire import WIRE_VERSION
from pipeline.model.graph import TensorSpec
from pipeline.model.spec import load_model
from pipeline.packing import codec
from pipeline.packing.plain import DTYPES
from scheduler.reports import PROTOCOL_VERSION

HERE = "this machine"
PROBES = (TensorSpec("activation", (1, 8, 8, 8), "float32"), TensorSpec("picture", (1, 3, 32, 32), "uint8"))
"""Some codecs carry pictures alone, others everything but pictures."""


def versions() -> Finding:
    """What runs here, for a comparison by eye; nodes of other wire or protocol versions are refused by themselves."""
    words = (
        f"anabranch {version('anabranch')}, wire {WIRE_VERSION}, protocol {PROTOCOL_VERSION}, "
        f"python {platform.python_version()}, torch {torch.__version__}, libzmq {zmq.zmq_version()}"
    )
    if not zmq.has("curve"):
        return Finding(HERE, "versions", Status.WRONG, f"{words}, built without CURVE", "install pyzmq from its wheel")
    return Finding(HERE, "versions", Status.OK, words)


def threads(own: NodeConfig | None, nodes: Sequence[NodeConfig]) -> Finding:
    """Whether torch asks for more threads than this machine has cores, all its nodes together."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    default = torch.get_num_threads()
    neighbours = [node for node in nodes if own is not None and host(node.listen) == host(own.listen)]
    wanted = sum(node.torch_threads or default for node in neighbours) or default
    names = ", ".join(node.name for node in neighbours) or "a node"
    text = f"{names} here: {wanted} torch threads on {cores} cores"
    figures = {"torch_threads": float(wanted), "cores": float(cores)}
    if wanted <= cores:
        return Finding(HERE, "torch threads", Status.OK, text, figures=figures)
    mend = "set torch_threads so that they fit: threads that wait for a core make every frame late"
    return Finding(HERE, "torch threads", Status.NOTE, text, mend, figures)


def codecs(wanted: Sequence[str]) -> Iterator[Finding]:
    """Whether every codec packs and unpacks on this machine, those of the deployment above all."""
    failed = {}
    for name in codec.names():
        errors = [error for spec in PROBES if (error := _error_of(name, spec))]
        if len(errors) == len(PROBES):
            failed[name] = errors[0]
    for name in dict.fromkeys(wanted):
        if name not in codec.names():
            known = ", ".join(codec.names())
            yield Finding(HERE, "codecs", Status.WRONG, f"codec {name!r} is wanted and unknown", f"known are {known}")
    for name, reason in failed.items():
        status = Status.WRONG if name in wanted else Status.NOTE
        yield Finding(HERE, "codecs", status, f"codec {name} does not work: {reason}", "install anabranch anew")
    if not failed:
        yield Finding(HERE, "codecs", Status.OK, f"{len(codec.names())} work: {', '.join(codec.names())}")


def _error_of(name: str, spec: TensorSpec) -> str:
    zeros = torch.zeros(spec.shape, dtype=DTYPES[spec.dtype])
    try:
        chosen = codec.get(name)
        chosen.decode(bytearray(chosen.encode(zeros, spec)), spec)
    except (AnabranchError, ImportError, RuntimeError, OSError) as error:
        return str(error)
    return ""


def model(spec: str, weights: Path | None) -> tuple[Finding, str]:
    """Whether the model loads, and its fingerprint (empty where it does not)."""
    try:
        graph = load_model(spec, weights=weights).captured.graph
    except AnabranchError as error:
        return Finding(HERE, "model", Status.WRONG, f"{error.thing}: {error.condition}", error.mend), ""
    return Finding(HERE, "model", Status.OK, f"{graph.name}, fingerprint {graph.fingerprint}"), graph.fingerprint


def keys(
    folder: Path | None, name: str, role: Role, nodes: Sequence[NodeConfig]
) -> tuple[list[Finding], Keyring | None]:
    """Whether this node's keys are in order, and name everybody whom the deployment file names."""
    if folder is None:
        beyond = [node.name for node in nodes if not host(node.listen).startswith(("127.", "localhost"))]
        if not beyond:
            return [Finding(HERE, "keys", Status.OK, "none, and all nodes keep to loopback")], None
        mend = "make keys: anabranch keys new --config FILE, and keys = DIR in the file"
        text = f"none: whatever {', '.join(beyond)} send can be read and forged on the way"
        return [Finding(HERE, "keys", Status.NOTE, text, mend)], None
    try:
        ring = Keyring(folder, name, role)
        scheduler = ring.scheduler
    except KeysError as error:
        return [Finding(HERE, "keys", Status.WRONG, f"{error.thing}: {error.condition}", error.mend)], None
    found = []
    for node in nodes:
        peer = ring.peers.get(node.name)
        if peer is None or peer.role != node.tier:
            what = "not named" if peer is None else f"named as {peer.role}, not as {node.tier}"
            mend = f"anabranch keys allow {node.name} KEY --role {node.tier} --replace"
            found.append(Finding(node.name, "keys", Status.WRONG, f"{what} in {folder}", mend))
    text = f"{name} has the role {role}, {len(ring.peers)} nodes are allowed, the scheduler is {scheduler}"
    return [Finding(HERE, "keys", Status.OK, text), *found], ring


def host(endpoint: str) -> str:
    """The host of `tcp://HOST:PORT`."""
    return endpoint.partition("://")[2].rpartition(":")[0]
