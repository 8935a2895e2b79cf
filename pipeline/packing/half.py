"""`fp16`: half floats."""

from __future__ import annotations

import numpy as np
import torch

from pipeline.errors import CodecError
from pipeline.model.graph import TensorSpec
from pipeline.packing import kernels
from pipeline.packing.frame import HEAD, Bytes, FloatCodec, Floats

GREATEST = 65504.0
"""Greatest finite half float."""


class Half(FloatCodec):
    """Within half a unit of the last of eleven binary places; no parameters."""

    def __init__(self) -> None:
        super().__init__("fp16")

    def max_nbytes(self, spec: TensorSpec) -> int:
        """See `Codec.max_nbytes`; exact."""
        return HEAD + 2 * spec.numel if spec.numel else 0

    def pack(self, elements: Floats, spec: TensorSpec, channels_last: bool) -> tuple[Bytes, int]:
        """See `FloatCodec.pack`.

        Raises:
            CodecError: beyond `GREATEST`, too.
        """
        low, high = kernels.value_range(elements, spec.name)
        if max(high, -low) > GREATEST:
            raise CodecError(f"tensor {spec.name}", f"values from {low:.6g} to {high:.6g}", "fp16 ends at 65504")
        out = np.empty(HEAD + 2 * elements.size, np.uint8)
        out[HEAD:] = torch.from_numpy(elements).to(torch.float16).numpy().view(np.uint8)
        return out, 0

    def unpack(self, body: Bytes, flags: int, spec: TensorSpec, channels_last: bool) -> Floats:
        """See `FloatCodec.unpack`."""
        if body.size != 2 * spec.numel:
            raise CodecError(f"tensor {spec.name}", f"{body.size} bytes where {2 * spec.numel} belong")
        # The copy is aligned. Torch converts, twenty times as fast as NumPy.
        elements: Floats = torch.from_numpy(body.copy().view(np.float16)).to(torch.float32).numpy()
        kernels.value_range(elements, spec.name)
        return elements
