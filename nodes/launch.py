"""Starting nodes as processes of this machine, watching them, and stopping them together.

A child holds the reading end of a pipe whose writing end only its parent has (its standard input): when the parent
is gone, for whatever reason, the pipe closes and the child stops. So there are no orphans, even after SIGKILL.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from nodes.quiet import OWN_LOG
from pipeline.errors import NodeError

STOP_TIMEOUT_S = 10.0
"""How long a child may take to stop before it is killed."""

READY = "anabranch-ready "
"""Prefix of the one line on standard output by which a child tells its endpoints."""


@dataclass
class Child:
    """One started process."""

    name: str
    process: subprocess.Popen[str]
    log: Path
    endpoints: Mapping[str, str] = field(default_factory=dict)
    output: list[str] = field(default_factory=list)

    @property
    def is_running(self) -> bool:
        """Whether the process lives."""
        return self.process.poll() is None

    def last_words(self) -> str:
        """The last line of the child's log: what it died of, where it says so."""
        with contextlib.suppress(OSError):
            lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
            return lines[-1] if lines else ""
        return ""


class Family:
    """Processes that live and stop together. Use it as a context manager."""

    def __init__(self, logs: Path, threads: int = 1) -> None:
        self.children: dict[str, Child] = {}
        self._logs = logs
        self._environment = {
            **os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"
        }  # fmt: skip
        logs.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Family:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, name: str, arguments: Sequence[str]) -> Child:
        """Start `anabranch ARGUMENTS` under a name; its log goes to a file of that name."""
        log = (self._logs / f"{name}.log").resolve()
        with log.open("a") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-m", "nodes", *arguments, "--child"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True,
                env={**self._environment, OWN_LOG: str(log)}, start_new_session=True,
            )  # fmt: skip
        child = Child(name, process, log)
        self.children[name] = child
        return child

    def wait_ready(self, child: Child, timeout_s: float) -> None:
        """Return once the child has told its endpoints.

        Raises:
            NodeError: it ended, or said nothing in time.
        """
        reader = threading.Thread(target=_read_until_ready, args=(child,), daemon=True)
        reader.start()
        reader.join(timeout_s)
        if child.endpoints:
            return
        if not reader.is_alive():  # its standard output has closed: it is about to end
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.process.wait(STOP_TIMEOUT_S)
        if child.is_running:
            raise NodeError(f"node {child.name}", f"not ready after {timeout_s:.0f} s", f"see {child.log}")
        raise failure(child)

    def stop(self) -> None:
        """Ask all to stop, all at once; kill what does not."""
        for child in self.children.values():
            if child.is_running:
                with contextlib.suppress(ProcessLookupError):
                    child.process.send_signal(signal.SIGTERM)
                    child.process.send_signal(signal.SIGCONT)
        deadline_s = time.monotonic() + STOP_TIMEOUT_S
        for child in self.children.values():
            try:
                child.process.wait(max(0.1, deadline_s - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.process.kill()
                child.process.wait()
            for stream in (child.process.stdin, child.process.stdout):
                _close(stream)


def failure(child: Child) -> NodeError:
    """The error of a child that ended when it should not have."""
    said = [child.last_words(), f"ended with code {child.process.returncode}"]
    return NodeError(f"node {child.name}", ", ".join(filter(None, said)), f"see {child.log}")


def _read_until_ready(child: Child) -> None:
    for line in child.process.stdout or ():
        if line.startswith(READY):
            child.endpoints = json.loads(line[len(READY) :])
            return


def _close(stream: IO[str] | None) -> None:
    if stream is not None:
        with contextlib.suppress(OSError):
            stream.close()


def tell_ready(endpoints: Mapping[str, str]) -> None:
    """Tell the parent, on standard output, that this node runs and where."""
    sys.stdout.write(READY + json.dumps(dict(endpoints)) + "\n")
    sys.stdout.flush()


def stop_on_signals(stop: Callable[[], None]) -> None:
    """Call `stop` on SIGINT and SIGTERM."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop())


def stop_with_parent(stop: Callable[[], None]) -> None:
    """Call `stop` when the parent process is gone (its end of standard input closes)."""

    def watch() -> None:
        # The file descriptor itself: Python's own buffer would be locked by this thread when the process ends.
        with contextlib.suppress(OSError):
            while os.read(0, 4096):
                continue
        stop()

    threading.Thread(target=watch, name="parent watch", daemon=True).start()
