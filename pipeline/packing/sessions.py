"""Codecs as one end of a link uses them: frame after frame of one tensor, with whatever state the codec keeps."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from pipeline.model.graph import TensorSpec
from pipeline.packing import codec
from pipeline.packing.codec import Buffer, Codec
from pipeline.packing.plain import DTYPES
from pipeline.packing.temporal import MissingReference, Temporal

__all__ = ["DecoderSession", "EncoderSession", "MissingReference", "open_decoder", "open_encoder", "warm"]


class EncoderSession(Protocol):
    """Packs one tensor of successive frames of one plan."""

    def encode(self, tensor: Tensor, spec: TensorSpec, frame: int, key: bool) -> Buffer:
        """See `Codec.encode`; `key` asks for a buffer that needs no earlier frame."""


class DecoderSession(Protocol):
    """Unpacks one tensor of successive frames of one plan."""

    def decode(self, buffer: Buffer, spec: TensorSpec, frame: int) -> Tensor:
        """See `Codec.decode`.

        Raises:
            MissingReference: the buffer needs a frame that is not here.
        """


class _Stateless:
    """Both ends of a codec that treats every frame alike."""

    def __init__(self, inner: Codec) -> None:
        self._codec = inner

    def encode(self, tensor: Tensor, spec: TensorSpec, frame: int, key: bool) -> Buffer:
        return self._codec.encode(tensor, spec)

    def decode(self, buffer: Buffer, spec: TensorSpec, frame: int) -> Tensor:
        return self._codec.decode(buffer, spec)


def open_encoder(name: str) -> EncoderSession:
    """The sending end of the codec of that name.

    Raises:
        CodecError: there is none.
    """
    found = codec.get(name)
    return found.open_encoder() if isinstance(found, Temporal) else _Stateless(found)


def open_decoder(name: str) -> DecoderSession:
    """The receiving end of the codec of that name.

    Raises:
        CodecError: there is none.
    """
    found = codec.get(name)
    return found.open_decoder() if isinstance(found, Temporal) else _Stateless(found)


def warm(name: str, spec: TensorSpec) -> None:
    """Compile and load what the codec of that name needs for such tensors, so that the first frame does not wait.

    Seconds where nothing was compiled on this machine before, milliseconds afterwards.

    Raises:
        CodecError: there is no such codec, or it cannot carry such tensors.
    """
    encoder, decoder = open_encoder(name), open_decoder(name)
    for layout in (torch.contiguous_format, torch.channels_last)[: 1 + (len(spec.shape) == 4)]:
        # Two frames: a key frame and a difference.
        for frame in range(2):
            values = torch.arange(spec.numel).remainder(7).to(DTYPES[spec.dtype]).reshape(spec.shape) * (1 + frame)
            packed = encoder.encode(values.contiguous(memory_format=layout), spec, frame, False)
            decoder.decode(bytearray(packed), spec, frame)
