"""Rendered scenes: a pure function of options and number, with a truth that is fair."""

from __future__ import annotations

import collections
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import SourceError
from pipeline.frames.paint import Item, Light, Motion, Pattern, Texture
from pipeline.frames.scene import Scene, SceneOptions
from pipeline.frames.shapes import CLASSES, CLUTTER, LABELS


def change(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(int) - b.astype(int)).mean())


def test_a_picture_depends_on_seed_and_number_only() -> None:
    forwards, backwards = Scene(SceneOptions(seed=3)), Scene(SceneOptions(seed=3))
    wanted = [forwards.render(number) for number in (0, 1, 19, 20, 65)]
    found = [backwards.render(number) for number in (65, 20, 19, 1, 0)][::-1]
    assert all(np.array_equal(a, b) for a, b in zip(wanted, found, strict=True))
    assert change(wanted[0], Scene(SceneOptions(seed=4)).render(0)) > 10


@pytest.mark.parametrize(("width", "height"), [(224, 224), (320, 240), (225, 301)])
def test_pictures_have_the_size_asked_for(width: int, height: int) -> None:
    picture = Scene(SceneOptions(width=width, height=height)).render(7)
    assert picture.shape == (height, width, 3) and picture.dtype == np.uint8
    assert picture.std() > 10


def test_motion_is_smooth_within_a_scene_and_breaks_between_two() -> None:
    scene = Scene(SceneOptions(seed=8))
    pictures = [scene.render(number) for number in range(40)]
    steps = [change(a, b) for a, b in itertools.pairwise(pictures)]
    inside = steps[:19] + steps[20:]
    assert 0.5 < min(inside) and max(inside) < steps[19] / 2


@given(st.integers(0, 10_000), st.integers(1, 40))
@settings(max_examples=30, deadline=None)
def test_classes_are_balanced_and_never_repeat_at_once(seed: int, every: int) -> None:
    scene = Scene(SceneOptions(seed=seed, every=every))
    truths = [scene.truth(index * every) for index in range(6 * len(LABELS))]
    assert set(collections.Counter(truths).values()) == {6}
    assert all(a != b for a, b in itertools.pairwise(truths))
    assert scene.truth(every - 1) == truths[0] and scene.truth(every) == truths[1]


@pytest.mark.parametrize("name", LABELS)
def test_outlines_fill_a_fair_part_of_their_circle(name: str) -> None:
    axis = np.linspace(-1.3, 1.3, 261, dtype=np.float32)
    distance = CLASSES[name](axis[None, :], axis[:, None])
    assert distance.dtype == np.float32 and distance.shape == (261, 261)
    inside = distance < 0
    assert 0.3 < inside.sum() / (np.hypot(axis[None, :], axis[:, None]) < 1).sum() < 0.85
    assert not inside[[0, -1]].any() and not inside[:, [0, -1]].any()


@pytest.mark.parametrize("shape", [*CLASSES.values(), *CLUTTER])
def test_distances_are_nowhere_steeper_than_they_may(shape: object) -> None:
    """Anti-aliasing takes the field for a distance: a slope far above 1 would draw jagged edges."""
    axis = np.linspace(-1.2, 1.2, 481, dtype=np.float32)
    distance = shape(axis[None, :], axis[:, None])  # type: ignore[operator]
    near = np.abs(distance[1:-1, 1:-1]) < 0.05
    slope = np.hypot(np.diff(distance, axis=1)[1:-1, 1:], np.diff(distance, axis=0)[1:, 1:-1]) / (axis[1] - axis[0])
    assert np.quantile(slope[near], 0.9) < 4


def test_an_object_leaves_what_is_far_from_it_alone() -> None:
    still = Motion((30.0, 40.0), (0.0, 0.0), (0.0, 0.0), (0.0, 0.0), 0.0, 0.0)
    red = Texture(Pattern.PLAIN, ((1.0, 0.0, 0.0), (0.0, 0.0, 0.0)), 2.0)
    canvas = np.full((100, 120, 3), 0.5, np.float32)
    Item(CLASSES["disc"], 10.0, still, red).draw(canvas, 0.0, Light((1.0, 0.0), 0.5))
    assert canvas[40, 30, 0] > 0.8 and canvas[40, 30, 1] < 0.1
    assert np.all(canvas[:, 50:] == 0.5) and np.all(canvas[60:] == 0.5)


def test_an_object_outside_the_picture_paints_nothing() -> None:
    away = Motion((-500.0, 40.0), (0.0, 0.0), (0.0, 0.0), (0.0, 0.0), 0.0, 0.0)
    red = Texture(Pattern.PLAIN, ((1.0, 0.0, 0.0), (0.0, 0.0, 0.0)), 2.0)
    canvas = np.full((50, 50, 3), 0.5, np.float32)
    Item(CLASSES["star"], 10.0, away, red).draw(canvas, 0.0, Light((1.0, 0.0), 0.5))
    assert np.all(canvas == 0.5)


def test_small_pictures_are_refused() -> None:
    with pytest.raises(SourceError, match="scene of 100x300: too small; choose at least 224x224"):
        SceneOptions(width=100, height=300)
