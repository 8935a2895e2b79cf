"""Real traces and videos beside the project, where they are present."""

from __future__ import annotations

from pathlib import Path

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
_VIDEO = DATA / "video" / "one-by-one-person-detection.mp4"


def video() -> str:
    """A source of frames: a real video of people in a corridor; the synthetic scene where there is none."""
    return str(_VIDEO) if _VIDEO.exists() else "scene:"
