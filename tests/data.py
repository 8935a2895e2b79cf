"""The folder of real traces, videos, pictures and weights beside the project, where it is present."""

from __future__ import annotations

from pathlib import Path

import pytest

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"

needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"real data folder {DATA.name} is not beside the project")
