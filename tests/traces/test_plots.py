"""Pictures of traces can be made and saved."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from traces.errors import TraceError
from traces.library import library_pair, library_trace
from traces.plots import plot_png, plot_traces, save_plot
from traces.trace import Trace


def test_one_trace_shows_its_outages_and_mean(tmp_path: Path) -> None:
    figure = plot_traces([library_trace("lte-driving")], "a drive")
    over_time, distribution = figure.axes
    assert over_time.get_ylabel() == "rate (Mbit/s)" and distribution.get_ylim()[1] > 1
    assert any("mean" in text.get_text() for text in over_time.texts)
    with Image.open(save_plot([library_trace("3g")], tmp_path / "plot.png")) as picture:
        assert picture.width > 900 and len(picture.convert("L").getcolors() or []) > 20


def test_several_traces_get_a_legend() -> None:
    figure = plot_traces(library_pair("starlink"))
    legend = figure.axes[0].get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["starlink-1.down", "starlink-1.up"]
    assert plot_png([Trace.constant(0.0)]).startswith(b"\x89PNG")


def test_what_cannot_be_drawn(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="0 traces"):
        plot_traces([])
    with pytest.raises(TraceError, match="cannot be written"):
        save_plot([library_trace("3g")], tmp_path / "plot.docx")
