"""Where results go. A sink takes them in the order of the frames and is closed once, also after Ctrl-C."""

from __future__ import annotations

import contextlib
import errno
import logging
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec

from pipeline.errors import SinkError
from pipeline.frames.results import Result
from pipeline.frames.source import Rgb

logger = logging.getLogger(__name__)


class Sink(ABC):
    """Takes results in frame order.

    A sink that fails raises its `SinkError` once; what comes later it lets pass, so that a run may go on without
    it, or end in good order.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.failed = False
        self._closed = False

    def write(self, result: Result, rgb: Rgb) -> None:
        """Take one result and the picture that the source gave for it.

        Raises:
            SinkError: the disk is full, or the file cannot be written; only the first time.
        """
        if self.failed or self._closed:
            return
        with self._fails_once():
            self._write(result, rgb)

    def close(self) -> None:
        """Finish the file. Idempotent.

        Raises:
            SinkError: it cannot be finished; not if `write` has failed before.
        """
        if self._closed:
            return
        self._closed = True
        if self.failed:
            with contextlib.suppress(OSError, ValueError, SinkError):
                self._close()
            return
        with self._fails_once():
            self._close()

    def __enter__(self) -> Sink:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextlib.contextmanager
    def _fails_once(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:
            self.failed = True
            raise sink_error(self.name, error) from error

    @abstractmethod
    def _write(self, result: Result, rgb: Rgb) -> None: ...

    @abstractmethod
    def _close(self) -> None: ...


def sink_error(name: str, error: Exception) -> SinkError:
    """The error of the user's language for a failed write (FFmpeg's errors are OSErrors or ValueErrors too)."""
    code = getattr(error, "errno", None)
    if code == errno.ENOSPC:
        return SinkError(name, "the disk is full", "free space, or choose another folder")
    if code in {errno.EFBIG, errno.EDQUOT}:
        return SinkError(name, "no larger file is allowed here", "raise the limit, or choose another folder")
    if code in {errno.ENOENT, errno.ENOTDIR}:
        return SinkError(name, "its folder does not exist", "create it, or choose another")
    if code in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return SinkError(name, "not allowed to write there", "choose another folder")
    return SinkError(name, f"cannot be written ({getattr(error, 'strerror', None) or error})")


class JsonLines(Sink):
    """`results.jsonl`: a line per frame, on disk as soon as it is known.

    Args:
        path: of the file.
        most_bytes: with so many the file becomes `earlier-results.jsonl`, in place of the one before, and is begun
            anew; None for no bound.

    Raises:
        SinkError: the file cannot be created.
    """

    def __init__(self, path: Path, most_bytes: int | None = None) -> None:
        super().__init__(str(path))
        self._encoder = msgspec.json.Encoder()
        self._path, self._most_bytes = path, most_bytes
        with self._fails_once():
            self._file: BinaryIO = path.open("wb")

    def _write(self, result: Result, rgb: Rgb) -> None:
        line = self._encoder.encode(result) + b"\n"
        if self._most_bytes is not None and self._file.tell() + len(line) > self._most_bytes:
            self._begin_anew()
        self._file.write(line)
        self._file.flush()

    def _begin_anew(self) -> None:
        earlier = self._path.with_name(f"earlier-{self._path.name}")
        logger.info("%s is full: it goes on anew, and what it held is in %s", self._path, earlier)
        self._file.close()
        self._path.replace(earlier)
        self._file = self._path.open("wb")

    def _close(self) -> None:
        self._file.close()


class Background(Sink):
    """Another sink in a thread of its own, for one that takes its time (a video encoder).

    At most `depth` results wait for it; then `write` waits: nothing is dropped. An error of the inner sink comes out
    of the next `write` or of `close`.
    """

    def __init__(self, inner: Sink, depth: int = 8) -> None:
        super().__init__(inner.name)
        self.inner, self.depth = inner, depth
        self._waiting: deque[tuple[Result, Rgb]] = deque()
        self._changed = threading.Condition()
        self._done = False
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name=f"sink {inner.name}", daemon=True)
        self._thread.start()

    def _write(self, result: Result, rgb: Rgb) -> None:
        with self._changed:
            self._changed.wait_for(lambda: len(self._waiting) < self.depth or self._error is not None)
            self._waiting.append((result, rgb))
            self._changed.notify_all()
        self._raise_pending()

    def _close(self) -> None:
        with self._changed:
            self._done = True
            self._changed.notify_all()
        self._thread.join()
        self._raise_pending()

    def _raise_pending(self) -> None:
        with self._changed:
            error, self._error = self._error, None
        if error is not None:
            self.failed = True
            raise error

    def _run(self) -> None:
        while (item := self._next()) is not None:
            try:
                self.inner.write(*item)
            except Exception as error:  # handed to whoever writes or closes
                self._keep(error)
        try:
            self.inner.close()
        except Exception as error:
            self._keep(error)

    def _keep(self, error: Exception) -> None:
        with self._changed:
            self._error = self._error or error
            self._changed.notify_all()

    def _next(self) -> tuple[Result, Rgb] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._done)
            if not self._waiting:
                return None
            self._changed.notify_all()
            return self._waiting.popleft()
