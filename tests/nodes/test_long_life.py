"""What a node that runs for long keeps of what is over."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import time
from pathlib import Path
import torch
from nodes.edge import EdgeNode
from nodes.node import NodeSettings
from pipeline.model import memory
from scheduler.reports import Report
from pipeline.model.spec import load_model
from pipeline.plan import Tier
from tests.nodes.tiny import SPEC
assert memory.keep_freed()
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
def given_back():
    maps = [torch.ones(1 << 20) for _ in range(32)]
    behind = torch.ones(1 << 20)  # so that they are not the heap's end, which goes back by itself
    before = resident()
    del maps
    node.enrich(Report("edge-1", Tier.EDGE, "once", 1, 0.0))
    return (before - resident()) >> 20
node = EdgeNode(NodeSettings("edge-1"), load_model(SPEC))
print(given_back(), given_back())
node.stop()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator")
def test_free_memory_goes_back_with_a_report_now_and_then() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, timeout=60)
    first, second = map(int, done.stdout.split())
    assert second < 10 < 100 < first
