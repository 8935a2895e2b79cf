"""The long benchmarks keep their bars."""

from __future__ import annotations

import pytest

from nodes.bench import faults
from pipeline.model.spec import LoadedModel, load_model


@pytest.fixture(scope="module")
def builtin() -> LoadedModel:
    """Loaded outside of the test: a library that it imports keeps a thread of its own."""
    return load_model("builtin")


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("builtin")
def test_ten_thousand_frames_with_a_fault_every_ten_seconds() -> None:
    report = faults.run()
    assert [bar for bar in report.bars if not bar.ok] == []
