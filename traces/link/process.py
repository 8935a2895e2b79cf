"""A shaper in a process of its own, with the same calls: the busy loops of others cannot hold it up."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import tempfile
import threading
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from traces.errors import TraceError
from traces.formats import write_trace
from traces.link.address import Address
from traces.link.shaper import ShaperConfig, Way
from traces.trace import Trace

ANSWER_S = 20.0
"""Longest wait for an answer; the first includes the start of an interpreter."""


class ShaperProcess:
    """A shaped link in a child process, controlled over its standard input; it ends when that closes."""

    def __init__(self, config: ShaperConfig) -> None:
        self._config = config
        self._folder = tempfile.TemporaryDirectory(prefix="link-")
        self._process: subprocess.Popen[str] | None = None
        self._answers: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._files = 0
        self._address = config.listen

    def __enter__(self) -> ShaperProcess:
        return self.start()

    def __exit__(self, *exception: object) -> None:
        self.stop()

    @property
    def address(self) -> Address:
        """Where it listens; the port is the real one once started."""
        return self._address

    @property
    def pid(self) -> int:
        """The child's process number.

        Raises:
            TraceError: not running.
        """
        return self._running().pid

    def start(self) -> ShaperProcess:
        """Starts the child and waits until it listens.

        Raises:
            TraceError: the child's own error, such as an address in use.
        """
        if self._process is not None:
            raise TraceError(f"link {self._address}", "has been started already")
        settings = {
            "listen": str(self._config.listen),
            "to": str(self._config.to),
            "up": self._file(self._config.up),
            "down": self._file(self._config.down),
            "epoch_s": self._config.epoch_s,
            "settings": asdict(self._config.settings),
        }
        command = [sys.executable, "-m", "traces.link", json.dumps(settings)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        threading.Thread(target=self._listen, args=(self._process.stdout,), daemon=True).start()
        try:
            self._address = Address.parse(str(self._answer()["listening"]))
        except TraceError:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Ends the child. Calling it again does nothing."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.stdin is not None:
            try:
                process.stdin.close()
            except BrokenPipeError:
                pass  # it has ended on its own
        try:
            process.wait(ANSWER_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()
        self._folder.cleanup()

    def pause(self) -> None:
        """As `Shaper.pause`."""
        self.command("pause")

    def resume(self) -> None:
        """As `Shaper.resume`."""
        self.command("resume")

    def cut(self, for_s: float = 0.0) -> None:
        """As `Shaper.cut`."""
        self.command(f"cut {min(for_s, 1e9)!r}")

    def set_trace(self, trace: Trace, way: Way = "both") -> None:
        """As `Shaper.set_trace`, from the trace's beginning."""
        self.command(f"trace {way} {self._file(trace)}")

    def set_rate(self, rate_bps: float, way: Way = "both") -> None:
        """As `Shaper.set_rate`."""
        self.command(f"rate {way} {rate_bps!r}")

    def set_epoch(self, epoch_s: float) -> None:
        """As `Shaper.set_epoch`."""
        self.command(f"epoch {epoch_s!r}")

    def stats(self) -> dict[str, Any]:
        """The fields of `ShaperStats`, nested as dictionaries."""
        return self.command("stats")

    def command(self, line: str) -> dict[str, Any]:
        """Sends one line of the control protocol and returns its answer.

        Raises:
            TraceError: the child says that the command is wrong, or has ended.
        """
        process = self._running()
        assert process.stdin is not None
        try:
            process.stdin.write(line + "\n")
            process.stdin.flush()
        except (BrokenPipeError, ValueError):
            raise TraceError(f"link {self._address}", "its process has ended") from None
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        try:
            line = self._answers.get(timeout=ANSWER_S)
        except queue.Empty:
            raise TraceError(f"link {self._address}", f"its process has not answered for {ANSWER_S:g} s") from None
        if line is None:
            raise TraceError(f"link {self._address}", "its process has ended")
        answer: dict[str, Any] = json.loads(line)
        if not answer.get("ok"):
            thing, _, condition = str(answer.get("error")).partition(": ")
            raise TraceError(thing, condition)
        return answer

    def _listen(self, output: IO[str]) -> None:
        try:
            while line := output.readline():
                self._answers.put(line)
        except ValueError:
            pass  # closed while it was read
        self._answers.put(None)

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None:
            raise TraceError(f"link {self._address}", "is not running", "start it first")
        return self._process

    def _file(self, trace: Trace) -> str:
        self._files += 1
        return str(write_trace(trace, Path(self._folder.name) / f"{self._files}.csv", "csv"))
