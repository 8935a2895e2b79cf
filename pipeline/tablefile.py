"""Files of JSON that a user hands us: whatever is in them, what comes out is the value or one `ConfigError`.

Tables of measurements are such files with a stated version, and are refused where it is another.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeVar

import msgspec

from pipeline.errors import AnabranchError, ConfigError

T = TypeVar("T")
Table = TypeVar("Table", bound=msgspec.Struct)

MALFORMED = (msgspec.MsgspecError, ValueError, RecursionError, AnabranchError)
"""What msgspec raises on bytes that are no such value: not only its own errors, but also those of text that is not
UTF-8, of numbers of thousands of digits and of nesting without end; and what our own types raise that check
themselves."""


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
    mend = f"make it with `{command}`"
    found = decode(path, _Version, what, mend).version
    if found != version:
        raise ConfigError(f"{what} {path}", f"version {found}, not {version}", f"make it anew with `{command}`")
    return decode(path, kind, what, mend)


def decode(path: Path, kind: type[T], what: str, mend: str) -> T:
    """Read any JSON file.

    Args:
        path: of the file.
        kind: what it holds.
        what: how an error calls the file.
        mend: what to do where it is damaged.

    Raises:
        ConfigError: unreadable, or something else than `kind`.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, *MALFORMED) as error:
        raise ConfigError(f"{what} {path}", str(error), mend) from error


def write(table: msgspec.Struct, path: Path) -> None:
    """Write a table; a reader never sees half of it."""
    scratch = path.with_name(path.name + ".part")
    scratch.write_bytes(msgspec.json.encode(table))
    os.replace(scratch, path)
