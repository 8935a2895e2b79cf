"""`anabranch bench packing` on the smallest of its tensors: rows and bars are complete, whatever their figures."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nodes.bench import packing
from nodes.bench.report import BenchReport


@pytest.fixture(scope="module")
def report() -> BenchReport:
    threads = torch.get_num_threads()
    made = packing.run(rounds=1, sizes=(200704,), codecs=("fp32", "q8", "q4", "q8-lz4", "q4-lz4", "e20"))
    assert torch.get_num_threads() == threads
    return made


def test_every_codec_has_a_row_and_the_held_ones_their_bars(report: BenchReport) -> None:
    rows = {str(row["codec"]): row for row in report.rows}
    assert {"fp32", "q8", "q4", "e20", "LZ4 of fp32", "bit-shuffle: ours", "bit-shuffle: NumPy"} <= set(rows)
    names = [bar.name for bar in report.bars]
    for codec in packing.FAST:
        assert f"{codec} encode/memcpy at 64x28x28" in names and f"{codec} decode/memcpy at 64x28x28" in names


def test_sizes_follow_the_codecs(report: BenchReport) -> None:
    rows = {str(row["codec"]): row for row in report.rows}
    nbytes = {name: int(str(row["bytes"])) for name, row in rows.items() if row.get("bytes") is not None}
    assert nbytes["q4"] * 2 == nbytes["q8"] + 13 and nbytes["e20"] < nbytes["q4-lz4"] < nbytes["q4"] < nbytes["fp32"]
    assert float(str(rows["fp32"]["rmse"])) == 0 < float(str(rows["q8"]["rmse"])) < float(str(rows["q4"]["rmse"]))


def test_all_ways_to_shuffle_keep_every_bit() -> None:
    codes = np.random.default_rng(1).integers(0, 256, 640, np.uint8)
    for name, work in packing._shuffles(codes).items():
        result = work()
        if not isinstance(result, bytes):
            ones = int(np.unpackbits(np.asarray(result).view(np.uint8)).sum())
            assert ones == int(np.unpackbits(codes).sum()), name
