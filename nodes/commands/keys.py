"""`anabranch keys`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from nodes.config import read_deployment
from nodes.keys import ALLOWED, Role, allow, new_key, read_allowed, read_secret, remove
from pipeline.errors import KeysError

app = typer.Typer(help="Keys of a deployment: who may take part, in which role.", no_args_is_help=True)

Folder = Annotated[Path, typer.Option("--keys", help="Folder of keys.")]
RoleOption = Annotated[Role | None, typer.Option(help="What the node is: a key opens only the sockets of its role.")]


@app.command("new")
def new(
    name: Annotated[str, typer.Argument(help="The node; with --config and no name, every node of the file.")] = "",
    role: RoleOption = None,
    config: Annotated[Path | None, typer.Option(help="Deployment file that says which nodes there are.")] = None,
    keys: Folder = Path("keys"),
) -> None:
    """Make a node's keys: the secret in NAME.secret for this machine alone, the public key in allowed.toml for all.

    Examples:

        anabranch keys new camera --role device

        anabranch keys new --config anabranch.toml
    """
    for each, its_role in _wanted(name, role, config).items():
        peer = new_key(keys, each, its_role)
        typer.echo(f"{each}: secret in {keys / f'{each}.secret'}; on the other machines:")
        typer.echo(f"  anabranch keys allow {each} '{peer.key}' --role {peer.role}")


def _wanted(name: str, role: Role | None, config: Path | None) -> dict[str, Role]:
    if config is not None:
        nodes = {node.name: Role(node.tier) for node in read_deployment(config).node}
        nodes["scheduler"] = Role.SCHEDULER
        if name and name not in nodes:
            raise KeysError(f"node {name}", f"not in {config}", f"it has {', '.join(nodes)}")
        return {name: nodes[name]} if name else nodes
    known = role or (Role(name) if name in ("scheduler", "viewer") else None)
    if not name or known is None:
        raise KeysError("keys new", "no name and role", "for example: anabranch keys new camera --role device")
    return {name: known}


# A key may begin with a dash, and have an h in it.
@app.command("allow", context_settings={"ignore_unknown_options": True, "help_option_names": ["--help"]})
def allow_(
    name: Annotated[str, typer.Argument(help="The node.")],
    key: Annotated[str, typer.Argument(help="Its public key: 40 characters, in single quotes.")],
    role: Annotated[Role, typer.Option(help="What the node is: a key opens only the sockets of its role.")],
    keys: Folder = Path("keys"),
    replace: Annotated[bool, typer.Option("--replace", help="Also where the node has another key already.")] = False,
) -> None:
    """Allow a node's public key, in this machine's allowed.toml. Nodes that run see it at once.

    Example: anabranch keys allow camera 'rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7' --role device
    """
    allow(keys, name, key, role, replace)


@app.command("remove")
def remove_(
    name: Annotated[str, typer.Argument(help="The node.")],
    keys: Folder = Path("keys"),
) -> None:
    """Take a node out of this machine's allowed.toml. Nodes that run see it at once, and part from it.

    Example: anabranch keys remove camera
    """
    remove(keys, name)


@app.command("show")
def show(
    name: Annotated[str, typer.Argument(help="One node; all without it.")] = "",
    keys: Folder = Path("keys"),
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Show who is allowed, and whose secrets are on this machine. Secrets themselves are never shown."""
    peers = read_allowed(keys / ALLOWED)
    if name and name not in peers:
        raise KeysError(f"node {name}", f"not in {keys / ALLOWED}", f"it has {', '.join(peers)}")
    rows: list[dict[str, Any]] = [
        {"node": node, "role": peer.role.value, "key": peer.key, "secret": _secret(keys / f"{node}.secret")}
        for node, peer in sorted(peers.items())
        if name in ("", node)
    ]
    if json:
        typer.echo(msgspec.json.encode(rows))
        return
    table = Table("node", "role", "public key", "secret here")
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row.values()))  # brackets are letters of Z85, and markup to rich
    Console().print(table)


def _secret(file: Path) -> str:
    if not file.exists():
        return "no"
    try:
        read_secret(file)
    except KeysError as error:
        return error.condition
    return "yes"
