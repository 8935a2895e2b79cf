"""The outlines that the rendered scenes are made of, as distance fields.

Each function takes coordinates in units of the object's radius and gives the (approximate) distance to the
outline in the same units, negative inside. Distance fields need no polygon filling, so one NumPy expression
draws an anti-aliased, motion-blurred object of any size and angle.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Plane = NDArray[Any]
"""Of float32; untyped, since NumPy's stubs take such an array times a Python float to be float64."""

Shape = Callable[[Plane, Plane], Plane]


def disc(x: Plane, y: Plane) -> Plane:
    """A full circle."""
    return np.hypot(x, y) - 0.9


def ring(x: Plane, y: Plane) -> Plane:
    """A circle with a wide hole."""
    return np.abs(np.hypot(x, y) - 0.72) - 0.22


def square(x: Plane, y: Plane) -> Plane:
    """Four equal sides."""
    distance: Plane = np.maximum(np.abs(x), np.abs(y)) - 0.75
    return distance


def triangle(x: Plane, y: Plane) -> Plane:
    """Three equal sides."""
    distance: Plane = np.maximum(np.abs(x) * 0.866 - y * 0.5, y) - 0.52
    return distance


def star(x: Plane, y: Plane) -> Plane:
    """Five points; the plane is folded on to half a point, whose outline is one straight line."""
    folded = np.abs(np.mod(np.arctan2(y, x), 2 * math.pi / 5) - math.pi / 5)
    radius = np.hypot(x, y)
    along, across = radius * np.cos(math.pi / 5 - folded), radius * np.sin(math.pi / 5 - folded)
    notch_x, notch_y = 0.42 * math.cos(math.pi / 5), 0.42 * math.sin(math.pi / 5)
    edge_x, edge_y = notch_x - 1.0, notch_y
    distance: Plane = (across * -edge_x + (along - 1.0) * edge_y) / math.hypot(edge_x, edge_y)
    return distance


def cross(x: Plane, y: Plane) -> Plane:
    """Two bars at a right angle."""
    across, along = np.abs(x), np.abs(y)
    distance: Plane = np.minimum(np.maximum(across - 0.95, along - 0.3), np.maximum(across - 0.3, along - 0.95))
    return distance


def heart(x: Plane, y: Plane) -> Plane:
    """A square on its corner with a disc on each of its two upper sides."""
    side = 0.58
    lowered = y - 0.1
    u, v = (x - lowered) * 0.7071, (-x - lowered) * 0.7071
    body = np.maximum(np.abs(u), np.abs(v)) - side
    lobes = np.minimum(np.hypot(u - side, v), np.hypot(u, v - side)) - side
    distance: Plane = np.minimum(body, lobes)
    return distance


def crescent(x: Plane, y: Plane) -> Plane:
    """A disc less another disc."""
    distance: Plane = np.maximum(np.hypot(x, y) - 0.95, 0.75 - np.hypot(x - 0.45, y))
    return distance


def arrow(x: Plane, y: Plane) -> Plane:
    """A shaft with a head."""
    shaft = np.maximum(np.abs(y) - 0.2, np.abs(x + 0.35) - 0.6)
    head = np.maximum(np.abs(y) * 0.78 + (x - 0.95) * 0.62, 0.0 - x)
    distance: Plane = np.minimum(shaft, head)
    return distance


def gear(x: Plane, y: Plane) -> Plane:
    """Eight teeth and a small hole."""
    radius = np.hypot(x, y)
    teeth = np.clip(np.cos(8 * np.arctan2(y, x)) * 2, -1, 1)
    distance: Plane = np.maximum(radius - 0.8 - 0.14 * teeth, 0.26 - radius)
    return distance


def bar(x: Plane, y: Plane) -> Plane:
    """Clutter: a long thin strip."""
    distance: Plane = np.maximum(np.abs(x) - 1.0, np.abs(y) - 0.09)
    return distance


def blob(x: Plane, y: Plane) -> Plane:
    """Clutter: a lump without symmetry."""
    angle = np.arctan2(y, x)
    distance: Plane = np.hypot(x * 0.8, y * 1.3) - 0.6 - 0.16 * np.sin(2 * angle + 1) - 0.12 * np.cos(3 * angle)
    return distance


CLASSES: dict[str, Shape] = {
    "disc": disc,
    "ring": ring,
    "square": square,
    "triangle": triangle,
    "star": star,
    "cross": cross,
    "heart": heart,
    "crescent": crescent,
    "arrow": arrow,
    "gear": gear,
}
"""What the main object of a scene can be, in the order of the class indices."""

CLUTTER: tuple[Shape, ...] = (bar, blob)
"""What lies about besides."""

LABELS: tuple[str, ...] = tuple(CLASSES)
"""Class names by index."""
