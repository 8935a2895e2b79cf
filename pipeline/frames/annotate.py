"""Draws results on the pictures that they are about, and encodes them as a video."""

from __future__ import annotations

import functools
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pipeline.errors import SinkError
from pipeline.frames.results import Guess, Result
from pipeline.frames.sinks import Sink
from pipeline.frames.source import Rgb

CODECS = (("libx264", {"preset": "veryfast", "crf": "20"}), ("mpeg4", {"qscale": "3"}))
"""The first that FFmpeg was built with is used."""

DEFAULT_FPS = 1.0
"""Of sources without a rate (folders, whose pictures are a second apart)."""

ROWS = 3
"""Guesses shown."""

INK, DIM, RIGHT, WRONG, BAR = (245, 246, 248), (178, 186, 196), (110, 220, 140), (255, 120, 105), (74, 144, 226)
PANEL, TRACK = (14, 18, 24), (52, 60, 70)
VEIL = 0.72
"""Opacity of the panel, so that the picture shows through."""

WIDTH_UNITS, BAR_UNITS = 21, 6
"""Width of the panel and of a full bar, in heights of the letters."""


class AnnotatedVideo(Sink):
    """An mp4 with label, probability, latency and epoch on each picture.

    Pictures keep their size (an odd last row or column is left out, which the pixel format wants) and their place in
    time: a frame that the source dropped leaves the one before it on the screen for longer.

    Raises:
        SinkError: the file cannot be created.
    """

    def __init__(self, path: Path, fps: float | None = None) -> None:
        super().__init__(str(path))
        if path.suffix.lower() not in {".mp4", ".mkv", ".mov"}:
            raise SinkError(self.name, "not a kind of video that is written here", "let the name end in .mp4")
        self._rate = Fraction(fps or DEFAULT_FPS).limit_denominator(1001)
        self._stream: Any = None
        self._last = -1
        with self._fails_once():
            path.open("wb").close()  # FFmpeg would create it with the first picture only
            self._container = av.open(str(path), "w")

    def _write(self, result: Result, rgb: Rgb) -> None:
        if self._stream is None:
            self._stream = self._add_stream(rgb.shape[1] // 2 * 2, rgb.shape[0] // 2 * 2)
        picture = annotate(self._fit(rgb), result)
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        # Never two pictures at one moment, whatever times the source gives.
        self._last = max(self._last + 1, round(result.source_time_s * self._rate))
        frame.pts, frame.time_base = self._last, 1 / self._rate
        self._container.mux(self._stream.encode(frame))

    def _close(self) -> None:
        try:
            if self._stream is not None:
                self._container.mux(self._stream.encode(None))
        finally:
            self._container.close()

    def _add_stream(self, width: int, height: int) -> Any:
        name, options = next((name, options) for name, options in CODECS if name in av.codecs_available)
        stream: Any = self._container.add_stream(name, rate=self._rate, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1  # the other cores compute
        return stream

    def _fit(self, rgb: Rgb) -> Rgb:
        """The picture in the video's size: cropped by a pixel, or resized where a folder's pictures differ."""
        width, height = self._stream.width, self._stream.height
        if rgb.shape[0] // 2 * 2 == height and rgb.shape[1] // 2 * 2 == width:
            return rgb[:height, :width]
        return np.asarray(Image.fromarray(rgb).resize((width, height), Image.Resampling.BILINEAR))


def annotate(rgb: Rgb, result: Result) -> Rgb:
    """A copy of the picture with a panel in its lower left corner."""
    unit = max(9, min(round(rgb.shape[0] * 0.032), round(rgb.shape[1] * 0.026)))
    rows = max(1, len(result.top[:ROWS]))
    edge = unit // 2
    height, width = round(unit * (1.5 * rows + 2.5)), unit * WIDTH_UNITS
    pixels = rgb.copy()
    panel = pixels[max(0, len(pixels) - edge - height) : len(pixels) - edge, edge : edge + width]
    panel[:] = (panel * np.float32(1 - VEIL) + np.array(PANEL, np.float32) * np.float32(VEIL)).astype(np.uint8)
    image = Image.fromarray(panel)
    _draw_panel(ImageDraw.Draw(image), result, unit, image.width)
    panel[:] = np.asarray(image)
    return pixels


def _draw_panel(draw: ImageDraw.ImageDraw, result: Result, unit: int, width: int) -> None:
    margin, line = round(unit * 0.6), unit * 1.5
    for row, guess in enumerate(result.top[:ROWS]):
        _draw_guess(draw, guess, (margin, round(margin + row * line), unit), _ink(result, row), width)
    status = f"frame {result.frame}    {result.latency_s * 1e3:.1f} ms    plan {result.epoch}"
    draw.text((margin, round(margin * 1.2 + max(1, len(result.top[:ROWS])) * line)), status, DIM, _font(unit))


def _draw_guess(
    draw: ImageDraw.ImageDraw, guess: Guess, place: tuple[int, int, int], ink: tuple[int, int, int], width: int
) -> None:
    left, top, unit = place
    bar = unit * BAR_UNITS
    share = round(bar * min(1.0, max(0.0, guess.probability)))
    draw.rectangle((left, top + unit * 0.25, left + bar, top + unit), TRACK)
    if share:
        draw.rectangle((left, top + unit * 0.25, left + share, top + unit), BAR)
    after = left + bar + unit * 3.6
    draw.text((after, top), f"{guess.probability:.1%}", ink, _font(unit), anchor="ra")
    name_left = after + unit * 0.6
    draw.text((name_left, top), _shorten(guess.title, width - name_left - unit * 0.5, unit), ink, _font(unit))


def _ink(result: Result, row: int) -> tuple[int, int, int]:
    if row:
        return DIM
    return {True: RIGHT, False: WRONG, None: INK}[result.right]


def _shorten(text: str, room: float, unit: int) -> str:
    if _font(unit).getlength(text) <= room:
        return text
    while len(text) > 1 and _font(unit).getlength(text + "…") > room:
        text = text[:-1]
    return text.rstrip(" ,") + "…"


@functools.lru_cache(maxsize=8)
def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)
