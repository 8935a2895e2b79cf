"""Freed memory stays with the process, so that frames after the first touch no new page."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

# 40 MiB: above 32 MiB, glibc asks the kernel anew each time unless told otherwise.
SCRIPT = """
import resource, threading, torch
from pipeline.model import memory
if {keep}:
    assert memory.keep_freed()
def faults(times):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        torch.ones(10 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
def frame(out):
    faults(30)
    out.append(faults(10) // 10)
counts = []
frame(counts)
thread = threading.Thread(target=frame, args=(counts,))
thread.start()
thread.join()
print(max(counts))
"""


def faults_per_frame(keep: bool) -> int:
    """Pages that the kernel had to find for each map made, in the worse of two threads."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(keep=keep)], capture_output=True, text=True, check=True, timeout=60
    )
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator")
def test_maps_reuse_the_pages_of_the_last_frame() -> None:
    assert faults_per_frame(keep=True) < 10 < 100 < faults_per_frame(keep=False)


SETTLED = """
import gc
from pipeline.model import memory
class Ring:
    def __init__(self):
        self.own = self
before = len(gc.get_objects())
memory.settle()
left = len(gc.get_objects())
Ring()
print(before, left, gc.collect())
"""


def test_what_is_there_is_never_walked_through_again_and_new_cycles_still_go() -> None:
    done = subprocess.run([sys.executable, "-c", SETTLED], capture_output=True, text=True, check=True, timeout=60)
    before, left, collected = map(int, done.stdout.split())
    assert before > 1000 > left
    assert collected >= 1


OLD = """
import collections, gc
from pipeline.model import memory
ballast = [[] for _ in range(1_000_000)]
memory.settle()
class Ring:
    def __init__(self):
        self.own = self
lived = collections.deque(maxlen=20_000)
before = gc.get_stats()[2]["collections"]
for _ in range(200_000):
    lived.append(Ring())
print(gc.get_stats()[2]["collections"] - before)
"""


def test_cycles_that_grew_old_go_too() -> None:
    """However much was there before: what lives as long as a plan does is looked at again and again."""
    done = subprocess.run([sys.executable, "-c", OLD], capture_output=True, text=True, check=True, timeout=60)
    assert int(done.stdout) >= 1
