"""The codecs' decoders as fuzz targets: any payload behind a right checksum, for tensors of several shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import xxhash

from pipeline.errors import CodecError
from pipeline.model.graph import TensorSpec
from pipeline.packing import catalogue as catalogue
from pipeline.packing import codec
from pipeline.packing.frame import HEAD, seed_of
from pipeline.packing.plain import DTYPES, ROWS
from pipeline.packing.temporal import Temporal

MAP = TensorSpec("map", (1, 3, 4, 5))
SIGNS = TensorSpec("signs", (1, 9, 3, 3), unsigned=True)
ROW = TensorSpec("row", (1, 17))
HALVES = TensorSpec("halves", (1, 5, 2, 3), "float16")
COUNTS = TensorSpec("counts", (2, 3), "int64")
PICTURE = TensorSpec("input", (1, 3, 8, 12), "uint8")

FLOATS = (MAP, SIGNS, ROW)
BARE = ("fp32", ROWS.name)
"""Those whose bytes have no head, and may be of any value."""

FAMILIES: dict[str, tuple[tuple[str, ...], tuple[TensorSpec, ...]]] = {
    "raw": (("fp32",), (MAP, ROW, HALVES, COUNTS, PICTURE)),
    "rows": ((ROWS.name,), (MAP, SIGNS, PICTURE)),
    "half": (("fp16",), FLOATS),
    "linear": (("q8", "q4", "q3-lz4", "q5-zstd", "q4-zstd", "q8-zstd", "q2a-lz4", "q3a"), (*FLOATS, HALVES)),
    "channels": (("q8c", "q4c", "q3c-lz4", "q5c-zstd", "q4c-zstd", "q8c-lz4", "q2ca-zstd"), FLOATS),
    "zeros": (("q8z", "q4z", "q2z"), FLOATS),
    "levels": (("l4", "l3", "l2"), FLOATS),
    "entropy": (("e40", "e30", "e15"), FLOATS),
    "temporal": (("t-q8", "t-q4", "t-q2", "t-e30", "t-e15"), FLOATS),
    "picture": (("jpeg85", "webp85"), (PICTURE,)),
}
"""Every family of codecs: its members (one per way through its decoder) and the tensors that they are tried on."""


@dataclass(frozen=True)
class Variant:
    """One decoder for one tensor."""

    name: str
    spec: TensorSpec
    key: bytes = b""
    """For temporal codecs: a frame that is decoded before, for differences to build on."""

    def decode(self, flags: int, payload: bytes) -> None:
        """Decode a payload behind a right head; anything but a finite tensor or a `CodecError` is a failure."""
        buffer = bytearray(payload) if self.name in BARE else sealed(self.name, self.spec, flags, payload)
        try:
            found = self._decoded(buffer)
        except CodecError:
            return
        spec = self.spec
        if found.shape != spec.shape or found.dtype != DTYPES[spec.dtype]:
            raise AssertionError(f"{self.name} gave {found.dtype} {tuple(found.shape)} for {spec}")
        if self.name not in BARE and not bool(torch.isfinite(found).all()):
            raise AssertionError(f"{self.name} gave a value that is not finite")

    def _decoded(self, buffer: bytes | bytearray) -> torch.Tensor:
        chosen = codec_of(self.name)
        if not isinstance(chosen, Temporal):
            return chosen.decode(buffer, self.spec)
        decoder = chosen.open_decoder()
        if self.key:
            decoder.decode(self.key, self.spec, 0)
        return decoder.decode(buffer, self.spec, 1)


def codec_of(name: str) -> codec.Codec:
    """Tiles' own codec as well, which no plan may name."""
    return ROWS if name == ROWS.name else codec.get(name)


def sealed(name: str, spec: TensorSpec, flags: int, payload: bytes) -> bytes:
    """A packed tensor as `frame.seal` makes it, over any payload."""
    body = bytes((flags,)) + payload
    checksum = xxhash.xxh3_64_intdigest(body, seed_of(name, spec)) & 0xFFFFFFFF
    return checksum.to_bytes(4, "little") + body


def family(name: str) -> tuple[Callable[[bytes], None], list[bytes]]:
    """The fuzz target of a family, and inputs to begin with.

    An input is one byte that chooses codec and tensor, the byte of flags, and the payload.
    """
    variants = list(_variants(name))
    count = len(variants)

    def run(data: bytes) -> None:
        if len(data) >= 2:
            variants[data[0] % count].decode(data[1], data[2:])

    return run, [seed for number, variant in enumerate(variants) for seed in _seeds(number, variant)]


def _variants(name: str) -> Iterator[Variant]:
    members, specs = FAMILIES[name]
    for member in members:
        for spec in specs:
            yield Variant(member, spec)
            if name == "temporal":
                yield Variant(member, spec, bytes(codec.get(member).encode(_values(spec, 1.0), spec)))


def _seeds(number: int, variant: Variant) -> Iterator[bytes]:
    """What an honest sender packs: dense, and mostly zeros; temporal codecs' differences too."""
    chosen, spec = codec_of(variant.name), variant.spec
    layouts = (torch.contiguous_format, torch.channels_last)[: 1 + (len(spec.shape) == 4)]
    for layout in layouts:
        for scale in (1.0, 0.0):
            tensor = _values(spec, scale).contiguous(memory_format=layout)
            if isinstance(chosen, Temporal):
                encoder = chosen.open_encoder()
                encoder.encode(_values(spec, 1.0), spec, 0, True)
                packed = bytes(encoder.encode(tensor, spec, 1, not variant.key))
            else:
                packed = bytes(chosen.encode(tensor, spec))
            if variant.name in BARE:
                yield bytes((number, 0)) + packed
            else:
                yield bytes((number, packed[HEAD - 1])) + packed[HEAD:]


def _values(spec: TensorSpec, scale: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    values = torch.randn(spec.shape, generator=generator) * 40 * scale
    if spec.unsigned or spec.dtype == "uint8":
        values = values.clamp(0)
    return values.to(DTYPES[spec.dtype])
