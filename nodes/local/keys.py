"""The keys of a deployment on this machine: a folder that the user has, or throw-away keys for one run."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from nodes.keys import Role, new_key

NEW = "new"
"""Instead of a folder: keys for this run, gone at its end."""

SCHEDULER, VIEWER = "scheduler", "viewer"


@contextlib.contextmanager
def local_keys(wanted: str, nodes: Mapping[str, Role]) -> Iterator[Path | None]:
    """The folder of keys that the nodes of a run shall be given; None where no keys are wanted.

    Raises:
        KeysError: the keys cannot be written.
    """
    if wanted != NEW:
        yield Path(wanted) if wanted else None
        return
    with tempfile.TemporaryDirectory(prefix="anabranch-keys-") as folder:
        for name, role in {SCHEDULER: Role.SCHEDULER, VIEWER: Role.VIEWER, **nodes}.items():
            new_key(Path(folder), name, role)
        yield Path(folder)
