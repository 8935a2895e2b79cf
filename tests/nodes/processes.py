"""Runs the command line as a user does, in processes of its own."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 90.0


def command(*arguments: str | Path) -> list[str]:
    """`anabranch ARGUMENTS` with this interpreter."""
    return [sys.executable, "-m", "nodes", *map(str, arguments)]


def environment() -> dict[str, str]:
    """One thread per process; a wide, plain terminal."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}


def anabranch(*arguments: str | Path, limit_s: float = LIMIT_S) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        command(*arguments), cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=limit_s, check=False
    )


class Running:
    """A command that runs while the test does something to it. Use it as a context manager."""

    def __init__(self, arguments: Sequence[str | Path]) -> None:
        self.process = subprocess.Popen(
            command(*arguments), cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        for child in self.family():
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        self.process.kill()
        self.process.communicate()

    def family(self) -> list[psutil.Process]:
        """All processes that it started and that live."""
        try:
            return psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def node(self, *words: str) -> psutil.Process:
        """The child that runs `anabranch WORDS[0]` with all the other words in its command line."""
        for child in self.family():
            with contextlib.suppress(psutil.NoSuchProcess):  # ended since, or a zombie nobody has waited for yet
                if set(words) <= set(child.cmdline()):
                    return child
        raise LookupError(f"no process of the run has {words} in its command line")

    def finish(self) -> tuple[int, str, str]:
        """Exit code, standard output and standard error at the end."""
        output, errors = self.process.communicate(timeout=LIMIT_S)
        return self.process.returncode, output, errors


def eventually(condition: Callable[[], bool], what: str, limit_s: float = LIMIT_S) -> None:
    """Return once `condition` holds; fail after `limit_s`."""
    deadline_s, pause = time.monotonic() + limit_s, threading.Event()
    while not condition():
        assert time.monotonic() < deadline_s, f"not in {limit_s:.0f} s: {what}"
        pause.wait(0.02)


def lines(path: Path) -> int:
    """Number of whole lines in a file that may not be there yet."""
    return path.read_bytes().count(b"\n") if path.exists() else 0
