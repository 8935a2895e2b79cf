"""Files of keys: what is written, what is refused, and the commands that do it."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from nodes.app import app
from nodes.keys import ALLOWED, Keyring, Peer, Role, allow, new_key, read_allowed, read_secret, write_allowed
from pipeline.errors import KeysError

PAIRS = [zmq.curve_keypair() for _ in range(8)]
names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True)
peers = st.builds(Peer, st.sampled_from(Role), st.sampled_from([public.decode() for public, _ in PAIRS]))
deployments = st.dictionaries(names, peers, max_size=8).filter(
    lambda found: len({peer.key for peer in found.values()}) == len(found)
)


def key(number: int = 0) -> str:
    """A public key."""
    return PAIRS[number][0].decode()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Keys of a device and a scheduler."""
    new_key(tmp_path / "keys", "camera", Role.DEVICE)
    new_key(tmp_path / "keys", "scheduler", Role.SCHEDULER)
    return tmp_path / "keys"


@given(found=deployments)
def test_what_is_written_is_read_back(tmp_path_factory: pytest.TempPathFactory, found: dict[str, Peer]) -> None:
    file = tmp_path_factory.getbasetemp() / "written.toml"
    write_allowed(file, found)
    assert read_allowed(file) == found


@given(name=st.text(max_size=12))
def test_no_name_leads_out_of_the_folder(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    folder = tmp_path_factory.mktemp("names") / "keys"
    try:
        new_key(folder, name, Role.EDGE)
    except KeysError:
        assert not folder.exists() or not list(folder.iterdir())
    else:
        assert {path.name for path in folder.iterdir()} == {ALLOWED, f"{name}.secret"}


def test_a_secret_is_for_its_owner_alone(folder: Path) -> None:
    assert stat.S_IMODE((folder / "camera.secret").stat().st_mode) == 0o600
    ring = Keyring(folder, "camera", Role.DEVICE)
    assert zmq.curve_public(ring.secret) == ring.public == ring.server_key("camera")
    assert ring.scheduler == "scheduler"


@pytest.mark.parametrize("mode", [0o640, 0o644, 0o604, 0o660, 0o620, 0o601])
def test_a_secret_that_others_can_read_is_refused(folder: Path, mode: int) -> None:
    (folder / "camera.secret").chmod(mode)
    with pytest.raises(KeysError, match=r"can be read by others .*chmod 600"):
        Keyring(folder, "camera", Role.DEVICE)


def test_keys_are_never_written_over(folder: Path) -> None:
    before = (folder / "camera.secret").read_bytes()
    with pytest.raises(KeysError, match="there already"):
        new_key(folder, "camera", Role.DEVICE)
    assert (folder / "camera.secret").read_bytes() == before
    with pytest.raises(KeysError, match="--replace"):
        allow(folder, "camera", key(), Role.DEVICE)
    allow(folder, "camera", key(), Role.DEVICE, replace=True)
    with pytest.raises(KeysError, match="another public key"):
        Keyring(folder, "camera", Role.DEVICE)


@pytest.mark.parametrize(
    "text",
    [
        '[a]\nrole = "device"\nkey = "short"',
        f'[a]\nrole = "king"\nkey = "{key()}"',
        f'[a]\nrole = "device"\nkey = "{key()}"\n[b]\nrole = "edge"\nkey = "{key()}"',
        f'[a]\nrole = "device"\nkey = "{key()}"\nmore = 1',
        f'["../a"]\nrole = "device"\nkey = "{key()}"',
        "not toml",
    ],
    ids=["short key", "unknown role", "shared key", "unknown field", "a path", "not toml"],
)
def test_a_bad_list_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / ALLOWED).write_text(text)
    with pytest.raises(KeysError):
        read_allowed(tmp_path / ALLOWED)


def test_a_key_for_another_role_is_refused(folder: Path) -> None:
    with pytest.raises(KeysError, match="has the role device, not cloud"):
        Keyring(folder, "camera", Role.CLOUD)
    with pytest.raises(KeysError, match="anabranch keys new"):
        Keyring(folder, "nobody", Role.CLOUD)


def test_a_secret_that_is_none_is_refused(folder: Path) -> None:
    (folder / "camera.secret").write_text("hello")
    with pytest.raises(KeysError, match="not a secret key"):
        read_secret(folder / "camera.secret")


def test_a_running_node_sees_who_is_allowed_later(folder: Path) -> None:
    ring = Keyring(folder, "camera", Role.DEVICE)
    assert ring.who(PAIRS[0][0]) is None
    allow(folder, "edge-1", key(), Role.EDGE)
    assert ring.who(PAIRS[0][0]) == ("edge-1", Role.EDGE)
    (folder / ALLOWED).write_text("not toml at all")
    assert ring.who(PAIRS[0][0]) == ("edge-1", Role.EDGE)


@pytest.mark.parametrize("head", ["-.", "--", "-h", "--k="])
def test_a_key_that_looks_like_an_option_is_allowed(tmp_path: Path, head: str) -> None:
    dashed = head + key()[len(head) :]
    found = CliRunner().invoke(app, ["keys", "allow", "big", dashed, "--role", "cloud", "--keys", str(tmp_path)])
    assert found.exit_code == 0, found.output
    assert read_allowed(tmp_path / ALLOWED) == {"big": Peer(Role.CLOUD, dashed)}


def test_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "anabranch.toml").write_text(
        '[scheduler]\nreports = "tcp://10.0.0.1:1"\nplans = "tcp://10.0.0.1:2"\n'
        '[[node]]\nname = "camera"\ntier = "device"\n[[node]]\nname = "worker"\ntier = "tile"\n'
    )
    run = CliRunner().invoke
    assert run(app, ["keys", "new", "--config", "anabranch.toml"]).exit_code == 0
    made = read_allowed(tmp_path / "keys" / ALLOWED)
    assert {name: peer.role for name, peer in made.items()} == {
        "camera": Role.DEVICE, "worker": Role.TILE, "scheduler": Role.SCHEDULER
    }  # fmt: skip
    assert run(app, ["keys", "allow", "big", key(), "--role", "cloud"]).exit_code == 0
    shown = run(app, ["keys", "show", "--json"])
    rows = {row["node"]: row for row in json.loads(shown.stdout)}
    assert rows["big"] == {"node": "big", "role": "cloud", "key": key(), "secret": "no"}
    assert rows["camera"]["secret"] == "yes"
    assert run(app, ["keys", "remove", "big"]).exit_code == 0
    assert set(read_allowed(tmp_path / "keys" / ALLOWED)) == set(made)
    assert isinstance(run(app, ["keys", "remove", "big"]).exception, KeysError)
    secrets = [file.read_text().strip() for file in (tmp_path / "keys").glob("*.secret")]
    assert len(secrets) == 3
    assert not any(secret in shown.stdout + run(app, ["keys", "show"]).stdout for secret in secrets)
    assert oct(os.stat(tmp_path / "keys").st_mode & 0o777) == "0o700"
    assert isinstance(run(app, ["keys", "new", "camera2"]).exception, KeysError)
