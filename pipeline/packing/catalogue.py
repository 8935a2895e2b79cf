"""All codecs by name, and which of them make sense for a tensor."""

from __future__ import annotations

from pipeline.errors import CodecError
from pipeline.model.graph import TensorSpec
from pipeline.packing import picture, plain
from pipeline.packing.channels import LinearChannels
from pipeline.packing.codec import names, register
from pipeline.packing.entropy import RATES, Entropy
from pipeline.packing.frame import FLOATS
from pipeline.packing.half import Half
from pipeline.packing.levels import Levels
from pipeline.packing.linear import Linear, Quantiser
from pipeline.packing.stages import Stage
from pipeline.packing.temporal import Method, Temporal
from pipeline.packing.zeros import ZeroMap

BITS = (8, 7, 6, 5, 4, 3, 2)
"""Bit widths of the linear codecs."""

CLIPPED_BITS = (4, 3, 2)
"""Widths at which a clipped range keeps more answers than the whole one; wider steps are fine enough without."""

__all__ = ["offered", "plain"]


def offered(spec: TensorSpec) -> tuple[str, ...]:
    """Names of the codecs that can carry `spec`, without those that suit it badly.

    Pictures have the raw bytes and the picture codecs; float maps all others, the one for ReLU's zeros only where
    nothing is negative; whatever else there is goes raw.
    """
    if spec.dtype == "uint8":
        return ("fp32", *(codec.name for codec in _pictures() if _carries(codec, spec)))
    if spec.dtype not in FLOATS:
        return ("fp32",)
    found = [name for name in names() if not name.startswith(("jpeg", "webp"))]
    if spec.dtype != "float32":
        found.remove("fp16")
    return tuple(name for name in found if spec.unsigned or not name.endswith("z"))


def _carries(codec: picture.Picture, spec: TensorSpec) -> bool:
    try:
        codec.require_picture(spec)
    except CodecError:
        return False
    return True


def _pictures() -> list[picture.Picture]:
    return [picture.Picture(form, quality) for form in ("JPEG", "WEBP") for quality in picture.QUALITIES]


def _register_all() -> None:
    register(Half())
    for stage in Stage:
        for bits in BITS:
            register(Linear(Quantiser(bits, stage=stage)))
            register(LinearChannels(Quantiser(bits, per_channel=True, stage=stage)))
        for bits in CLIPPED_BITS:
            register(Linear(Quantiser(bits, clipped=True, stage=stage)))
            register(LinearChannels(Quantiser(bits, per_channel=True, clipped=True, stage=stage)))
    for bits in BITS:
        register(ZeroMap(bits))
        register(Temporal(Method(f"q{bits}", bits, mixed=False)))
    for bits in CLIPPED_BITS:
        register(Levels(bits))
    for tenths in RATES:
        register(Entropy(tenths))
        register(Temporal(Method(f"e{tenths}", tenths / 10, mixed=True)))
    for codec in _pictures():
        register(codec)


_register_all()
