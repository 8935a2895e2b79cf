"""Bandwidth over time: formats, library, synthesis, the link shaper, the recorder, plots."""
