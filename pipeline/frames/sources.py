"""Opens a source by the words that a user types.

| words | source |
|---|---|
| `film.mp4`, `https://host/film.mp4` | a video, read to its end |
| `rtsp://host/stream`, also rtmp, udp, srt, ... | a live stream |
| `camera:0`, `/dev/video0` | a camera of this machine |
| `pictures/` | a folder of pictures |
| `scene:`, `scene:seed=3,size=320x240,every=20,fps=25` | rendered scenes with known truth |
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path

import msgspec

from pipeline.errors import SourceError
from pipeline.frames.pictures import PictureFolder
from pipeline.frames.scene import Scene, SceneOptions
from pipeline.frames.shapes import LABELS
from pipeline.frames.source import Frame, Notify, Shot, Source, SourceSettings, ignore
from pipeline.frames.video import LIVE_SCHEMES, LiveVideo, VideoFile, camera_opener, stream_opener

__all__ = ["Frame", "Notify", "SceneSource", "Source", "open_source", "parse_scene"]


class SceneSource(Source):
    """Rendered scenes (see `pipeline.frames.scene`), endless unless limited."""

    def __init__(self, options: SceneOptions, settings: SourceSettings) -> None:
        super().__init__(f"scene:seed={options.seed}", settings)
        self.fps = options.fps
        self._scene = Scene(options)

    def shots(self) -> Iterator[Shot]:
        """Picture after picture, with the name of the object's class as truth."""
        number = 0
        while True:
            yield Shot(number / self._scene.options.fps, self._scene.render(number), LABELS[self._scene.truth(number)])
            number += 1


def open_source(spec: str, *, seed: int = 0, limit: int | None = None, on_event: Notify = ignore) -> Source:
    """The source that `spec` names (see the table above).

    Args:
        spec: what the user typed.
        seed: of `scene:`, where `spec` gives none.
        limit: frames after which the source ends.
        on_event: told of lost and recovered cameras and of skipped pictures; called in the reading thread.

    Raises:
        SourceError: there is no such thing, or it is not a source.
    """
    settings = SourceSettings(seed, limit, on_event)
    scheme, colon, rest = spec.partition(":")
    if colon and scheme == "scene":
        return SceneSource(parse_scene(rest, seed), settings)
    if colon and scheme == "camera":
        return LiveVideo(spec, settings, camera_opener(rest or "0"))
    if "://" in spec and scheme in LIVE_SCHEMES:
        return LiveVideo(spec, settings, stream_opener(spec))
    if "://" in spec:
        return _remote(spec, scheme, settings)
    return _local(Path(spec), settings)


def parse_scene(text: str, seed: int = 0) -> SceneOptions:
    """Options of `scene:`, such as `seed=3,size=320x240`.

    Raises:
        SourceError: an unknown option, or a value that does not fit.
    """
    values: dict[str, str] = {"seed": str(seed)}
    for item in filter(None, text.split(",")):
        key, _, value = item.partition("=")
        values[key.strip()] = value.strip()
    if "size" in values:
        values["width"], _, values["height"] = values.pop("size").partition("x")
    try:
        return msgspec.convert(values, SceneOptions, strict=False)
    except msgspec.ValidationError as error:
        mend = "options are seed, size=WIDTHxHEIGHT, every, fps"
        raise SourceError(f"scene:{text}", str(error), mend) from error


def _remote(spec: str, scheme: str, settings: SourceSettings) -> Source:
    if scheme not in {"http", "https", "file"}:
        known = ", ".join(sorted(LIVE_SCHEMES | {"http", "https"}))
        raise SourceError(spec, f"unknown kind of address {scheme}://", f"known are {known}")
    return VideoFile(spec, settings)


def _local(path: Path, settings: SourceSettings) -> Source:
    if path.is_dir():
        return PictureFolder(path, settings)
    if path.is_char_device():
        return LiveVideo(str(path), settings, camera_opener(str(path)))
    if not path.exists():
        raise SourceError(str(path), "not found", _suggest(path))
    return VideoFile(str(path), settings)


def _suggest(path: Path) -> str:
    """A file of nearly that name beside it, or the kinds of sources."""
    beside = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, beside, n=1)
    if close:
        return f"did you mean {path.parent / close[0]}?"
    return "give a video, a folder of pictures, rtsp://..., camera:0 or scene:"
