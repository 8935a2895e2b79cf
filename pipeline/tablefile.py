"""Files of measurements: JSON of a stated version, tied to a network, refused where either is another."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeVar

import msgspec

from pipeline.errors import ConfigError

Table = TypeVar("Table", bound=msgspec.Struct)


class _Version(msgspec.Struct):
    version: int


def read(path: Path, kind: type[Table], what: str, version: int, command: str) -> Table:
    """Read a table that `write` wrote.

    Args:
        path: of the file.
        kind: what the file holds; has a field `version`.
        what: how an error calls the file, such as `profile`.
        version: the one that can be read.
        command: what makes such a file, such as `anabranch profile`.

    Raises:
        ConfigError: unreadable, damaged, or of another version.
    """
    try:
        data = path.read_bytes()
        found = msgspec.json.decode(data, type=_Version).version
        if found != version:
            raise ConfigError(f"{what} {path}", f"version {found}, not {version}", f"make it anew with `{command}`")
        return msgspec.json.decode(data, type=kind)
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError(f"{what} {path}", str(error), f"make it with `{command}`") from error


def write(table: msgspec.Struct, path: Path) -> None:
    """Write a table; a reader never sees half of it."""
    scratch = path.with_name(path.name + ".part")
    scratch.write_bytes(msgspec.json.encode(table))
    os.replace(scratch, path)
