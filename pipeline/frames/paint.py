"""Paints one moving object on a canvas: outline, texture, shading, shadow and motion blur.

A canvas is (height, width, 3) of float32 in 0..1; time is in frames, so that speed needs no frame rate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

import numpy as np

from pipeline.frames.shapes import Plane, Shape

Canvas = Plane
Colour = tuple[float, float, float]

SHUTTER = 0.6
"""Part of a frame's time for which the shutter is open."""

BLUR_SAMPLES = 3
"""Outlines averaged over the open shutter; one where the object stands almost still."""


class Pattern(Enum):
    """What is printed on an object."""

    PLAIN = "plain"
    STRIPES = "stripes"
    CHECKS = "checks"
    SPOTS = "spots"


@dataclass(frozen=True)
class Texture:
    """Pattern in two colours."""

    pattern: Pattern
    colours: tuple[Colour, Colour]
    pitch: float
    """Periods per radius."""

    def paint(self, u: Plane, v: Plane) -> Canvas:
        """Colours at object coordinates `u`, `v`."""
        first, second = (np.array(colour, np.float32) for colour in self.colours)
        if self.pattern is Pattern.PLAIN:
            return np.broadcast_to(first, (*u.shape, 3))
        mixed: Canvas = first + self._mask(u, v)[..., None] * (second - first)
        return mixed

    def _mask(self, u: Plane, v: Plane) -> Plane:
        scale = np.float32(self.pitch * math.pi)
        wave = np.sin(u * scale)
        if self.pattern is Pattern.CHECKS:
            wave *= np.sin(v * scale) * 2
        elif self.pattern is Pattern.SPOTS:
            wave = np.cos(u * scale) + np.cos(v * scale) - 0.8
        mask: Plane = np.clip(0.5 + 2.5 * wave, 0, 1)
        return mask


@dataclass(frozen=True)
class Motion:
    """A smooth path: a sway about a centre, and a turn. Positions in pixels, angles in radians."""

    centre: tuple[float, float]
    sway: tuple[float, float]
    rate: tuple[float, float]
    """Radians of the sway per frame, across and down."""
    phase: tuple[float, float]
    angle: float
    spin: float
    """Radians per frame."""

    def at(self, time: float) -> tuple[float, float, float]:
        """Across, down and angle at `time` frames."""
        x = self.centre[0] + self.sway[0] * math.sin(self.rate[0] * time + self.phase[0])
        y = self.centre[1] + self.sway[1] * math.sin(self.rate[1] * time + self.phase[1])
        return x, y, self.angle + self.spin * time


@dataclass(frozen=True)
class Light:
    """One lamp, far away."""

    direction: tuple[float, float]
    """Unit vector across and down that points towards the lamp."""
    shadow: float
    """Darkness of a cast shadow, 0..1."""


@dataclass(frozen=True)
class Item:
    """An object on the canvas."""

    shape: Shape
    radius: float
    """In pixels."""
    motion: Motion
    texture: Texture

    def draw(self, canvas: Canvas, time: float, light: Light) -> None:
        """Paint the object as it looks to a camera whose shutter opens around `time`."""
        region = self._region(canvas.shape[1], canvas.shape[0], time)
        if region is None:
            return
        left, top, right, bottom = region
        window = canvas[top:bottom, left:right]
        x = np.arange(left, right, dtype=np.float32)[None, :]
        y = np.arange(top, bottom, dtype=np.float32)[:, None]
        self._cast_shadow(window, x, y, self.motion.at(time), light)
        self._cover(window, x, y, time, light)

    def _region(self, width: int, height: int, time: float) -> tuple[int, int, int, int] | None:
        """Window that holds object, blur and shadow, clipped to the canvas."""
        x, y, _ = self.motion.at(time)
        reach = self.radius * 1.25 + 4 + sum(abs(sway * rate) for sway, rate in zip(*self._pace(), strict=True))
        left, top = max(0, int(x - reach)), max(0, int(y - reach))
        right, bottom = min(width, int(x + reach) + 1), min(height, int(y + reach) + 1)
        return (left, top, right, bottom) if left < right and top < bottom else None

    def _pace(self) -> tuple[tuple[float, float], tuple[float, float]]:
        return self.motion.sway, self.motion.rate

    def _local(self, x: Plane, y: Plane, pose: tuple[float, float, float]) -> tuple[Plane, Plane]:
        cos, sin = math.cos(pose[2]) / self.radius, math.sin(pose[2]) / self.radius
        across, down = x - np.float32(pose[0]), y - np.float32(pose[1])
        return across * np.float32(cos) + down * np.float32(sin), down * np.float32(cos) - across * np.float32(sin)

    def _cast_shadow(self, window: Canvas, x: Plane, y: Plane, pose: tuple[float, float, float], light: Light) -> None:
        drop = 0.14 * self.radius
        shifted = (pose[0] - light.direction[0] * drop, pose[1] - light.direction[1] * drop, pose[2])
        distance = self.shape(*self._local(x, y, shifted))
        window *= 1 - light.shadow * np.clip(0.5 - distance * np.float32(6), 0, 1)[..., None]

    def _cover(self, window: Canvas, x: Plane, y: Plane, time: float, light: Light) -> None:
        u, v = self._local(x, y, self.motion.at(time))
        distance = self.shape(u, v)
        samples = BLUR_SAMPLES if self._travel(time) > 1 else 1
        coverage = np.clip(0.5 - distance * np.float32(self.radius), 0, 1)
        for step in range(1, samples):
            offset = SHUTTER * (0.5 if step == 1 else -0.5)
            moved = self.shape(*self._local(x, y, self.motion.at(time + offset)))
            coverage += np.clip(0.5 - moved * np.float32(self.radius), 0, 1)
        coverage *= np.float32(1 / samples)
        colour = self.texture.paint(u, v) * self._shade(x, y, distance, time, light)[..., None]
        window += coverage[..., None] * (colour - window)

    def _travel(self, time: float) -> float:
        """Pixels that the object's centre or rim moves while the shutter is open."""
        before, after = self.motion.at(time - SHUTTER / 2), self.motion.at(time + SHUTTER / 2)
        return math.hypot(after[0] - before[0], after[1] - before[1]) + self.radius * abs(after[2] - before[2])

    def _shade(self, x: Plane, y: Plane, distance: Plane, time: float, light: Light) -> Plane:
        """Brighter towards the lamp, and darker along the rim, as if the object were rounded."""
        across, down, _ = self.motion.at(time)
        slope = (x - np.float32(across)) * np.float32(light.direction[0] / self.radius)
        slope = slope + (y - np.float32(down)) * np.float32(light.direction[1] / self.radius)
        rim = np.clip(0.75 - distance * np.float32(2.5), 0.75, 1)
        shade: Plane = (1 + np.float32(0.3) * slope) * rim
        return shade
