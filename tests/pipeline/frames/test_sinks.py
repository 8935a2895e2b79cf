"""Results on disk: every line, a playable video, and one clear error when the disk is full."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import av
import msgspec
import numpy as np
import pytest

from pipeline.errors import SinkError
from pipeline.frames.annotate import AnnotatedVideo, annotate
from pipeline.frames.results import Guess, Result
from pipeline.frames.sinks import Background, JsonLines, Sink
from pipeline.frames.source import Rgb
from tests.pipeline.frames.videos import number_of, plain_picture

FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")


def answer(number: int, fps: float = 10) -> Result:
    guesses = (Guess(1, "a ring of a very long name " * 4, 0.9), Guess(0, None, 0.06), Guess(2, "disc", 0.0))
    return Result(number, number / fps, guesses, epoch=3, latency_s=0.02, truth=1)


def decoded(path: Path) -> tuple[list[Rgb], list[float], float]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = list(container.decode(stream))
        rate = float(stream.average_rate or 0)
    times = [float(frame.time or 0) for frame in frames]
    return [np.asarray(frame.to_ndarray(format="rgb24"), np.uint8) for frame in frames], times, rate


def test_every_result_is_a_line_at_once(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    with JsonLines(path) as sink:
        for number in range(5):
            sink.write(answer(number), plain_picture(number))
            assert path.read_bytes().count(b"\n") == number + 1
    lines = path.read_bytes().splitlines()
    assert [msgspec.json.decode(line, type=Result) for line in lines] == [answer(number) for number in range(5)]


@pytest.mark.parametrize("kept", [1, 3])
def test_a_bounded_file_keeps_the_newest_results(tmp_path: Path, kept: int) -> None:
    path, earlier = tmp_path / "results.jsonl", tmp_path / "earlier-results.jsonl"
    most_bytes = kept * (len(msgspec.json.encode(answer(10))) + 1)
    with JsonLines(path, most_bytes) as sink:
        for number in range(10, 30):
            sink.write(answer(number), plain_picture(number))
            assert all(file.stat().st_size <= most_bytes for file in tmp_path.iterdir())
    lines = [*earlier.read_bytes().splitlines(), *path.read_bytes().splitlines()]
    found = [msgspec.json.decode(line, type=Result).frame for line in lines]
    assert found == list(range(30 - len(found), 30))
    assert len(found) > kept


@needs_full
def test_a_full_disk_is_told_once() -> None:
    sink = JsonLines(FULL)
    with pytest.raises(SinkError, match="/dev/full: the disk is full; free space, or choose another folder"):
        sink.write(answer(0), plain_picture(0))
    sink.write(answer(1), plain_picture(1))
    sink.close()


def test_a_sink_in_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SinkError, match=r"results\.jsonl: its folder does not exist; create it"):
        JsonLines(tmp_path / "none" / "results.jsonl")
    with pytest.raises(SinkError, match=r"out\.mp4: its folder does not exist; create it"):
        AnnotatedVideo(tmp_path / "none" / "out.mp4", 10)


def test_an_annotated_video_keeps_rate_frames_and_pictures(tmp_path: Path) -> None:
    with AnnotatedVideo(tmp_path / "out.mp4", 10) as sink:
        for number in range(25):
            sink.write(answer(number), plain_picture(number, 240, 320))
    pictures, times, rate = decoded(tmp_path / "out.mp4")
    assert rate == 10 and times == pytest.approx([n / 10 for n in range(25)])
    assert pictures[0].shape == (240, 320, 3)
    for number, picture in enumerate(pictures):
        top_half = picture[:120].astype(int) + 4  # `number_of` expects grain of this mean
        assert number_of(top_half.astype(np.uint8)) == number


def test_frames_that_the_source_left_out_leave_their_time(tmp_path: Path) -> None:
    with AnnotatedVideo(tmp_path / "out.mp4", 10) as sink:
        for number in (0, 1, 7, 8):
            sink.write(answer(number), plain_picture(number))
    _, times, _ = decoded(tmp_path / "out.mp4")
    assert times == pytest.approx([0, 0.1, 0.7, 0.8])


def test_two_pictures_of_one_moment_both_stay(tmp_path: Path) -> None:
    with AnnotatedVideo(tmp_path / "out.mp4", 10) as sink:
        for number in range(4):
            sink.write(msgspec.structs.replace(answer(number), source_time_s=0.0), plain_picture(number))
    assert len(decoded(tmp_path / "out.mp4")[0]) == 4


def test_odd_and_changing_sizes_are_fitted(tmp_path: Path) -> None:
    with AnnotatedVideo(tmp_path / "out.mp4") as sink:
        for number, size in enumerate([(241, 321), (241, 321), (100, 300)]):
            sink.write(answer(number, fps=1), plain_picture(number, *size))
    pictures, times, _ = decoded(tmp_path / "out.mp4")
    assert [picture.shape for picture in pictures] == [(240, 320, 3)] * 3
    assert times == pytest.approx([0, 1, 2])


def test_a_video_without_frames_is_closed_in_good_order(tmp_path: Path) -> None:
    AnnotatedVideo(tmp_path / "out.mp4", 10).close()


def test_a_file_name_that_is_no_video_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SinkError, match=r"out\.txt: not a kind of video .*; let the name end in \.mp4"):
        AnnotatedVideo(tmp_path / "out.txt", 10)


def test_closing_twice_and_writing_after_it_do_no_harm(tmp_path: Path) -> None:
    sink = AnnotatedVideo(tmp_path / "out.mp4", 10)
    sink.write(answer(0), plain_picture(0))
    sink.close()
    sink.close()
    sink.write(answer(1), plain_picture(1))
    assert len(decoded(tmp_path / "out.mp4")[0]) == 1


def test_the_panel_covers_the_lower_left_corner_of_a_copy() -> None:
    rgb = plain_picture(10, 240, 320)
    before = rgb.copy()
    drawn = annotate(rgb, answer(4))
    assert np.array_equal(rgb, before) and drawn.shape == rgb.shape
    assert np.array_equal(drawn[:120], rgb[:120]) and np.array_equal(drawn[:, 260:], rgb[:, 260:])
    assert drawn[-20:, 10:100].mean() < rgb[-20:, 10:100].mean() - 20


@pytest.mark.parametrize("size", [(8, 8), (20, 400), (400, 20)])
def test_tiny_pictures_are_annotated_as_far_as_they_go(size: tuple[int, int]) -> None:
    assert annotate(plain_picture(0, *size), answer(0)).shape == (*size, 3)


class Slow(Sink):
    """Waits for permission for each result; fails at one of them if told to."""

    def __init__(self, fail_at: int | None = None) -> None:
        super().__init__("slow")
        self.fail_at = fail_at
        self.permits = threading.Semaphore(0)
        self.seen: list[int] = []

    def _write(self, result: Result, rgb: Rgb) -> None:
        assert self.permits.acquire(timeout=20)
        if result.frame == self.fail_at:
            raise OSError(28, os.strerror(28))
        self.seen.append(result.frame)

    def _close(self) -> None:
        self.seen.append(-1)


def test_a_sink_in_the_background_loses_nothing_and_keeps_order() -> None:
    slow = Slow()
    with Background(slow, depth=4) as sink:
        for number in range(4):
            sink.write(answer(number), plain_picture(number))  # returns at once: there is room for four
        assert slow.seen == []
        slow.permits.release(10)
        for number in range(4, 10):
            sink.write(answer(number), plain_picture(number))
    assert slow.seen == [*range(10), -1]


def test_an_error_in_the_background_comes_out_once() -> None:
    slow = Slow(fail_at=1)
    slow.permits.release(10)
    sink = Background(slow)
    with pytest.raises(SinkError, match="slow: the disk is full"):
        for number in range(3):
            sink.write(answer(number), plain_picture(number))
        sink.close()
    sink.write(answer(9), plain_picture(9))
    sink.close()
    assert slow.seen[0] == 0 and 9 not in slow.seen
