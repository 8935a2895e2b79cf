"""Videos, which end, and cameras and network streams, which are opened again when they are lost."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import av

from pipeline.errors import SourceError
from pipeline.frames.decoder import Container, Decoder, reason_of
from pipeline.frames.source import Rgb, Shot, Source, SourceSettings

Opener = Callable[[], Container]

LIVE_SCHEMES = frozenset({"rtsp", "rtsps", "rtmp", "rtp", "srt", "udp", "tcp"})
"""Addresses of streams that never end by themselves."""

OPEN_TIMEOUT_S, READ_TIMEOUT_S = 10.0, 5.0
"""A stream that sends nothing for so long counts as lost."""


class VideoFile(Source):
    """A finite video.

    Raises:
        SourceError: the file is missing or FFmpeg cannot read it.
    """

    def __init__(self, name: str, settings: SourceSettings, opener: Opener | None = None) -> None:
        super().__init__(name, settings)
        self._decoder = Decoder(_open(name, opener or (lambda: av.open(name))), name)
        self.fps = self._decoder.fps

    def shots(self) -> Iterator[Shot]:
        """Every picture of the video; where it breaks off, `ended_early` tells."""
        period = 1 / (self.fps or 25.0)
        count = 0
        try:
            for time_s, rgb in self._decoder.strictly():
                yield Shot(count * period if time_s is None else time_s, rgb)
                count += 1
            if missing := self._decoder.missing():
                self.ended_early = f"breaks off after {count} frames ({missing} there)"
        except (av.FFmpegError, OSError) as error:
            self.ended_early = f"breaks off after {count} frames ({reason_of(error)})"
        finally:
            self._decoder.close()


@dataclass(frozen=True)
class Backoff:
    """How long to wait before the next attempt to open a lost stream."""

    first_s: float = 0.5
    longest_s: float = 30.0

    def delay_s(self, attempt: int) -> float:
        """Doubles from attempt 0 on, up to the longest."""
        return float(min(self.longest_s, self.first_s * 2.0 ** min(attempt, 60)))


class LiveVideo(Source):
    """A camera or a network stream, opened again for as long as it takes whenever it is lost.

    Raises:
        SourceError: it cannot be opened at first, which is more likely a wrong address than a loss.
    """

    live = True

    def __init__(
        self,
        name: str,
        settings: SourceSettings,
        opener: Opener,
        backoff: Backoff | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(name, settings)
        self._opener, self._backoff, self._clock = opener, backoff or Backoff(), clock
        self._decoder: Decoder | None = Decoder(_open(name, opener), name)
        self.fps = self._decoder.fps

    def shots(self) -> Iterator[Shot]:
        """Pictures as they come; their time is when they were decoded, from the first one on."""
        start: float | None = None
        attempt = 0
        while not self.closed.is_set():
            for rgb in self._until_lost():
                attempt = 0
                now = self._clock()
                start = now if start is None else start
                yield Shot(now - start, rgb)
            if not self.closed.is_set():
                self._reopen(attempt)
                attempt += 1

    def _until_lost(self) -> Iterator[Rgb]:
        if self._decoder is None:
            return
        reason = "the stream ended"
        try:
            yield from self._decoder.leniently()
        except (av.FFmpegError, OSError) as error:
            reason = reason_of(error)
        finally:
            self._decoder.close()
            self._decoder = None
        self.settings.notify("source-lost", f"{self.name}: {reason}")

    def _reopen(self, attempt: int) -> None:
        if self.closed.wait(self._backoff.delay_s(attempt)):
            return
        try:
            self._decoder = Decoder(self._opener(), self.name)
        except (av.FFmpegError, OSError, SourceError) as error:
            self.settings.notify("source-retry", f"{self.name}: attempt {attempt + 1} failed ({reason_of(error)})")
        else:
            self.settings.notify("source-back", f"{self.name}: open again after {attempt + 1} attempts")


def stream_opener(address: str) -> Opener:
    """Opens a network stream; RTSP over TCP, since lost UDP packets smear pictures."""
    options = {"rtsp_transport": "tcp"} if address.startswith("rtsp") else {}
    return lambda: av.open(address, options=options, timeout=(OPEN_TIMEOUT_S, READ_TIMEOUT_S))


def camera_opener(device: str) -> Opener:
    """Opens a local camera: `0`, `1`, ... or a device path.

    Raises:
        SourceError: this operating system numbers its cameras in a way that is not known here.
    """
    if sys.platform == "linux":
        path = f"/dev/video{device}" if device.isdigit() else device
        return lambda: av.open(path, format="v4l2")
    if sys.platform == "darwin":
        return lambda: av.open(device, format="avfoundation")
    raise SourceError(f"camera {device}", f"cameras of {sys.platform} are not supported", "stream it over rtsp://")


def _open(name: str, opener: Opener) -> Container:
    try:
        return opener()
    except FileNotFoundError as error:
        raise SourceError(name, "not found", "check the path or address") from error
    except (av.FFmpegError, OSError) as error:
        raise SourceError(
            name, f"cannot be opened ({reason_of(error)})", "check that it is a video or camera"
        ) from error
