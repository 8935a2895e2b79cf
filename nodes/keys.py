"""CURVE keys of a deployment: who takes part, in which role, and this node's own secret.

A folder of keys holds `allowed.toml`, which names every node with its role and public key and is the same on all
machines, and `NAME.secret`, which only the machine of that node has. Keys are 40 characters of Z85.
"""

from __future__ import annotations

import json
import logging
import os
import re
import stat
import threading
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path

import msgspec
import zmq

from pipeline import tablefile
from pipeline.errors import KeysError

logger = logging.getLogger(__name__)

ALLOWED = "allowed.toml"
MAX_FILE_BYTES = 1 << 20
"""Bound on a file of keys: about ten thousand nodes."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
"""A node's name becomes the name of a file."""

KEY = re.compile(r"[0-9a-zA-Z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}")
"""The alphabet of Z85 (ZeroMQ RFC 32)."""


class Role(StrEnum):
    """What a key may be used for; see `Purpose` for the sockets that admit it."""

    DEVICE = "device"
    EDGE = "edge"
    CLOUD = "cloud"
    TILE = "tile"
    SCHEDULER = "scheduler"
    VIEWER = "viewer"
    """Watches plans and reports, and sends nothing."""


class Purpose(StrEnum):
    """What a bound socket is for; the name is its ZAP domain."""

    FRAMES = "frames"
    RESULTS = "results"
    TILES = "tiles"
    """Orders and tiles on their way to a worker."""
    ANSWERS = "answers"
    """Tiles on their way back to the edge node."""
    REPORTS = "reports"
    PLANS = "plans"
    ECHOES = "echoes"
    """Answers to the pings of `anabranch doctor`."""


ADMITS: Mapping[Purpose, frozenset[Role]] = {
    Purpose.FRAMES: frozenset({Role.DEVICE, Role.EDGE, Role.CLOUD}),
    Purpose.RESULTS: frozenset({Role.EDGE, Role.CLOUD}),
    Purpose.TILES: frozenset({Role.EDGE}),
    Purpose.ANSWERS: frozenset({Role.TILE}),
    Purpose.REPORTS: frozenset({Role.DEVICE, Role.EDGE, Role.CLOUD, Role.TILE}),
    Purpose.PLANS: frozenset({Role.DEVICE, Role.EDGE, Role.CLOUD, Role.TILE, Role.VIEWER}),
    Purpose.ECHOES: frozenset({Role.DEVICE, Role.EDGE, Role.CLOUD, Role.TILE}),
}
"""Roles that may connect. The cloud sends pings to the nodes that send to it, hence to frames and to results."""


class Peer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A node that the deployment names."""

    role: Role
    key: str
    """Public, 40 characters of Z85."""


class Keyring:
    """One node's keys: its own pair, and everybody's public key. Safe to use from several threads.

    `allowed.toml` is read again when it has changed, so that a node can be added while the others run.

    Args:
        folder: holds `allowed.toml` and `NAME.secret`.
        name: this node.
        role: what it is started as.

    Raises:
        KeysError: a file is missing, can be read by others, holds no key, or disagrees with the other.
    """

    def __init__(self, folder: Path, name: str, role: Role) -> None:
        self.name = name
        self.role = role
        self._file = folder / ALLOWED
        self._lock = threading.Lock()
        self._stamp = _stamp(self._file)
        self._peers = read_allowed(self._file)
        self._names = {peer.key: name for name, peer in self._peers.items()}
        self.secret = read_secret(folder / f"{checked_name(name)}.secret")
        self.public = zmq.curve_public(self.secret)
        self._check_own()

    @classmethod
    def of_role(cls, folder: Path, role: Role) -> Keyring:
        """The keyring of the one node with this role (the scheduler, the viewer)."""
        return cls(folder, only(role, read_allowed(folder / ALLOWED), folder / ALLOWED), role)

    def _check_own(self) -> None:
        own = self._peers.get(self.name)
        if own is None or own.key != self.public.decode():
            condition = (
                "not named there" if own is None else "its secret belongs to another public key than it has there"
            )
            mend = f"anabranch keys allow {self.name} '{self.public.decode()}' --role {self.role}"
            raise KeysError(f"node {self.name} in {self._file}", condition, mend)
        if own.role != self.role:
            raise KeysError(f"node {self.name} in {self._file}", f"has the role {own.role}, not {self.role}")

    @property
    def peers(self) -> Mapping[str, Peer]:
        """Every node by name, as `allowed.toml` has them now."""
        with self._lock:
            self._reload()
            return self._peers

    @property
    def scheduler(self) -> str:
        """Name of the scheduler.

        Raises:
            KeysError: there is none, or more than one.
        """
        return only(Role.SCHEDULER, self.peers, self._file)

    def server_key(self, node: str) -> bytes:
        """The public key that a node must have where this one connects to it.

        Raises:
            KeysError: the deployment does not name the node.
        """
        peer = self.peers.get(node)
        if peer is None:
            raise KeysError(
                f"node {node}", f"not named in {self._file}", f"anabranch keys allow {node} KEY --role ROLE"
            )
        return peer.key.encode()

    def who(self, key: bytes) -> tuple[str, Role] | None:
        """Name and role of the node with this public key (Z85); None where the deployment names none."""
        peers = self.peers
        with self._lock:
            name = self._names.get(key.decode())
        return None if name is None else (name, peers[name].role)

    def admits(self, purpose: Purpose, name: str, role: Role) -> bool:
        """Whether that node may connect to a socket of this node: its role is for it, or it is this node itself."""
        return role in ADMITS[purpose] or name == self.name

    def _reload(self) -> None:
        stamp = _stamp(self._file)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            peers = read_allowed(self._file)
        except KeysError as error:
            logger.warning("%s; the keys read before stay allowed", error)
            return
        self._peers, self._names = peers, {peer.key: name for name, peer in peers.items()}
        logger.warning("%s has changed: %d nodes are allowed", self._file, len(peers))


def only(role: Role, peers: Mapping[str, Peer], file: Path) -> str:
    """The one node with a role.

    Raises:
        KeysError: there is none, or more than one.
    """
    found = [name for name, peer in peers.items() if peer.role is role]
    if len(found) != 1:
        mend = f"name one: anabranch keys new {role} --role {role}"
        raise KeysError(f"keys {file}", f"{len(found)} nodes with the role {role}", mend)
    return found[0]


def _stamp(file: Path) -> tuple[int, int]:
    try:
        status = file.stat()
    except OSError:
        return (0, 0)
    return (status.st_mtime_ns, status.st_size)


def checked_name(name: str) -> str:
    """A node's name that may be part of a file's name.

    Raises:
        KeysError: it has other characters than letters, digits, `.`, `_` and `-`.
    """
    if not NAME.fullmatch(name):
        raise KeysError(f"name {name!r}", "not a node's name", "use letters, digits, `.`, `_` and `-`")
    return name


def checked_key(key: str) -> str:
    """A public key.

    Raises:
        KeysError: not 40 characters of Z85.
    """
    if not KEY.fullmatch(key):
        raise KeysError(
            f"key {key[:48]!r}", "not a public key", "give the 40 characters that `anabranch keys show` tells"
        )
    return key


def read_allowed(file: Path) -> dict[str, Peer]:
    """Who takes part, by name.

    Raises:
        KeysError: the file is missing, or holds something else than it should.
    """
    try:
        peers = msgspec.toml.decode(_read(file), type=dict[str, Peer])
    except tablefile.MALFORMED as error:
        raise KeysError(f"keys {file}", str(error), "see docs/deployment.md") from error
    for name, peer in peers.items():
        checked_name(name)
        checked_key(peer.key)
    if len({peer.key for peer in peers.values()}) != len(peers):
        raise KeysError(f"keys {file}", "two nodes share a key", "make one for each: anabranch keys new NAME")
    return peers


def write_allowed(file: Path, peers: Mapping[str, Peer]) -> None:
    """Put the file in place as a whole, so that a running node never reads half of it.

    Raises:
        KeysError: it cannot be written.
    """
    lines = ["# Who takes part in this deployment: public keys, the same file on every machine.\n"]
    lines += [
        f'\n[{json.dumps(name)}]\nrole = "{peer.role}"\nkey = "{peer.key}"\n' for name, peer in sorted(peers.items())
    ]
    fresh = file.with_name(file.name + ".new")
    try:
        fresh.write_text("".join(lines))
        os.replace(fresh, file)
    except OSError as error:
        raise KeysError(f"keys {file}", error.strerror or "cannot be written") from error


def allow(folder: Path, name: str, key: str, role: Role, replace: bool = False) -> None:
    """Name a node in `allowed.toml`.

    Raises:
        KeysError: no key or name, or the name has another key or role already and `replace` is not given.
    """
    file, peer = folder / ALLOWED, Peer(role, checked_key(key))
    peers = read_allowed(file) if file.exists() else {}
    known = peers.get(checked_name(name))
    if known not in (None, peer) and not replace:
        raise KeysError(f"node {name}", f"has another key or role in {file} already", "give --replace to change it")
    others = {other: each for other, each in peers.items() if other != name}
    if peer.key in {each.key for each in others.values()}:
        raise KeysError(f"key {key}", "belongs to another node already", "make one for each: anabranch keys new NAME")
    write_allowed(file, {**others, name: peer})


def remove(folder: Path, name: str) -> None:
    """Take a node out of `allowed.toml`; its secret, where it is here, stays.

    Raises:
        KeysError: no such node, or the file cannot be written.
    """
    file = folder / ALLOWED
    peers = read_allowed(file)
    if name not in peers:
        raise KeysError(f"node {name}", f"not in {file}", f"it has {', '.join(peers)}")
    write_allowed(file, {other: peer for other, peer in peers.items() if other != name})


def new_key(folder: Path, name: str, role: Role) -> Peer:
    """Make a node's pair: the secret in `NAME.secret`, readable by its owner alone, the public key in `allowed.toml`.

    Raises:
        KeysError: the node has keys already, or a file cannot be written.
    """
    file = folder / f"{checked_name(name)}.secret"
    public, secret = zmq.curve_keypair()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise KeysError(f"secret {file}", "is there already", "remove it to make new keys for this node") from error
    except OSError as error:
        raise KeysError(f"secret {file}", error.strerror or "cannot be written") from error
    with os.fdopen(handle, "wb") as out:
        out.write(secret + b"\n")
    allow(folder, name, public.decode(), role, replace=True)
    return Peer(role, public.decode())


def read_secret(file: Path) -> bytes:
    """A node's secret key, Z85.

    Raises:
        KeysError: it is missing, readable by others than its owner, or no key.
    """
    text = _read(file, private=True).strip()
    if not KEY.fullmatch(text.decode("ascii", "replace")):
        raise KeysError(f"secret {file}", "not a secret key", "make one: anabranch keys new NAME")
    return text


def _read(file: Path, private: bool = False) -> bytes:
    try:
        with file.open("rb") as opened:
            mode = stat.S_IMODE(os.fstat(opened.fileno()).st_mode)
            if private and os.name == "posix" and mode & 0o077:
                raise KeysError(
                    f"secret {file}", f"can be read by others (mode {mode:04o})", f"chmod 600 {file}, or make new keys"
                )
            data = opened.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        mend = "make one: anabranch keys new NAME" if isinstance(error, FileNotFoundError) else ""
        raise KeysError(f"keys {file}", (error.strerror or "cannot be read").lower(), mend) from error
    if len(data) > MAX_FILE_BYTES:
        raise KeysError(f"keys {file}", f"larger than {MAX_FILE_BYTES} bytes")
    return data
