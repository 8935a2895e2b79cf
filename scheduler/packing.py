"""Packing tables: from a calibration, or by arithmetic where nothing was calibrated."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pipeline.calibrate import Calibration
from pipeline.errors import ModelMismatch
from pipeline.model.graph import Cut, ModelGraph
from scheduler.tables import PackingTable

RAW = "fp32"
"""The codec that is offered everywhere: elements as they are."""

FLOAT_BITS = {"fp16": 16, "q8": 8, "q7": 7, "q6": 6, "q5": 5, "q4": 4, "q3": 3, "q2": 2}
"""Bits per element of the codecs whose size follows from arithmetic."""

RAW_BPS = 32e9
"""Bits per second of a copy on one core; a raw link costs one on each side."""

QUANTISE_BPS = 8e9
"""fp32 bits per second that one core quantises, packs and unpacks; replaced by measured times in a calibration."""


def arithmetic(graph: ModelGraph, pictures: Mapping[str, tuple[float, float]] | None = None) -> PackingTable:
    """Packed sizes by arithmetic, for a network that was never calibrated.

    The loss of the lossy codecs is unknown here, so a bound on the accuracy drop leaves only `fp32`.

    Args:
        graph: the network.
        pictures: for each picture codec, its median bytes and accuracy drop (NaN if unknown) at the cut `input`.
    """
    pictures = pictures or {}
    names = (RAW, *FLOAT_BITS, *pictures)
    table = _empty(graph, names)
    for cut in graph.cuts[:-1]:
        _fill_raw(table, graph, cut)
        if all(graph.tensors[name].dtype == "float32" for name in cut.tensors):
            elements = sum(graph.tensors[name].numel for name in cut.tensors)
            for name, bits in FLOAT_BITS.items():
                table.bytes[cut.index, table.codec(name)] = math.ceil(elements * bits / 8)
            seconds = 32 * elements / QUANTISE_BPS
            table.encode_s[cut.index, 1 : 1 + len(FLOAT_BITS)] = seconds
            table.decode_s[cut.index, 1 : 1 + len(FLOAT_BITS)] = seconds
    for name, (nbytes, drop) in pictures.items():
        _fill(table, 0, name, (nbytes, drop, 8 * graph.cut_bytes(graph.cuts[0]) / QUANTISE_BPS))
    return table


def measured(graph: ModelGraph, path: Path | None) -> PackingTable | None:
    """The packing table of a calibration file; without one, that of the calibration that ships, if it is of `graph`.

    Raises:
        ConfigError: the file cannot be read.
        ModelMismatch: it is another network's.
    """
    found = Calibration.of(graph.fingerprint, path)
    return calibrated(graph, found) if found is not None else None


def calibrated(graph: ModelGraph, calibration: Calibration) -> PackingTable:
    """The packing table of a calibration, with `fp32` at every cut besides what was measured.

    Measured gains in accuracy count as no drop, so that a gain on one link never pays for a loss on another.

    Raises:
        ModelMismatch: the calibration is another network's.
    """
    if calibration.fingerprint != graph.fingerprint:
        raise ModelMismatch(f"calibration of {calibration.model}", "not of this network", "calibrate this one")
    names = tuple(dict.fromkeys((RAW, *(entry.codec for entry in calibration.entries))))
    table = _empty(graph, names)
    for cut in graph.cuts[:-1]:
        _fill_raw(table, graph, cut)
    index = {cut.name: cut.index for cut in graph.cuts[:-1]}
    for entry in calibration.entries:
        if entry.cut in index:
            where = index[entry.cut], names.index(entry.codec)
            table.bytes[where] = entry.bytes_p50
            table.drop[where] = max(entry.loss.value, 0.0)
            table.encode_s[where], table.decode_s[where] = entry.encode_s, entry.decode_s
    pairs = {
        (index[p.first_cut], names.index(p.first_codec), index[p.second_cut], names.index(p.second_codec)): max(
            p.loss.value, 0.0
        )
        for p in calibration.pairs
        if p.first_cut in index and p.second_cut in index and {p.first_codec, p.second_codec} <= set(names)
    }
    return PackingTable(names, table.bytes, table.drop, table.encode_s, table.decode_s, pairs)


def _empty(graph: ModelGraph, names: tuple[str, ...]) -> PackingTable:
    shape = len(graph.cuts), len(names)
    return PackingTable(names, np.full(shape, np.inf), np.full(shape, np.nan), np.zeros(shape), np.zeros(shape))


def _fill_raw(table: PackingTable, graph: ModelGraph, cut: Cut) -> None:
    nbytes = graph.cut_bytes(cut)
    _fill(table, cut.index, RAW, (nbytes, 0.0, 8 * nbytes / RAW_BPS))


def _fill(table: PackingTable, cut: int, codec: str, values: tuple[float, float, float]) -> None:
    where = cut, table.codec(codec)
    table.bytes[where], table.drop[where], seconds = values
    table.encode_s[where] = table.decode_s[where] = seconds
