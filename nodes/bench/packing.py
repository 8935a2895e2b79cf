"""Codecs on one core: fp32 bytes per second to pack and to unpack, as a ratio to a memcpy of the same tensor.

The tensors are activations of the built-in network on a rendered picture, at three sizes. Every figure is the median
of rounds in each of which memcpy and codec run in turn, so that whatever else the machine does falls on both. ZFP and
LZ4 (what DEFER sends) are rows beside ours, with ZFP's tolerance set so that its squared error is that of our codec;
and so are several ways of doing the bit-shuffle.
"""

from __future__ import annotations

import importlib
import importlib.util
import statistics
import time
from collections.abc import Callable
from typing import Any

import lz4.block
import numpy as np
import torch
from torch import Tensor

from nodes.bench.report import Bar, BenchReport, Cell
from pipeline.frames.sources import open_source
from pipeline.model.graph import INPUT, TensorSpec
from pipeline.model.segment import Segment
from pipeline.model.spec import load_model
from pipeline.packing import codec, planes
from pipeline.packing.frame import Bytes, Floats

MODEL = "pipeline.model.builtin:BuiltinNet"
SIZES = (1605632, 401408, 200704)
"""Bytes of the three tensors: 112x112x32, 56x56x32, 28x28x64 in fp32."""

CODECS = (
    "fp32", "fp16", "q8", "q6", "q4", "q3", "q2", "q4c", "q4a", "q3ca", "q4z", "l3", "q8-lz4", "q4-lz4", "q3c-lz4",
    "q8-zstd", "q4-zstd", "q3c-zstd", "e30", "e20",
)  # fmt: skip
FAST = ("q8", "q4")
"""Held to a share of memcpy's speed."""
SMALL = ("q8-lz4", "q4-lz4")
"""Held to be smaller and faster than ZFP and LZ4 at equal error."""
FLOOR = 0.25
ROUNDS = 15

Timed = Callable[[], object]


def run(rounds: int = ROUNDS, sizes: tuple[int, ...] = SIZES, codecs: tuple[str, ...] = CODECS) -> BenchReport:
    """Measure all codecs, ZFP and bit-shuffles.

    Args:
        rounds: pairs of memcpy and codec for each figure.
        sizes: bytes of the activations to take from the network.
        codecs: names.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rows: list[dict[str, Cell]] = []
        bars: list[Bar] = []
        for spec, tensor in activations(sizes):
            found = {name: _codec_row(name, spec, tensor, rounds) for name in codecs}
            rows.extend(found.values())
            rows.append(_lz4_row(spec, tensor, rounds))
            for name in FAST:
                bars.extend(_floors(found[name]))
            for name in SMALL:
                ours = found[name]
                theirs = _zfp_row(spec, tensor, float(str(ours["rmse"])), name, rounds)
                if theirs is not None:
                    rows.append(theirs)
                    bars.extend(_against_zfp(ours, theirs))
            rows.extend(_shuffle_rows(spec, tensor, rounds))
    finally:
        torch.set_num_threads(before)
    notes = [f"medians of {rounds} interleaved rounds, 1 thread; memcpy into a buffer that is already there"]
    if importlib.util.find_spec("zfpy") is None:
        notes.append("zfpy is not installed: no figures beside ZFP")
    return BenchReport("packing", rows, bars, notes)


def activations(sizes: tuple[int, ...]) -> list[tuple[TensorSpec, Tensor]]:
    """The first activation of each size in the built-in network, on the tenth frame of a rendered scene."""
    model = load_model(MODEL)
    graph = model.captured.graph
    *_, frame = open_source("scene:", limit=10).frames()
    picture = {INPUT: model.preprocess.picture(frame.rgb)}
    found = []
    for size in sizes:
        cut = next(cut for cut in graph.cuts if graph.cut_bytes(cut) == size and len(cut.tensors) == 1)
        tensor = Segment(model.captured, graph.cut(INPUT), cut).run(picture)[cut.tensors[0]]
        found.append((graph.tensors[cut.tensors[0]], tensor.clone(memory_format=torch.preserve_format)))
    return found


def relative(copy: Timed, work: Timed, rounds: int) -> tuple[float, float]:
    """Time of `copy` over time of `work`, and seconds of `work`: medians of interleaved rounds."""
    work(), work()
    repeats = max(1, int(2e-3 / max(_seconds(copy, 3), 1e-7)))
    pairs = []
    for _ in range(rounds):
        copy_s = _seconds(copy, repeats)
        pairs.append((copy_s, _seconds(work, max(1, repeats // 8))))
    return statistics.median(c / w for c, w in pairs), statistics.median(w for _, w in pairs)


def _seconds(work: Timed, repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        work()
    return (time.perf_counter() - start) / repeats


def _copy_of(tensor: Tensor) -> Timed:
    target = torch.empty_like(tensor)
    return lambda: target.copy_(tensor)


def _row(spec: TensorSpec, name: str, packed_bytes: int, error: Tensor, times: tuple[float, ...]) -> dict[str, Cell]:
    """A row; `times` are encode ratio and seconds, decode ratio and seconds."""
    encode, encode_s, decode, decode_s = times
    return {
        "shape": "x".join(str(side) for side in spec.shape[1:]),
        "codec": name,
        "bytes": packed_bytes,
        "bits": round(8 * packed_bytes / spec.numel, 3),
        "rmse": float(f"{float(error.square().mean().sqrt()):.4g}"),
        "encode/memcpy": round(encode, 4),
        "decode/memcpy": round(decode, 4),
        "encode MB/s": round(spec.nbytes / encode_s / 1e6, 1),
        "decode MB/s": round(spec.nbytes / decode_s / 1e6, 1),
    }


def _codec_row(name: str, spec: TensorSpec, tensor: Tensor, rounds: int) -> dict[str, Cell]:
    chosen, copy = codec.get(name), _copy_of(tensor)
    packed = bytearray(chosen.encode(tensor, spec))
    error = chosen.decode(packed, spec).double() - tensor.double()
    encode = relative(copy, lambda: chosen.encode(tensor, spec), rounds)
    decode = relative(copy, lambda: chosen.decode(packed, spec), rounds)
    return _row(spec, name, len(packed), error, (*encode, *decode))


def _lz4_row(spec: TensorSpec, tensor: Tensor, rounds: int) -> dict[str, Cell]:
    raw, copy = tensor.contiguous().numpy().tobytes(), _copy_of(tensor)
    packed = lz4.block.compress(raw)
    encode = relative(copy, lambda: lz4.block.compress(raw), rounds)
    decode = relative(copy, lambda: lz4.block.decompress(packed), rounds)
    return _row(spec, "LZ4 of fp32", len(packed), torch.zeros(1), (*encode, *decode))


def _zfp_row(spec: TensorSpec, tensor: Tensor, rmse: float, beside: str, rounds: int) -> dict[str, Cell] | None:
    """ZFP and LZ4 at the error of one of our codecs, or at what of ZFP's powers of two comes next above it."""
    if importlib.util.find_spec("zfpy") is None:
        return None
    zfpy = importlib.import_module("zfpy")
    maps, copy = tensor[0].contiguous().numpy(), _copy_of(tensor)
    tolerance = _tolerance(zfpy, maps, rmse)

    def pack() -> bytes:
        packed: bytes = lz4.block.compress(zfpy.compress_numpy(maps, tolerance=tolerance))
        return packed

    packed = pack()
    error = torch.from_numpy(zfpy.decompress_numpy(lz4.block.decompress(packed)) - maps)
    encode = relative(copy, pack, rounds)
    decode = relative(copy, lambda: zfpy.decompress_numpy(lz4.block.decompress(packed)), rounds)
    return _row(spec, f"ZFP+LZ4 at the error of {beside}", len(packed), error, (*encode, *decode))


def _tolerance(zfpy: Any, maps: Floats, rmse: float) -> float:
    """The power of two at which ZFP first errs as much (it knows no finer steps), to its advantage."""
    tolerance = 2.0 ** np.floor(np.log2(rmse))
    for _ in range(12):
        unpacked = zfpy.decompress_numpy(zfpy.compress_numpy(maps, tolerance=tolerance))
        if float(np.sqrt(np.square(unpacked - maps).mean())) >= rmse:
            break
        tolerance *= 2
    return float(tolerance)


def _floors(row: dict[str, Cell]) -> list[Bar]:
    ways = ("encode/memcpy", "decode/memcpy")
    return [Bar(f"{row['codec']} {way} at {row['shape']}", float(str(row[way])), FLOOR, "min") for way in ways]


def _against_zfp(ours: dict[str, Cell], theirs: dict[str, Cell]) -> list[Bar]:
    label = f"of {ours['codec']} / {theirs['codec']}, {ours['shape']}"
    sizes = Bar(f"bytes {label}", _quotient(ours, theirs, "bytes"), 1.0, "max")
    ways = ("encode", "decode")
    return [sizes, *(Bar(f"{way} time {label}", _quotient(theirs, ours, f"{way}/memcpy"), 1.0, "max") for way in ways)]


def _quotient(above: dict[str, Cell], below: dict[str, Cell], key: str) -> float:
    return float(str(above[key])) / float(str(below[key]))


def _shuffle_rows(spec: TensorSpec, tensor: Tensor, rounds: int) -> list[dict[str, Cell]]:
    """Ways to bring bits of equal weight together, alone and with LZ4, for the tensor's 8-bit codes.

    The ratio is to a memcpy of the codes, a quarter of the tensor's bytes.
    """
    scale = 255 / float(tensor.max() - tensor.min())
    codes = ((tensor - tensor.min()) * scale).round().to(torch.uint8).contiguous().view(-1).numpy()
    target, shape = np.empty_like(codes), "x".join(str(side) for side in spec.shape[1:])
    rows: list[dict[str, Cell]] = []
    for name, work in _shuffles(codes).items():
        ratio, seconds = relative(lambda: np.copyto(target, codes), work, rounds)
        row: dict[str, Cell] = {"shape": shape, "codec": name, "encode/memcpy": round(ratio, 4)}
        result = work()
        if isinstance(result, bytes):
            row["bytes"] = len(result)
        rows.append({**row, "encode MB/s": round(codes.size / seconds / 1e6, 1)})
    return rows


def _shuffles(codes: Bytes) -> dict[str, Timed]:
    """By name, what shuffles `codes`; those that end in LZ4 give the bytes."""
    target = np.empty_like(codes)
    stripes = torch.from_numpy(codes).view(8, -1)
    weights = torch.tensor([1 << bit for bit in range(8)], dtype=torch.uint8)[:, None]

    def ours() -> Bytes:
        planes.to_planes(codes, 8, target)
        return target

    def with_torch() -> Tensor:
        return torch.stack([(((stripes >> bit) & 1) * weights).sum(0, dtype=torch.uint8) for bit in range(8)])

    ways: dict[str, Timed] = {
        "bit-shuffle: ours": ours,
        "bit-shuffle: NumPy": lambda: np.packbits(np.unpackbits(codes[:, None], axis=1).T, axis=1),
        "bit-shuffle: torch": with_torch,
        "bit-shuffle+LZ4: ours": lambda: lz4.block.compress(ours().data, store_size=False),
    }
    if importlib.util.find_spec("bitshuffle"):
        library = importlib.import_module("bitshuffle")
        ways["bit-shuffle: bitshuffle"] = lambda: library.bitshuffle(codes)
        ways["bit-shuffle+LZ4: bitshuffle"] = lambda: library.compress_lz4(codes).tobytes()
    if importlib.util.find_spec("blosc2"):
        blosc = importlib.import_module("blosc2")
        options = {"typesize": 1, "filter": blosc.Filter.BITSHUFFLE, "codec": blosc.Codec.LZ4}
        ways["bit-shuffle+LZ4: blosc2"] = lambda: blosc.compress(codes, **options)
    return ways
