"""Small videos that tests make for themselves."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from pipeline.frames.source import Rgb

BEST = "libx264" if "libx264" in av.codecs_available else "mpeg4"


def plain_picture(number: int, height: int = 64, width: int = 96) -> Rgb:
    """Grey that tells the frame's number, with a brighter left half."""
    rgb = np.full((height, width, 3), 10 + 6 * (number % 30), np.uint8)
    rgb[:, : width // 2] += 60
    return rgb


def number_of(rgb: Rgb) -> int:
    """The number that `plain_picture` was given (below 30), however it was compressed; 3.5 is the mean of the grain."""
    return round((float(rgb[:, rgb.shape[1] // 2 + 8 :].mean()) - 10 - 3.5) / 6)


def grainy_frame(number: int) -> av.VideoFrame:
    """`plain_picture` with the grain that `number_of` allows for."""
    noise = np.random.default_rng(number).integers(0, 8, (64, 96, 3), np.uint8)
    return av.VideoFrame.from_ndarray(plain_picture(number) + noise, format="rgb24")


def write_video(path: Path, count: int, fps: int = 10, codec: str = BEST, gop: int = 12) -> Path:
    """`count` plain pictures; in mp4 the index comes first, so that the file may be cut short."""
    options = {"movflags": "faststart"} if path.suffix == ".mp4" else {}
    with av.open(str(path), "w", options=options) as container:
        stream: Any = container.add_stream(codec, rate=Fraction(fps))
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.gop_size = gop
        for number in range(count):
            container.mux(stream.encode(grainy_frame(number)))
        container.mux(stream.encode(None))
    return path


def cut_short(path: Path, share: float) -> Path:
    """The first part of a file."""
    short = path.with_stem(path.stem + "-short")
    short.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    return short


def spoil(path: Path, share: float) -> Path:
    """The same file with everything behind a point overwritten by noise."""
    spoilt = path.with_stem(path.stem + "-spoilt")
    data = bytearray(path.read_bytes())
    first = int(len(data) * share)
    data[first:] = np.random.default_rng(0).bytes(len(data) - first)
    spoilt.write_bytes(data)
    return spoilt
