"""Reading ahead: order, bound, errors, pace, and the end."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest

from pipeline.errors import SourceError
from pipeline.frames.prefetch import Pace, Prefetcher
from pipeline.frames.preprocess import Preprocess
from pipeline.frames.source import Shot, Source, SourceSettings

SMALL = Preprocess(size=(8, 8), resize=8)


class Counted(Source):
    """`count` grey pictures at 10 a second, then an error if one is given; tells when each is asked for."""

    def __init__(self, count: int, error: Exception | None = None) -> None:
        super().__init__("counted", SourceSettings())
        self.count, self.error = count, error
        self.asked = threading.Semaphore(0)

    def shots(self) -> Iterator[Shot]:
        for number in range(self.count):
            self.asked.release()
            yield Shot(number / 10, np.full((8, 8, 3), number, np.uint8))
        if self.error is not None:
            raise self.error


class Silent(Source):
    """Waits for its close."""

    def __init__(self) -> None:
        super().__init__("silent", SourceSettings())

    def shots(self) -> Iterator[Shot]:
        self.closed.wait()
        yield from ()


def test_frames_come_in_order_with_their_pictures() -> None:
    with Prefetcher(Counted(20), SMALL, depth=3) as prefetcher:
        items = list(prefetcher)
    assert [item.frame.number for item in items] == list(range(20))
    assert [int(item.picture[0, 0, 0, 0]) for item in items] == list(range(20))
    assert items[0].picture.shape == (1, 3, 8, 8)


def test_it_reads_no_further_ahead_than_its_depth() -> None:
    source = Counted(100)
    with Prefetcher(source, SMALL, depth=3) as prefetcher:
        for _ in range(4):  # three in the queue, and one in the thread's hands
            assert source.asked.acquire(timeout=20)
        assert not source.asked.acquire(timeout=0.05)
        assert prefetcher.get() is not None
        assert source.asked.acquire(timeout=20)


def test_an_error_comes_after_the_frames_before_it() -> None:
    with Prefetcher(Counted(5, SourceError("film", "burnt")), SMALL, depth=2) as prefetcher:
        assert [prefetcher.get(20) is not None for _ in range(5)] == [True] * 5
        with pytest.raises(SourceError, match="film: burnt"):
            prefetcher.get(20)


def test_the_end_is_none_and_stays_none() -> None:
    with Prefetcher(Counted(1), SMALL) as prefetcher:
        assert prefetcher.get(20) is not None
        assert prefetcher.get(20) is None
        assert prefetcher.get(20) is None


def test_waiting_has_a_limit() -> None:
    with Prefetcher(Silent(), SMALL) as prefetcher, pytest.raises(TimeoutError, match="silent: no frame in"):
        prefetcher.get(0.01)


def test_closing_wakes_reader_and_consumer_and_ends_the_thread() -> None:
    prefetcher = Prefetcher(Silent(), SMALL)
    got: list[object] = []
    consumer = threading.Thread(target=lambda: got.append(prefetcher.get()))
    consumer.start()
    prefetcher.close()
    prefetcher.close()
    consumer.join(20)
    assert got == [None]
    assert "prefetch" not in {thread.name for thread in threading.enumerate()}


def test_closing_does_not_wait_for_a_full_queue() -> None:
    source = Counted(100)
    prefetcher = Prefetcher(source, SMALL, depth=1)
    assert source.asked.acquire(timeout=20) and source.asked.acquire(timeout=20)
    prefetcher.close()
    assert prefetcher.get() is None


def test_a_file_can_be_played_at_its_own_pace() -> None:
    now = 50.0
    waits: list[float] = []

    def wait(seconds: float) -> bool:
        nonlocal now
        waits.append(seconds)
        now += seconds
        return False

    with Prefetcher(Counted(5), SMALL, pace=Pace(clock=lambda: now, wait=wait)) as prefetcher:
        assert len(list(prefetcher)) == 5
    assert waits == pytest.approx([0.1] * 4)


def test_closing_ends_the_wait_for_the_next_picture_of_a_slow_film() -> None:
    now = 0.0
    prefetcher = Prefetcher(Counted(5), SMALL, pace=Pace(clock=lambda: now))  # time stands still: the wait never ends
    assert prefetcher.get(20) is not None
    prefetcher.close()
    assert prefetcher.get() is None
