"""Resize and crop: exact where nothing is resampled, equal to resize-then-crop elsewhere."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.errors import ConfigError
from pipeline.frames.preprocess import Preprocess


def random_picture(height: int, width: int) -> np.ndarray:
    coarse = np.random.default_rng(height * 1000 + width).integers(0, 256, (height // 8 + 2, width // 8 + 2, 3))
    return np.asarray(Image.fromarray(coarse.astype(np.uint8)).resize((width, height), Image.Resampling.BICUBIC))


def test_a_picture_of_the_right_scale_is_cropped_untouched() -> None:
    rgb = random_picture(256, 341)
    picture = Preprocess().picture(rgb)
    assert picture.shape == (1, 3, 224, 224)
    assert picture.dtype == torch.uint8 and picture.is_contiguous()
    assert np.array_equal(picture[0].numpy(), rgb[16:240, 58:282].transpose(2, 0, 1))


def test_the_picture_is_a_copy() -> None:
    rgb = random_picture(224, 224).copy()
    picture = Preprocess(resize=224).picture(rgb)
    rgb.fill(0)
    assert np.array_equal(picture[0].numpy(), random_picture(224, 224).transpose(2, 0, 1))


@settings(max_examples=40, deadline=None)
@given(st.integers(40, 700), st.integers(40, 700), st.sampled_from([(224, 224), (96, 160), (160, 96)]))
def test_crop_and_resize_in_one_step_equals_one_after_the_other(height: int, width: int, size: tuple[int, int]) -> None:
    rgb = random_picture(height, width)
    scale = max(240 / min(height, width), size[0] / height, size[1] / width)
    scaled = max(round(width * scale), size[1]), max(round(height * scale), size[0])
    left, top = (scaled[0] - size[1]) // 2, (scaled[1] - size[0]) // 2
    whole = Image.fromarray(rgb).resize(scaled, Image.Resampling.BILINEAR)
    expected = np.asarray(whole.crop((left, top, left + size[1], top + size[0]))).astype(int)
    found = Preprocess(size=size, resize=240).picture(rgb)[0].permute(1, 2, 0).numpy().astype(int)
    # Both passes round to 8 bits: a coordinate that differs in its last bit may move each by one level.
    assert np.abs(expected - found).max() <= 2


def test_squash_shows_the_whole_picture() -> None:
    rgb = np.zeros((100, 300, 3), np.uint8)
    rgb[:, :150] = 255
    picture = Preprocess(size=(64, 64), resize=None).picture(rgb)
    assert int(picture[0, 0, 0, 0]) == 255 and int(picture[0, 0, -1, -1]) == 0
    assert abs(float(picture.float().mean()) - 127.5) < 1


def test_the_same_picture_twice_gives_the_same_bytes() -> None:
    rgb = random_picture(432, 768)
    assert torch.equal(Preprocess().picture(rgb), Preprocess().picture(rgb))


def test_settings_travel_as_json_and_unknown_ones_are_refused() -> None:
    wanted = Preprocess(size=(352, 352), resize=None, bgr=True, rotate180=True)
    assert msgspec.json.decode(msgspec.json.encode(wanted), type=Preprocess) == wanted
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b'{"sice": [1, 1]}', type=Preprocess)


@pytest.mark.parametrize("settings_", [{"size": (0, 4)}, {"resize": 0}, {"std": (1.0, 0.0, 1.0)}])
def test_senseless_settings_are_refused(settings_: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="must be positive"):
        msgspec.convert(Preprocess(**settings_), Preprocess)  # type: ignore[arg-type]
