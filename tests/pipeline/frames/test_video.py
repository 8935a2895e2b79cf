"""Video files whole and broken; live streams that are lost and found."""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import SourceError
from pipeline.frames.decoder import Container
from pipeline.frames.source import Frame, SourceSettings
from pipeline.frames.sources import open_source
from pipeline.frames.video import Backoff, LiveVideo, stream_opener
from tests.data import DATA, needs_data
from tests.pipeline.frames.rtsp import RtspCamera
from tests.pipeline.frames.videos import cut_short, number_of, spoil, write_video

NOW = Backoff(first_s=0.0)


def numbers(frames: list[Frame]) -> list[int]:
    return [number_of(frame.rgb) for frame in frames]


def test_every_frame_comes_once_in_order_with_its_time(tmp_path: Path) -> None:
    source = open_source(str(write_video(tmp_path / "film.mp4", 25, fps=10)))
    frames = list(source.frames())
    assert source.fps == 10 and not source.live and source.ended_early is None
    assert [frame.number for frame in frames] == numbers(frames) == list(range(25))
    assert [frame.time_s for frame in frames] == pytest.approx([n / 10 for n in range(25)])
    assert frames[0].rgb.shape == (64, 96, 3) and frames[0].rgb.flags.c_contiguous


def test_a_limit_ends_a_source_without_blame(tmp_path: Path) -> None:
    source = open_source(str(write_video(tmp_path / "film.mp4", 25)), limit=7)
    assert numbers(list(source.frames())) == list(range(7))
    assert source.ended_early is None


@pytest.mark.parametrize(
    ("suffix", "breaking", "share"), [("mp4", cut_short, 0.7), ("mp4", spoil, 0.7), ("mkv", cut_short, 0.5)]
)
def test_a_video_that_breaks_gives_what_comes_before(
    tmp_path: Path, suffix: str, breaking: Callable[[Path, float], Path], share: float
) -> None:
    whole = write_video(tmp_path / f"film.{suffix}", 30, gop=5)
    source = open_source(str(breaking(whole, share)))
    found = numbers(list(source.frames()))
    assert 5 < len(found) < 25
    good = len(found) - (breaking is spoil)  # the picture that the damage begins in may still be decoded
    assert found[:good] == list(range(good))
    assert source.ended_early is not None
    assert f"breaks off after {len(found)} frames" in source.ended_early and "\n" not in source.ended_early


def test_reading_ends_when_the_source_is_closed(tmp_path: Path) -> None:
    source = open_source(str(write_video(tmp_path / "film.mp4", 25)))
    frames = source.frames()
    next(frames)
    source.close()
    assert list(frames) == []


@pytest.mark.parametrize("content", [b"", b"hello, no video\n" * 500])
def test_a_file_that_is_no_video_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "film.mp4").write_bytes(content)
    with pytest.raises(SourceError, match=r"film\.mp4: cannot be opened .*; check that it is a video"):
        open_source(str(tmp_path / "film.mp4"))


def test_a_sound_without_pictures_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "sound.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame(format="s16", layout="mono", samples=800)
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
    with pytest.raises(SourceError, match="there is no video in it"):
        open_source(str(path))


@needs_data
@pytest.mark.parametrize(("name", "count", "fps"), [("car-detection", 377, 12.5), ("solidWhiteRight", 221, 25)])
def test_real_videos_are_read_whole(name: str, count: int, fps: float) -> None:
    source = open_source(str(DATA / "video" / f"{name}.mp4"))
    assert [frame.number for frame in source.frames()] == list(range(count))
    assert source.fps == fps and source.ended_early is None


@given(st.integers(0, 2000))
def test_the_back_off_grows_to_its_bound(attempt: int) -> None:
    backoff = Backoff(first_s=0.5, longest_s=30)
    assert 0.5 <= backoff.delay_s(attempt) <= backoff.delay_s(attempt + 1) <= 30
    assert backoff.delay_s(2) == 2.0 and backoff.delay_s(6) == 30.0


class Camera:
    """Opens one of several films at each attempt; None is an attempt that fails."""

    def __init__(self, films: list[Path | None]) -> None:
        self.films = iter(films)

    def __call__(self) -> Container:
        film = next(self.films)
        if film is None:
            raise av.ConnectionRefusedError(111, "Connection refused")
        return av.open(str(film))


def live(films: list[Path | None], settings: SourceSettings, backoff: Backoff = NOW) -> LiveVideo:
    return LiveVideo("rtsp://camera", settings, Camera(films), backoff)


def test_a_lost_stream_is_opened_again_and_numbers_go_on(tmp_path: Path) -> None:
    first, second = write_video(tmp_path / "a.mp4", 5), write_video(tmp_path / "b.mkv", 6)
    events: list[tuple[str, str]] = []
    settings = SourceSettings(limit=11, notify=lambda kind, text: events.append((kind, text)))
    source = live([first, None, None, second], settings)
    frames = list(source.frames())
    assert source.live
    assert [frame.number for frame in frames] == list(range(11))
    assert numbers(frames) == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 5]
    times = [frame.time_s for frame in frames]
    assert times[0] == 0 and times == sorted(times)
    assert [kind for kind, _ in events] == ["source-lost", "source-retry", "source-retry", "source-back"]
    assert "Connection refused" in events[1][1]


def test_a_real_rtsp_stream_is_opened_again_when_its_camera_hangs_up() -> None:
    camera = RtspCamera(pictures=12)
    try:
        events: list[str] = []
        settings = SourceSettings(limit=20, notify=lambda kind, _: events.append(kind))
        source = LiveVideo(camera.address, settings, stream_opener(camera.address), NOW)
        frames = list(source.frames())
        source.close()
    finally:
        camera.stop()
    assert [frame.number for frame in frames] == list(range(20))
    assert camera.sessions >= 2 and events[:2] == ["source-lost", "source-back"]
    shown = numbers(frames)
    assert set(shown) <= set(range(12)) and shown[:5] == [0, 1, 2, 3, 4]


def test_a_stream_that_cannot_be_opened_at_first_is_an_error() -> None:
    with pytest.raises(SourceError, match=r"rtsp://camera: cannot be opened \(Connection refused\); check"):
        live([None], SourceSettings())


def test_a_damaged_packet_does_not_end_a_live_stream(tmp_path: Path) -> None:
    film = spoil(write_video(tmp_path / "a.mp4", 30, gop=5), 0.7)
    whole = write_video(tmp_path / "b.mp4", 30)
    source = live([film, whole], SourceSettings(limit=40))
    assert len(list(source.frames())) == 40


def test_the_time_of_a_live_frame_is_the_callers_clock(tmp_path: Path) -> None:
    ticks: Iterator[float] = iter([100.0, 100.5, 101.5])
    film = write_video(tmp_path / "a.mp4", 3)
    source = LiveVideo("camera:0", SourceSettings(limit=3), Camera([film]), NOW, clock=lambda: next(ticks))
    assert [frame.time_s for frame in source.frames()] == [0.0, 0.5, 1.5]


def test_closing_wakes_a_source_that_waits_to_try_again(tmp_path: Path) -> None:
    lost = threading.Event()
    settings = SourceSettings(notify=lambda kind, text: lost.set())
    source = live([write_video(tmp_path / "a.mp4", 3)], settings, Backoff(first_s=3600, longest_s=3600))
    reader = threading.Thread(target=lambda: list(source.frames()))
    reader.start()
    assert lost.wait(20)
    source.close()
    reader.join(20)
    assert not reader.is_alive()


def test_a_telephone_held_upright_gives_upright_pictures(tmp_path: Path) -> None:
    path = write_video(tmp_path / "film.mp4", 3)
    upright = struct.pack(">9I", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
    on_its_side = struct.pack(">9I", 0, 0x10000, 0, 0xFFFF0000, 0, 0, 0, 0, 0x40000000)  # shown 90 degrees clockwise
    data = path.read_bytes()
    header = data.index(b"tkhd")
    assert upright in data[header:]
    path.write_bytes(data[:header] + data[header:].replace(upright, on_its_side, 1))
    picture = next(open_source(str(path)).frames()).rgb
    assert picture.shape == (96, 64, 3) and picture.flags.c_contiguous
    assert picture[:40].mean() > picture[56:].mean() + 40  # the bright left half is on top now
