"""A folder of pictures as a source."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from pipeline.errors import SourceError
from pipeline.frames.source import Rgb, Shot, Source, SourceSettings

SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
"""Files with these endings are pictures; other files in the folder are left alone."""

TRUTH_FILE = "labels.csv"
"""Optional, in the folder: a header line, then file name and class (an index, or a name) a line."""


class PictureFolder(Source):
    """Pictures in the order of their names, a second apart; one that cannot be read is skipped and reported.

    Raises:
        SourceError: there is no picture in the folder, or its truth file is not a table.
    """

    def __init__(self, folder: Path, settings: SourceSettings) -> None:
        super().__init__(str(folder), settings)
        self.paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
        if not self.paths:
            raise SourceError(self.name, "no picture in this folder", f"its files must end in {_known_suffixes()}")
        self._truth = read_truth(folder / TRUTH_FILE)

    def shots(self) -> Iterator[Shot]:
        """Every picture that can be read; `ended_early` counts the others."""
        broken: list[str] = []
        for position, path in enumerate(self.paths):
            try:
                rgb = _read(path)
            except (OSError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
                broken.append(path.name)
                self.settings.notify("picture-skipped", f"{path}: cannot be read ({error})")
                self.ended_early = f"{len(broken)} of {len(self.paths)} pictures could not be read (first: {broken[0]})"
                continue
            yield Shot(float(position), rgb, self._truth.get(path.name))


def _read(path: Path) -> Rgb:
    with Image.open(path) as image:
        return np.array(ImageOps.exif_transpose(image).convert("RGB"))


def read_truth(path: Path) -> dict[str, int | str]:
    """Class by file name; empty where there is no such file.

    Raises:
        SourceError: a line has fewer than two columns, or the file is not text.
    """
    if not path.is_file():
        return {}
    truth: dict[str, int | str] = {}
    try:
        with path.open(newline="", encoding="utf-8") as lines:
            rows = csv.reader(lines)
            next(rows, None)
            for name, kind, *_ in rows:
                truth[name] = int(kind) if kind.isdigit() else kind
    except (ValueError, csv.Error) as error:
        mend = "write a header line, then `filename,class` lines"
        raise SourceError(str(path), "not a table of file names and classes", mend) from error
    return truth


def _known_suffixes() -> str:
    return ", ".join(sorted(SUFFIXES))
