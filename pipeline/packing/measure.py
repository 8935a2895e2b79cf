"""Measure codecs at cuts: the work behind `anabranch calibrate`.

Frames come in batches. For each batch the network runs once, cut after cut (prefixes are never computed twice); at
each cut every codec packs and unpacks what crosses, and the rest of the network runs on what came back, once for all
codecs that bring the same values back. What was measured of each frame is kept, so that the work can stop after any
batch and go on later.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np
import torch
from torch import Tensor

from pipeline.calibrate import Calibration, Entry, Estimate, PairEntry
from pipeline.errors import ConfigError
from pipeline.model.capture import CapturedModel
from pipeline.model.graph import INPUT, OUTPUT, Cut
from pipeline.model.segment import Segment
from pipeline.packing.choice import family, select_codecs, select_cuts
from pipeline.packing.confidence import paired_drop, share
from pipeline.packing.sessions import DecoderSession, EncoderSession, open_decoder, open_encoder

Tensors = dict[str, Tensor]


class Samples(msgspec.Struct):
    """What one codec at one cut (or one pair) did to each frame, in order."""

    nbytes: list[int] = []
    encode_s: list[float] = []
    decode_s: list[float] = []
    top: list[int] = []
    """Class at the output."""
    noise: list[float] = []
    """Noise power over signal power at the output."""


class Record(msgspec.Struct):
    """All that was measured so far; what a stopped calibration leaves in its file."""

    fingerprint: str
    source: str
    settings: str
    """Digest of what was asked for: a record goes on only under the same settings."""
    tops: list[int] = []
    """Class of each frame at full precision."""
    truths: list[int] = []
    """True class of each frame; -1 where unknown."""
    samples: dict[str, Samples] = {}
    """By `cut|codec`, or `cut|codec|cut|codec` for a pair."""

    @property
    def frames(self) -> int:
        """Frames measured."""
        return len(self.tops)


@dataclass(frozen=True)
class Settings:
    """What to measure."""

    cuts: tuple[str, ...] = ()
    """Names; empty for those that a plan may choose."""
    codecs: tuple[str, ...] = ()
    """Names; empty for a choice by tensor."""
    ordered: bool = False
    """Whether frames follow each other in time."""
    torch_device: str = "cpu"


@dataclass
class _Link:
    """One codec on what crosses one cut, with the state of both ends."""

    codec: str
    encoders: dict[str, EncoderSession] = field(default_factory=dict)
    decoders: dict[str, DecoderSession] = field(default_factory=dict)

    def cross(self, tensors: Tensors, captured: CapturedModel, frame: int, samples: Samples) -> Tensors:
        """Pack and unpack one frame's tensors, and note bytes and times."""
        back, nbytes, encode_s, decode_s = {}, 0, 0.0, 0.0
        for name, tensor in tensors.items():
            spec = captured.graph.tensors[name]
            encoder = self.encoders.setdefault(name, open_encoder(self.codec))
            decoder = self.decoders.setdefault(name, open_decoder(self.codec))
            start = time.perf_counter()
            packed = encoder.encode(tensor, spec, frame, False)
            middle = time.perf_counter()
            back[name] = decoder.decode(bytearray(packed), spec, frame)
            encode_s += middle - start
            decode_s += time.perf_counter() - middle
            nbytes += memoryview(packed).nbytes
        samples.nbytes.append(nbytes)
        samples.encode_s.append(encode_s)
        samples.decode_s.append(decode_s)
        return back


class Measurement:
    """Feeds frames through all cuts and codecs.

    Args:
        captured: the network.
        settings: what to measure.
        record: of an earlier run that was stopped, or None.
        source: where the frames come from, for people and for the check that a record goes on with the same.

    Raises:
        ConfigError: the record is of another model, source or settings.
        UnknownCut: a cut of the settings that the model does not have.
    """

    def __init__(self, captured: CapturedModel, settings: Settings, source: str, record: Record | None = None) -> None:
        graph = captured.graph
        self.captured, self.settings = captured, settings
        chosen, self.skipped = select_cuts(graph)
        self.cuts = [graph.cut(name) for name in settings.cuts] if settings.cuts else chosen
        self.codecs = {cut.name: self._codecs_at(cut) for cut in self.cuts}
        digest = repr((sorted(self.codecs.items()), settings.ordered))
        self.record = record or Record(graph.fingerprint, source, digest)
        if (self.record.fingerprint, self.record.source, self.record.settings) != (graph.fingerprint, source, digest):
            raise ConfigError(
                "unfinished calibration", "of another model, source or choice of codecs", "delete its .part file"
            )
        self._links = {(cut, codec): _Link(codec) for cut in self.codecs for codec in self.codecs[cut]}
        self._segments: dict[tuple[str, str], Segment] = {}

    def feed(
        self, pictures: Sequence[Tensor], truths: Sequence[int], note: Callable[[str], None] = lambda _: None
    ) -> None:
        """Measure one batch.

        Args:
            pictures: (1, 3, H, W) of uint8 each.
            truths: class indices; -1 where unknown.
            note: told the name of each cut as it is begun.
        """
        at: Cut = self.captured.graph.cuts[0]
        crossing: list[Tensors] = [{INPUT: picture} for picture in pictures]
        full = self._run(at.name, OUTPUT, crossing)
        first = self.record.frames
        for cut in self.cuts:
            note(cut.name)
            start = at if at.before(cut) else self.captured.graph.cuts[0]
            if start is not at:
                crossing = [{INPUT: picture} for picture in pictures]
            crossing, at = self._run(start.name, cut.name, crossing), cut
            self._measure_cut(cut, crossing, full, first)
        self.record.tops.extend(top_of(outputs) for outputs in full)
        self.record.truths.extend(truths)

    def feed_pairs(self, pictures: Sequence[Tensor], pairs: Sequence[tuple[str, str, str, str]]) -> None:
        """Measure two lossy links in one path, on one batch.

        Args:
            pictures: as for `feed`.
            pairs: first cut, its codec, second cut, its codec.
        """
        inputs: list[Tensors] = [{INPUT: picture} for picture in pictures]
        full = self._run(INPUT, OUTPUT, inputs)
        for pair in pairs:
            first_cut, first_codec, second_cut, second_codec = pair
            samples = self.record.samples.setdefault("|".join(pair), Samples())
            unused = Samples()
            first, second = _Link(first_codec), _Link(second_codec)
            crossing = self._run(INPUT, first_cut, inputs)
            crossing = [first.cross(one, self.captured, n, unused) for n, one in enumerate(crossing)]
            crossing = self._run(first_cut, second_cut, crossing)
            crossing = [second.cross(one, self.captured, n, samples) for n, one in enumerate(crossing)]
            _note_outputs(samples, self._run(second_cut, OUTPUT, crossing), full)

    def _codecs_at(self, cut: Cut) -> tuple[str, ...]:
        possible = select_codecs(self.captured.graph, cut, self.settings.ordered)
        if not self.settings.codecs:
            return possible
        everything = select_codecs(self.captured.graph, cut, True, every=True)
        return tuple(name for name in self.settings.codecs if name in everything)

    def _measure_cut(self, cut: Cut, crossing: list[Tensors], full: list[Tensors], first: int) -> None:
        outputs: dict[str, list[Tensors]] = {}
        for codec in self.codecs[cut.name]:
            samples = self.record.samples.setdefault(f"{cut.name}|{codec}", Samples())
            link = self._links[cut.name, codec]
            back = [link.cross(one, self.captured, first + n, samples) for n, one in enumerate(crossing)]
            if family(codec) not in outputs:
                outputs[family(codec)] = self._run(cut.name, OUTPUT, back)
            _note_outputs(samples, outputs[family(codec)], full)

    def _run(self, start: str, end: str, frames: list[Tensors]) -> list[Tensors]:
        """Run a segment on all frames; as one batch where the network takes batches."""
        if start == end or not frames:
            return frames
        if (start, end) not in self._segments:
            graph = self.captured.graph
            self._segments[start, end] = Segment(
                self.captured, graph.cut(start), graph.cut(end), torch_device=self.settings.torch_device
            )
        segment = self._segments[start, end]
        if not segment.supports_batch:
            return [segment.run(frame) for frame in frames]
        joined = segment.run({name: torch.cat([frame[name] for frame in frames]) for name in frames[0]})
        parts = {name: torch.split(tensor, tensor.shape[0] // len(frames)) for name, tensor in joined.items()}
        return [{name: part[n] for name, part in parts.items()} for n in range(len(frames))]


def top_of(outputs: Tensors) -> int:
    """Index of the greatest element of the first output: the class, for a classifier."""
    return int(next(iter(outputs.values())).reshape(-1).argmax())


def _note_outputs(samples: Samples, outputs: list[Tensors], full: list[Tensors]) -> None:
    for found, exact in zip(outputs, full, strict=True):
        samples.top.append(top_of(found))
        noise = sum(float((found[name].double() - exact[name].double()).square().sum()) for name in exact)
        signal = sum(float(exact[name].double().square().sum()) for name in exact)
        samples.noise.append(noise / signal if signal else float(noise > 0))


def tabulate(measurement: Measurement, model: str) -> Calibration:
    """The table of all that was measured.

    Raises:
        ConfigError: no frame was measured.
    """
    record = measurement.record
    if not record.frames:
        raise ConfigError("calibration", "no frame was measured", "give a source with at least one frame")
    labelled = all(truth >= 0 for truth in record.truths)
    entries, pairs = [], []
    for key, samples in record.samples.items():
        agreement, drop, snr = _outcome(record, samples, labelled)
        names = key.split("|")
        if len(names) == 4:
            pairs.append(PairEntry(names[0], names[1], names[2], names[3], len(samples.top), snr, agreement, drop))
            continue
        middle, high = np.percentile(samples.nbytes, [50, 95])
        times = statistics.median(samples.encode_s), statistics.median(samples.decode_s)
        entries.append(
            Entry(names[0], names[1], len(samples.top), float(middle), float(high), *times, snr, agreement, drop)
        )
    return Calibration(
        fingerprint=record.fingerprint,
        model=model,
        source=record.source,
        frames=record.frames,
        labelled=labelled,
        accuracy=_accuracy(record) if labelled else None,
        entries=tuple(entries),
        pairs=tuple(pairs),
        skipped=measurement.skipped if not measurement.settings.cuts else {},
    )


def _accuracy(record: Record) -> Estimate:
    right = sum(top == truth for top, truth in zip(record.tops, record.truths, strict=True))
    return share(right, record.frames)


def _outcome(record: Record, samples: Samples, labelled: bool) -> tuple[Estimate, Estimate | None, float | None]:
    """Agreement, drop and signal-to-noise ratio. Pairs may have been measured on the first frames only."""
    count = len(samples.top)
    tops = list(zip(record.tops[:count], samples.top, record.truths[:count], strict=True))
    agreement = share(sum(full == found for full, found, _ in tops), count)
    noise = statistics.median(samples.noise)
    snr = round(-10 * float(np.log10(noise)), 2) if noise > 0 else None
    if not labelled:
        return agreement, None, snr
    lost = sum(full == truth != found for full, found, truth in tops)
    won = sum(found == truth != full for full, found, truth in tops)
    return agreement, paired_drop(lost, won, count), snr


def promising_pairs(
    table: Calibration, cuts: Iterable[Cut], bound: float, limit: int
) -> list[tuple[str, str, str, str]]:
    """Pairs of lossy links that a planner may want: nested cuts, each with its smallest codec within the bound.

    Args:
        table: of single links.
        cuts: those measured, in graph order.
        bound: accuracy drop that each link alone must keep.
        limit: pairs at most; those of fewest bytes together.
    """
    smallest: dict[str, Entry] = {}
    for entry in table.entries:
        if entry.loss.value <= bound and not entry.codec.startswith("t-"):
            best = smallest.get(entry.cut)
            if best is None or entry.bytes_p50 < best.bytes_p50:
                smallest[entry.cut] = entry
    usable = [cut for cut in cuts if cut.name in smallest]
    found = [
        (smallest[first.name], smallest[second.name])
        for place, first in enumerate(usable)
        for second in usable[place + 1 :]
        if first.before(second)
    ]
    found.sort(key=lambda pair: pair[0].bytes_p50 + pair[1].bytes_p50)
    return [(a.cut, a.codec, b.cut, b.codec) for a, b in found[:limit]]
