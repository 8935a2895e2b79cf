"""Pictures out of a container, by FFmpeg through PyAV.

Decoding uses slice threads, not frame threads: with frame threads a decoder holds back one picture per thread (a
delay for cameras), and PyAV throws away the good pictures that it collected in the call that meets a bad one.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from pipeline.errors import SourceError
from pipeline.frames.source import Rgb

Container = Any
"""One of PyAV's, or what a test puts in its place."""


class Decoder:
    """Pulls pictures out of one open container."""

    def __init__(self, container: Container, name: str) -> None:
        if not container.streams.video:
            container.close()
            raise SourceError(name, "there is no video in it", "give a video file, a camera or a folder of pictures")
        self.container = container
        self.stream = container.streams.video[0]
        self.stream.thread_type = "SLICE"
        self.packets = 0
        """Packets of the video read so far, damaged ones not counted."""
        self.end_s = 0.0
        """Where the last of these packets ends, from the beginning of the video."""
        self._reformatter = VideoReformatter()

    @property
    def fps(self) -> float | None:
        """Nominal rate, where the container knows one."""
        rate = self.stream.average_rate or self.stream.guessed_rate
        return float(rate) if rate else None

    def strictly(self) -> Iterator[tuple[float | None, Rgb]]:
        """Time in s, where the container tells, and pixels of every picture up to the first damage.

        Raises:
            av.FFmpegError: what follows cannot be read; all that could be decoded before has been given.
        """
        try:
            for packet in self.container.demux(self.stream):
                if packet.is_corrupt:
                    raise av.InvalidDataError(0, "damaged packet")
                self._count(packet)
                for frame in packet.decode():
                    yield frame.time, self._rgb(frame)
        except (av.FFmpegError, OSError):
            for frame in self._held_back():
                yield frame.time, self._rgb(frame)
            raise

    def leniently(self) -> Iterator[Rgb]:
        """Pixels of every picture that can be decoded; damaged packets are passed over.

        Raises:
            av.FFmpegError: the container itself gives nothing more.
        """
        for packet in self.container.demux(self.stream):
            try:
                frames = packet.decode()
            except av.InvalidDataError:  # a packet was lost on the way, or the stream was joined between key frames
                continue
            for frame in frames:
                yield self._rgb(frame)

    def missing(self) -> str:
        """What the container's header promises beyond what was read; empty where all came.

        A file whose tail is missing may end like a whole one. Its header may tell how many packets there were, or
        else how long the video is; a margin is left for the unknown duration of the last picture.
        """
        if self.stream.frames:
            return f"{self.packets} of {self.stream.frames}" if self.packets < self.stream.frames else ""
        promised_s = _promised_s(self.container, self.stream)
        margin_s = 1.0 + 2 / (self.fps or 25.0)
        if promised_s is not None and promised_s - self.end_s > margin_s:
            return f"{self.end_s:.1f} of {promised_s:.1f} s"
        return ""

    def _count(self, packet: Any) -> None:
        if packet.size:
            self.packets += 1
            if packet.pts is not None:
                end = packet.pts + (packet.duration or 0) - (self.stream.start_time or 0)
                self.end_s = max(self.end_s, float(end * self.stream.time_base))

    def _held_back(self) -> list[Any]:
        """Frames that wait in the decoder to be put in order."""
        with contextlib.suppress(av.FFmpegError, OSError):
            return list(self.stream.codec_context.decode(None))
        return []

    def _rgb(self, frame: Any) -> Rgb:
        pixels: Rgb = self._reformatter.reformat(frame, format="rgb24").to_ndarray()  # type: ignore[assignment]
        turns = round(getattr(frame, "rotation", 0) / 90) % 4  # telephones store how they were held
        return np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels

    def close(self) -> None:
        """Close the container."""
        self.container.close()


def _promised_s(container: Container, stream: Any) -> float | None:
    """Length of the video by its header, in s; None where the header does not tell (or the tail was guessed)."""
    if stream.metadata.get("DURATION"):  # Matroska; its container's duration may be that of a longer sound track
        return _seconds(stream.metadata["DURATION"])
    if stream.duration and "mpegts" not in container.format.name:  # FFmpeg measures these by their last packet
        return float(stream.duration * stream.time_base)
    return None


def _seconds(text: str) -> float | None:
    """Of `01:02:03.5`; None where the text is something else."""
    found = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", text.strip())
    return int(found[1]) * 3600 + int(found[2]) * 60 + float(found[3]) if found else None


def reason_of(error: Exception) -> str:
    """What went wrong, in one line without the numbers of error codes."""
    if isinstance(error, av.FFmpegError | OSError) and error.strerror:
        return str(error.strerror)
    return str(error).splitlines()[0] if str(error) else type(error).__name__
