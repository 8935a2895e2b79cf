"""Packing tables: what a calibration file, or the one that ships, says of a network's cuts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.calibrate import SHIPPED
from pipeline.errors import ConfigError, ModelMismatch
from pipeline.model.spec import load_model
from scheduler.packing import measured
from tests.scheduler.simulate.nets import network


def test_the_builtin_network_has_lossy_codecs_within_a_point_without_calibrating() -> None:
    graph = load_model("builtin").captured.graph
    table = measured(graph, None)
    assert table is not None
    known = np.isfinite(table.bytes) & (table.drop <= 0.01)
    exact = [graph.cut_bytes(cut) for cut in graph.cuts[:-1]]
    smaller = [np.min(table.bytes[cut.index][known[cut.index]]) < exact[cut.index] / 4 for cut in graph.cuts[:-1]]
    assert sum(smaller) >= 5


def test_a_network_that_nobody_calibrated_has_no_measured_table() -> None:
    assert measured(network(), None) is None


def test_a_foreign_or_missing_file_is_refused() -> None:
    with pytest.raises(ModelMismatch):
        measured(network(), SHIPPED)
    with pytest.raises(ConfigError):
        measured(network(), Path("no such file"))
