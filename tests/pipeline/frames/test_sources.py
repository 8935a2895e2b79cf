"""What users may type for a source, and folders of pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import SourceError
from pipeline.frames.pictures import PictureFolder
from pipeline.frames.scene import SceneOptions
from pipeline.frames.sources import SceneSource, open_source, parse_scene
from tests.data import DATA, needs_data
from tests.pipeline.frames.videos import write_video


def fill(folder: Path, names: list[str]) -> Path:
    folder.mkdir()
    for index, name in enumerate(names):
        Image.fromarray(np.full((20 + index, 30, 3), 40 * index, np.uint8)).save(folder / name)
    return folder


def test_a_folder_is_read_in_the_order_of_names(tmp_path: Path) -> None:
    folder = fill(tmp_path / "pictures", ["c.png", "a.png", "b.bmp"])
    (folder / "notes.txt").write_text("not a picture")
    source = open_source(str(folder))
    assert source.fps is None and not source.live
    frames = list(source.frames())
    assert [frame.rgb.shape for frame in frames] == [(21, 30, 3), (22, 30, 3), (20, 30, 3)]
    assert [frame.time_s for frame in frames] == [0.0, 1.0, 2.0]
    assert all(frame.truth is None for frame in frames)


def test_a_folder_may_hold_the_truth(tmp_path: Path) -> None:
    folder = fill(tmp_path / "pictures", ["a.png", "b.png", "c.png"])
    (folder / "labels.csv").write_text('filename,class,more\na.png,7,"x, y"\nb.png,tench,\n')
    assert [frame.truth for frame in open_source(str(folder)).frames()] == [7, "tench", None]


def test_a_truth_file_that_is_no_table_is_refused(tmp_path: Path) -> None:
    folder = fill(tmp_path / "pictures", ["a.png"])
    (folder / "labels.csv").write_text("filename\na.png\n")
    with pytest.raises(SourceError, match=r"labels\.csv: not a table .*; write a header line"):
        open_source(str(folder))


def test_grey_transparent_and_turned_pictures_become_rgb(tmp_path: Path) -> None:
    folder = fill(tmp_path / "pictures", [])
    Image.new("L", (30, 20), 9).save(folder / "a.png")
    Image.new("RGBA", (30, 20)).save(folder / "b.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held on its side
    Image.new("RGB", (30, 20)).save(folder / "c.jpg", exif=exif)
    assert [frame.rgb.shape for frame in open_source(str(folder)).frames()] == [(20, 30, 3), (20, 30, 3), (30, 20, 3)]


def test_a_broken_picture_is_skipped_and_told(tmp_path: Path) -> None:
    folder = fill(tmp_path / "pictures", ["a.png", "b.png", "c.png"])
    data = (folder / "b.png").read_bytes()
    (folder / "b.png").write_bytes(data[: len(data) // 2])
    events: list[str] = []
    source = open_source(str(folder), on_event=lambda kind, text: events.append(kind))
    assert [frame.number for frame in source.frames()] == [0, 1]
    assert events == ["picture-skipped"]
    assert source.ended_early == "1 of 3 pictures could not be read (first: b.png)"


@needs_data
def test_real_pictures_come_with_their_class() -> None:
    source = open_source(str(DATA / "imagenet"), limit=3)
    assert isinstance(source, PictureFolder) and len(source.paths) == 500
    assert [frame.truth for frame in source.frames()] == [0, 2, 4]


def test_scene_options_are_parsed() -> None:
    assert parse_scene("", seed=4) == SceneOptions(seed=4)
    wanted = SceneOptions(seed=3, width=320, height=240, every=5, fps=12.5)
    assert parse_scene("seed=3, size=320x240,every=5,fps=12.5", seed=4) == wanted


@pytest.mark.parametrize("text", ["sede=3", "size=320", "size=axb", "every=0", "seed=", "size=100x100", "fps=-1"])
def test_senseless_scene_options_are_refused(text: str) -> None:
    with pytest.raises(SourceError, match="scene"):
        open_source(f"scene:{text}")


def test_a_scene_counts_frames_and_knows_its_truth() -> None:
    source = open_source("scene:every=2,fps=10", seed=5, limit=5)
    assert isinstance(source, SceneSource) and source.fps == 10
    frames = list(source.frames())
    assert [frame.time_s for frame in frames] == [0.0, 0.1, 0.2, 0.3, 0.4]
    truths = [frame.truth for frame in frames]
    assert truths[0] == truths[1] != truths[2] == truths[3] != truths[4]


def test_a_missing_file_suggests_its_neighbour(tmp_path: Path) -> None:
    write_video(tmp_path / "street.mp4", 2)
    with pytest.raises(SourceError, match=r"stret\.mp4: not found; did you mean .*street\.mp4\?"):
        open_source(str(tmp_path / "stret.mp4"))
    with pytest.raises(SourceError, match=r"not found; give a video, a folder"):
        open_source(str(tmp_path / "nowhere" / "x.mp4"))


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no picture in this folder"):
        open_source(str(tmp_path))


def test_an_unknown_kind_of_address_is_refused() -> None:
    with pytest.raises(SourceError, match=r"unknown kind of address gopher://; known are http, https, rtmp"):
        open_source("gopher://host/film")


def test_a_camera_that_is_not_there_is_an_error() -> None:
    with pytest.raises(SourceError, match="camera:97"):
        open_source("camera:97")
