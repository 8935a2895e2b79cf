"""Rendered scenes with known truth: a source for a machine that has no video, and for training `builtin`.

A main object of one of `LABELS` drifts and turns over a textured background among clutter, under a lamp, seen
by a camera with motion blur, vignetting and noise. Every `every` frames comes another scene. A picture is a pure
function of (options, frame number): frames may be rendered in any order and by any number of processes.
"""

from __future__ import annotations

import colorsys
import functools
import math
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.errors import SourceError
from pipeline.frames.paint import Canvas, Colour, Item, Light, Motion, Pattern, Texture
from pipeline.frames.shapes import CLASSES, CLUTTER, LABELS, Plane

Generator = np.random.Generator

MIN_SIDE = 224
"""Smaller pictures would show the outlines too coarsely to be told apart."""


class SceneOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `scene:` can be told.

    Raises:
        SourceError: pictures smaller than `MIN_SIDE`, or a rate or length that is not positive.
    """

    seed: int = 0
    width: int = 224
    height: int = 224
    fps: float = 25.0
    every: int = 20
    """Frames of one scene before the next."""

    def __post_init__(self) -> None:
        if min(self.width, self.height) < MIN_SIDE:
            raise SourceError(
                f"scene of {self.width}x{self.height}", "too small", f"choose at least {MIN_SIDE}x{MIN_SIDE}"
            )
        if self.fps <= 0 or self.every < 1 or self.seed < 0:
            raise SourceError("scene", f"fps {self.fps}, every {self.every} or seed {self.seed} out of range")


@dataclass(frozen=True)
class _Camera:
    """How one scene is seen."""

    background: Canvas
    """Larger than the picture, so that the camera may pan over it."""
    pan: Motion
    gain: Plane
    """Lamp and vignette: (height, width, 1)."""
    tint: Colour
    noise: float
    """Standard deviation of the sensor's noise, in 0..1."""


@dataclass(frozen=True)
class _Setting:
    """One scene."""

    truth: int
    camera: _Camera
    light: Light
    behind: tuple[Item, ...]
    main: Item
    front: tuple[Item, ...]


class Scene:
    """An endless film of scenes."""

    def __init__(self, options: SceneOptions) -> None:
        self.options = options
        self._setting = functools.lru_cache(maxsize=2)(self._draw_setting)

    def truth(self, number: int) -> int:
        """Class index of the main object in frame `number`."""
        return _truth(self.options.seed, number // self.options.every)

    def render(self, number: int) -> NDArray[np.uint8]:
        """Frame `number`.

        Returns:
            (height, width, 3) of uint8, RGB.
        """
        setting = self._setting(number // self.options.every)
        time = float(number % self.options.every)
        camera = setting.camera
        canvas = _pan(camera.background, camera.pan.at(time), self.options)
        for item in (*setting.behind, setting.main, *setting.front):
            item.draw(canvas, time, setting.light)
        return _expose(canvas, camera, np.random.default_rng([self.options.seed, number, 1]))

    def _draw_setting(self, index: int) -> _Setting:
        rng = np.random.default_rng([self.options.seed, index, 0])
        truth = _truth(self.options.seed, index)
        side = min(self.options.width, self.options.height)
        palette = [_colour(rng) for _ in range(3)]
        main = self._main(rng, truth, side, _mean(palette))
        angle = rng.uniform(0, 2 * math.pi)
        light = Light((math.cos(angle), math.sin(angle)), rng.uniform(0.2, 0.6))
        behind = tuple(self._clutter(rng, side) for _ in range(rng.integers(5, 11)))
        front = tuple(self._crossing(rng, side) for _ in range(rng.integers(0, 3)))
        return _Setting(truth, _camera(rng, self.options, palette, light), light, behind, main, front)

    def _main(self, rng: Generator, truth: int, side: int, ground: Colour) -> Item:
        radius = side * rng.uniform(0.17, 0.3)
        room = max(0.0, side / 2 - radius)  # it stays in the central square, which is what a network is shown
        motion = Motion(
            centre=(self.options.width / 2, self.options.height / 2),
            sway=(room * rng.uniform(0.5, 1), room * rng.uniform(0.5, 1)),
            rate=(rng.uniform(0.02, 0.11), rng.uniform(0.02, 0.11)),
            phase=(rng.uniform(0, 2 * math.pi), rng.uniform(0, 2 * math.pi)),
            angle=rng.uniform(0, 2 * math.pi),
            spin=rng.uniform(-0.06, 0.06),
        )
        return Item(CLASSES[LABELS[truth]], radius, motion, _texture(rng, ground))

    def _clutter(self, rng: Generator, side: int) -> Item:
        """Strips, lumps, and now and then a shape of a class, at most 40% as large as the smallest main object."""
        kind = rng.integers(0, 4)
        if kind == 3:
            shape, radius = CLASSES[LABELS[rng.integers(len(LABELS))]], side * rng.uniform(0.03, 0.065)
        else:
            shape, radius = CLUTTER[kind % 2], side * rng.uniform(0.05, 0.2 if kind % 2 == 0 else 0.12)
        return Item(shape, radius, self._drift(rng), _texture(rng, None))

    def _crossing(self, rng: Generator, side: int) -> Item:
        """Something small or thin between the camera and the main object."""
        shape = CLUTTER[rng.integers(0, 2)]
        return Item(shape, side * (rng.uniform(0.1, 0.25) if shape is CLUTTER[0] else 0.05), self._drift(rng),
                    _texture(rng, None))  # fmt: skip

    def _drift(self, rng: Generator) -> Motion:
        return Motion(
            centre=(rng.uniform(0, self.options.width), rng.uniform(0, self.options.height)),
            sway=(rng.uniform(0, 40), rng.uniform(0, 40)),
            rate=(rng.uniform(0, 0.1), rng.uniform(0, 0.1)),
            phase=(rng.uniform(0, 2 * math.pi), rng.uniform(0, 2 * math.pi)),
            angle=rng.uniform(0, 2 * math.pi),
            spin=rng.uniform(-0.08, 0.08),
        )


def _truth(seed: int, index: int) -> int:
    """Class of scene `index`: every class once in each round, and never the same twice in a row."""
    count = len(LABELS)
    order = np.random.default_rng([seed, index // count, 2]).permutation(count)
    if index >= count:
        last = np.random.default_rng([seed, index // count - 1, 2]).permutation(count)[-1]
        if order[0] == last:
            order[[0, 1]] = order[[1, 0]]
    return int(order[index % count])


def _colour(rng: Generator) -> Colour:
    return colorsys.hsv_to_rgb(rng.uniform(), rng.uniform(0.05, 0.75), rng.uniform(0.15, 0.95))


def _mean(colours: list[Colour]) -> Colour:
    red, green, blue = (sum(channel) / len(colours) for channel in zip(*colours, strict=True))
    return red, green, blue


def _texture(rng: Generator, ground: Colour | None) -> Texture:
    """A texture; the first colour stands out from `ground`, the second is near the first in two cases of three."""
    first = max((_colour(rng) for _ in range(6)), key=lambda c: math.dist(c, ground)) if ground else _colour(rng)
    second = _colour(rng)
    near = rng.uniform() < 0.67
    if near:
        second = _mean([first, first, second])
    pattern = list(Pattern)[rng.integers(len(Pattern))]
    return Texture(pattern, (first, second), rng.uniform(1.5, 4.0))


def _camera(rng: Generator, options: SceneOptions, palette: list[Colour], light: Light) -> _Camera:
    moving = rng.uniform() < 0.6  # the others stand on a tripod
    reach = 24.0
    pan = Motion(
        centre=(reach, reach),
        sway=(reach - 1, reach - 1) if moving else (0.0, 0.0),
        rate=(rng.uniform(0.01, 0.06), rng.uniform(0.01, 0.06)),
        phase=(rng.uniform(0, 2 * math.pi), rng.uniform(0, 2 * math.pi)),
        angle=0.0,
        spin=0.0,
    )
    shape = (options.height + 2 * int(reach) + 1, options.width + 2 * int(reach) + 1)
    tint = tuple(float(rng.uniform(0.88, 1.12)) for _ in range(3))
    return _Camera(
        background=_background(rng, shape, palette),
        pan=pan,
        gain=_gain(rng, options, light),
        tint=(tint[0], tint[1], tint[2]),
        noise=rng.uniform(0.008, 0.045),
    )


def _background(rng: Generator, shape: tuple[int, int], palette: list[Colour]) -> Canvas:
    """Three colours, mixed by two fields of value noise, with a fine grain or a regular pattern on top."""
    first, second, third = (np.array(colour, np.float32) for colour in palette)
    mix = _cloud(rng, shape, int(rng.integers(2, 9)))[..., None]
    other = _cloud(rng, shape, int(rng.integers(4, 24)))[..., None]
    canvas = first + mix * (second - first)
    canvas += other * other * (third - canvas)
    canvas *= 1 + rng.uniform(0.1, 0.45) * (_cloud(rng, shape, int(rng.integers(30, 90)))[..., None] - 0.5)
    if rng.uniform() < 0.45:
        canvas *= 1 - rng.uniform(0.1, 0.35) * _regular(rng, shape)[..., None]
    return np.asarray(canvas, np.float32)


def _cloud(rng: Generator, shape: tuple[int, int], cells: int) -> Plane:
    """Value noise in 0..1 with `cells` cells along the longer side."""
    size = (shape[1], shape[0])
    rows = max(2, round(cells * shape[0] / max(shape)))
    columns = max(2, round(cells * shape[1] / max(shape)))
    grid = Image.fromarray(rng.uniform(0, 1, (rows, columns)).astype(np.float32))
    cloud: Plane = np.clip(np.asarray(grid.resize(size, Image.Resampling.BICUBIC)), 0, 1)
    return cloud


def _regular(rng: Generator, shape: tuple[int, int]) -> Plane:
    """Stripes or tiles at some angle."""
    angle, period = rng.uniform(0, math.pi), rng.uniform(12, 60)
    x = np.arange(shape[1], dtype=np.float32)[None, :]
    y = np.arange(shape[0], dtype=np.float32)[:, None]
    along = (x * math.cos(angle) + y * math.sin(angle)) * (2 * math.pi / period)
    wave = np.sin(along)
    if rng.uniform() < 0.5:
        wave = np.maximum(wave, np.sin((y * math.cos(angle) - x * math.sin(angle)) * (2 * math.pi / period)))
    return np.clip(0.5 + 3 * (wave - 0.5), 0, 1).astype(np.float32)


def _gain(rng: Generator, options: SceneOptions, light: Light) -> Plane:
    """Brightness over the picture: a slope towards the lamp, and a vignette."""
    x = np.linspace(-1, 1, options.width, dtype=np.float32)[None, :]
    y = np.linspace(-1, 1, options.height, dtype=np.float32)[:, None]
    slope = 1 + rng.uniform(0.05, 0.3) * (x * light.direction[0] + y * light.direction[1])
    vignette = 1 - rng.uniform(0, 0.22) * (x * x + y * y)
    return (rng.uniform(0.75, 1.3) * slope * vignette)[..., None].astype(np.float32)


def _pan(background: Canvas, position: tuple[float, float, float], options: SceneOptions) -> Canvas:
    """The part of the background in view, shifted by fractions of a pixel; a fresh array."""
    left, top = int(position[0]), int(position[1])
    window = background[top : top + options.height + 1, left : left + options.width + 1]
    across, down = np.float32(position[0] - left), np.float32(position[1] - top)
    rows = window[:-1] + down * (window[1:] - window[:-1])
    return np.asarray(rows[:, :-1] + across * (rows[:, 1:] - rows[:, :-1]), np.float32)


def _expose(canvas: Canvas, camera: _Camera, rng: Generator) -> NDArray[np.uint8]:
    canvas *= camera.gain * np.array(camera.tint, np.float32)
    canvas += rng.standard_normal(canvas.shape, np.float32) * np.float32(camera.noise)
    canvas *= 255
    np.clip(canvas, 0, 255, out=canvas)
    return canvas.astype(np.uint8)
