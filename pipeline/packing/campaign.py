"""A whole calibration: frames from a source, batch after batch, to a table; it can be stopped and goes on later."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from torch import Tensor

from pipeline import tablefile
from pipeline.calibrate import Calibration
from pipeline.errors import ConfigError
from pipeline.frames.pictures import PictureFolder, read_truth
from pipeline.frames.source import Frame, Source
from pipeline.frames.sources import open_source
from pipeline.model.spec import LoadedModel
from pipeline.packing.measure import Measurement, Record, Settings, promising_pairs, tabulate

Progress = Callable[[int, str], None]
"""Called with the number of frames done and what is being measured."""

PART = ".part"
"""Ending of the file that an unfinished calibration leaves beside its table."""


@dataclass(frozen=True)
class Job:
    """What to calibrate, on which frames, to which file."""

    frames: str
    """Source, as `open_source` takes it."""
    out: Path
    labels: Path | None = None
    """CSV with a header line, then file name (or frame number) and class; wins over what the source knows."""
    limit: int | None = None
    """Frames at most."""
    batch: int = 16
    """Frames that go through the network together, and after which the work can be stopped."""
    pairs: int = 24
    """Pairs of lossy links to measure at most."""
    bound: float = 0.01
    """Accuracy drop that each link of a pair keeps by itself."""
    settings: Settings = field(default_factory=Settings)


def calibrate(loaded: LoadedModel, job: Job, progress: Progress = lambda done, what: None) -> Calibration:
    """Measure, and write the table.

    Where the file of an unfinished run of the same job lies beside `job.out`, the work goes on from there.

    Raises:
        ConfigError: no frames, labels that do not fit, or an unfinished run of another job.
        SourceError: the source cannot be read.
        UnknownCut: the settings name a cut that the model does not have.
    """
    part = job.out.with_name(job.out.name + PART)
    measurement = Measurement(loaded.captured, job.settings, job.frames, resume(part))
    for frames in _batches(job, measurement.record.frames):
        done = measurement.record.frames
        pictures, truths = _prepare(frames, loaded)
        measurement.feed(pictures, truths, lambda cut, done=done: progress(done, f"cut {cut}"))  # type: ignore[misc]
        _save(measurement.record, part)
    pairs = promising_pairs(tabulate(measurement, loaded.name), measurement.cuts, job.bound, job.pairs)
    done = min((len(measurement.record.samples["|".join(p)].top) for p in pairs if _known(measurement, p)), default=0)
    for frames in _batches(job, done) if pairs else ():
        progress(done, f"{len(pairs)} pairs of cuts")
        measurement.feed_pairs(_prepare(frames, loaded)[0], pairs)
        done += len(frames)
        _save(measurement.record, part)
    table = tabulate(measurement, loaded.name)
    table.save(job.out)
    part.unlink(missing_ok=True)
    return table


def _known(measurement: Measurement, pair: tuple[str, str, str, str]) -> bool:
    return "|".join(pair) in measurement.record.samples


def resume(part: Path) -> Record | None:
    """What a calibration that was stopped had measured; None where there is none.

    Raises:
        ConfigError: its file is damaged.
    """
    if not part.exists():
        return None
    try:
        return msgspec.msgpack.decode(part.read_bytes(), type=Record)
    except (OSError, *tablefile.MALFORMED) as error:
        raise ConfigError(f"unfinished calibration {part}", str(error), "delete it") from error


def _save(record: Record, part: Path) -> None:
    scratch = part.with_name(part.name + "-new")
    scratch.write_bytes(msgspec.msgpack.encode(record))
    os.replace(scratch, part)


@dataclass(frozen=True)
class _Labelled:
    frame: Frame
    truth: int | str | None


def _batches(job: Job, skip: int) -> Iterator[list[_Labelled]]:
    """The job's frames from number `skip` on, in batches."""
    source = open_source(job.frames, limit=job.limit)
    truths = read_truth(job.labels) if job.labels is not None else None
    if job.labels is not None and not truths:
        raise ConfigError(f"labels {job.labels}", "not there, or empty", "give a CSV of file names and classes")
    try:
        frames = itertools.islice(source.frames(), skip, None)
        while batch := list(itertools.islice(frames, job.batch)):
            yield [_Labelled(frame, _truth(frame, source, truths)) for frame in batch]
    finally:
        source.close()


def _truth(frame: Frame, source: Source, truths: dict[str, int | str] | None) -> int | str | None:
    if truths is None:
        return frame.truth
    # A folder's time is the position of the file, also where unreadable ones were left out.
    name = source.paths[int(frame.time_s)].name if isinstance(source, PictureFolder) else str(frame.number)
    return truths.get(name)


def _prepare(frames: list[_Labelled], loaded: LoadedModel) -> tuple[list[Tensor], list[int]]:
    pictures = [loaded.preprocess.picture(labelled.frame.rgb) for labelled in frames]
    return pictures, [_class_of(labelled.truth, loaded) for labelled in frames]


def _class_of(truth: int | str | None, loaded: LoadedModel) -> int:
    """Class index; -1 where unknown."""
    if isinstance(truth, str):
        if truth not in loaded.labels:
            raise ConfigError(f"class {truth!r}", f"not among the classes of {loaded.name}", "give indices, or --names")
        return loaded.labels.index(truth)
    return -1 if truth is None else truth
