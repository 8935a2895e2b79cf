"""What a codec costs at a cut, in bytes, time and accuracy: the table that the planner looks up.

The table is made by `pipeline.packing.measure` for one network on one set of frames, and is one file:
versioned, tied to the network's fingerprint, refused for another network.
"""

from __future__ import annotations

import functools
from pathlib import Path

import msgspec

from pipeline import tablefile
from pipeline.errors import ConfigError, ModelMismatch

VERSION = 1
"""Version of the file; a file of another version is refused."""


class Estimate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A share (0..1) with its 95 % confidence interval."""

    value: float
    low: float
    high: float

    def plus(self, other: Estimate) -> Estimate:
        """The sum, with intervals added: wider than the truth if the two are independent."""
        return Estimate(self.value + other.value, self.low + other.low, self.high + other.high)


SHIPPED = Path(__file__).with_name("model") / "builtin.calibration"
"""The table of the built-in network on rendered scenes (docs/packing.md)."""

EXACT = Estimate(0.0, 0.0, 0.0)
"""The drop of a lossless codec."""


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One codec at one cut, as the only lossy link."""

    cut: str
    codec: str
    frames: int
    """Frames measured."""
    bytes_p50: float
    """Median packed bytes of one frame, all tensors of the cut together."""
    bytes_p95: float
    encode_s: float
    """Median time to pack one frame on one core of the calibrating machine."""
    decode_s: float
    snr_db: float | None
    """Median signal-to-noise ratio at the network's output; None where the output is exact."""
    agreement: Estimate
    """Share of frames whose top-1 is that of full precision (Wilson interval)."""
    drop: Estimate | None = None
    """Accuracy at full precision minus accuracy with the codec, where labels were given (paired interval)."""

    @property
    def spread(self) -> float:
        """By what share of the median one frame in twenty is larger."""
        return self.bytes_p95 / self.bytes_p50 - 1.0 if self.bytes_p50 else 0.0

    @property
    def loss(self) -> Estimate:
        """The accuracy drop, or, without labels, the share of changed answers, which bounds it from above."""
        return self.drop or _disagreement(self.agreement)


class PairEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Two lossy links in one path: what the second one sees has already been through the first."""

    first_cut: str
    first_codec: str
    second_cut: str
    second_codec: str
    frames: int
    snr_db: float | None
    agreement: Estimate
    drop: Estimate | None = None

    @property
    def loss(self) -> Estimate:
        """See `Entry.loss`."""
        return self.drop or _disagreement(self.agreement)


class Calibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True, dict=True):
    """The whole table."""

    fingerprint: str
    """The network that it was measured on."""
    model: str
    source: str
    """Where the frames came from, for people."""
    frames: int
    labelled: bool
    accuracy: Estimate | None
    """Top-1 accuracy at full precision, where labels were given."""
    entries: tuple[Entry, ...]
    pairs: tuple[PairEntry, ...] = ()
    skipped: dict[str, str] = {}
    """Cuts that were not measured, with the reason (such as the cut that dominates it)."""
    version: int = VERSION

    @classmethod
    def load(cls, path: Path, fingerprint: str) -> Calibration:
        """Read a table.

        Args:
            path: JSON file that `save` wrote.
            fingerprint: of the network that it shall be used for (`ModelGraph.fingerprint`).

        Raises:
            ConfigError: unreadable, damaged, or of another version.
            ModelMismatch: made for another network.
        """
        table = tablefile.read(path, cls, "calibration", VERSION, "anabranch calibrate")
        if table.fingerprint != fingerprint:
            made, wanted = table.fingerprint[:12], fingerprint[:12]
            raise ModelMismatch(f"calibration {path}", f"made for model {made}, not {wanted}", "calibrate this model")
        return table

    @classmethod
    def of(cls, fingerprint: str, path: Path | None) -> Calibration | None:
        """That of a file; without one, the calibration that ships, if there is one of this network.

        Raises:
            ConfigError: the file cannot be read.
            ModelMismatch: it is another network's.
        """
        return cls.load(path, fingerprint) if path is not None else cls.shipped(fingerprint)

    @classmethod
    def shipped(cls, fingerprint: str) -> Calibration | None:
        """The table that comes with the package, where it is of this network."""
        table = _shipped()
        return table if table.fingerprint == fingerprint else None

    def save(self, path: Path) -> None:
        """Write the table; a reader never sees half of it."""
        tablefile.write(self, path)

    @functools.cached_property
    def by_cut(self) -> dict[str, dict[str, Entry]]:
        """Entries by cut name, then codec name."""
        table: dict[str, dict[str, Entry]] = {}
        for entry in self.entries:
            table.setdefault(entry.cut, {})[entry.codec] = entry
        return table

    @functools.cached_property
    def by_pair(self) -> dict[tuple[str, str, str, str], PairEntry]:
        """Pair entries by (first cut, first codec, second cut, second codec)."""
        return {(p.first_cut, p.first_codec, p.second_cut, p.second_codec): p for p in self.pairs}

    def entry(self, cut: str, codec: str) -> Entry:
        """The row of (cut, codec).

        Raises:
            ConfigError: it was not measured.
        """
        found = self.by_cut.get(cut, {}).get(codec)
        if found is None:
            why = self.skipped.get(cut, "not measured")
            raise ConfigError(f"calibration of {codec} at cut {cut}", why)
        return found

    def has(self, cut: str, codec: str) -> bool:
        """Whether (cut, codec) was measured."""
        return codec in self.by_cut.get(cut, {})

    def bytes(self, cut: str, codec: str) -> tuple[float, float]:
        """Packed bytes of one frame: median and 95th percentile."""
        entry = self.entry(cut, codec)
        return entry.bytes_p50, entry.bytes_p95

    def encode_s(self, cut: str, codec: str) -> float:
        """Seconds to pack one frame on one core of the calibrating machine."""
        return self.entry(cut, codec).encode_s

    def decode_s(self, cut: str, codec: str) -> float:
        """Seconds to unpack one frame on one core of the calibrating machine."""
        return self.entry(cut, codec).decode_s

    def drop(self, cut: str, codec: str) -> Estimate:
        """Accuracy drop of one lossy link (see `Entry.loss`)."""
        return self.entry(cut, codec).loss

    def drop_pair(self, first: tuple[str, str], second: tuple[str, str]) -> Estimate:
        """Accuracy drop of two lossy links, each given as (cut, codec).

        Where the pair was not measured, the sum of the two drops: errors of two links seldom cancel out,
        and a changed answer is counted in each.
        """
        found = self.by_pair.get((*first, *second))
        return found.loss if found is not None else self.drop(*first).plus(self.drop(*second))


@functools.cache
def _shipped() -> Calibration:
    return msgspec.json.decode(SHIPPED.read_bytes(), type=Calibration)


def _disagreement(agreement: Estimate) -> Estimate:
    return Estimate(1 - agreement.value, 1 - agreement.high, 1 - agreement.low)
