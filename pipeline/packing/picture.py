"""Codecs of the network's uint8 input: JPEG and WebP at several qualities."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pipeline.errors import CodecError
from pipeline.model.graph import TensorSpec
from pipeline.packing import frame
from pipeline.packing.codec import Buffer

QUALITIES = (95, 90, 85, 75, 60, 40, 20)
"""Offered of each format, best first."""

_HEADS = {"JPEG": 1024, "WEBP": 512}
"""Upper bounds for what a format spends on tables and headers."""

MAX_SIDE = {"JPEG": 65535, "WEBP": 16383}
"""Greatest width and height of each format."""


class Picture:
    """One RGB picture, shape (1, 3, height, width), dtype uint8, as a file of the format behind the usual head."""

    lossless = False

    def __init__(self, file_format: str, quality: int) -> None:
        self.name = f"{file_format.lower()}{quality}"
        self._format = file_format
        self._quality = quality

    def encode(self, tensor: Tensor, spec: TensorSpec) -> Buffer:
        """See `Codec.encode`."""
        frame.check(tensor, spec, self.name, frozenset({"uint8"}))
        self.require_picture(spec)
        pixels = tensor.detach()[0].permute(1, 2, 0).contiguous().numpy()
        file = io.BytesIO(bytes(frame.HEAD))
        file.seek(frame.HEAD)
        Image.fromarray(pixels).save(file, self._format, quality=self._quality)
        packed = np.frombuffer(file.getbuffer(), np.uint8)
        return frame.seal(packed, 0, frame.seed_of(self.name, spec))

    def decode(self, buffer: Buffer, spec: TensorSpec) -> Tensor:
        """See `Codec.decode`. The size that the file claims is checked before its pixels are decoded."""
        self.require_picture(spec)
        body, _ = frame.unseal(buffer, self.name, spec, 1)
        try:
            with Image.open(io.BytesIO(body.data), formats=(self._format,)) as picture:
                if picture.mode != "RGB" or picture.size != (spec.shape[3], spec.shape[2]):
                    raise CodecError(f"tensor {spec.name}", f"a {picture.mode} picture of {picture.size} pixels")
                pixels = np.array(picture)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise CodecError(f"tensor {spec.name}", f"its {self._format} data are damaged") from error
        return torch.from_numpy(pixels).permute(2, 0, 1)[None]

    def max_nbytes(self, spec: TensorSpec) -> int:
        """See `Codec.max_nbytes`: neither format spends two bytes on a sample."""
        return frame.HEAD + _HEADS[self._format] + 2 * spec.numel

    def require_picture(self, spec: TensorSpec) -> None:
        """Refuse what is no single RGB picture.

        Raises:
            CodecError: another shape or dtype, or sides beyond the format's.
        """
        shape = spec.shape
        fits = len(shape) == 4 and shape[:2] == (1, 3) and all(0 < s <= MAX_SIDE[self._format] for s in shape[2:])
        if spec.dtype != "uint8" or not fits:
            raise CodecError(f"tensor {spec.name}", f"{self.name} carries one RGB picture, not {spec.dtype} {shape}")
