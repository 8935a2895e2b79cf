"""What a codec is, and the registry that gives one for its name in a plan."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from pipeline.errors import CodecError
from pipeline.model.graph import TensorSpec

Buffer = bytes | bytearray | memoryview
"""Contiguous bytes; a memoryview over a tensor where nothing had to be copied."""


class Codec(Protocol):
    """Packs one tensor into one buffer and back. Stateless and safe to share between threads."""

    name: str
    lossless: bool

    def encode(self, tensor: Tensor, spec: TensorSpec) -> Buffer:
        """Pack `tensor` (any strides).

        Args:
            tensor: shape and dtype as `spec` says.
            spec: the tensor's name, shape, dtype and range.

        Raises:
            CodecError: the tensor holds NaN or infinity, or the codec cannot carry its dtype or shape.
        """

    def decode(self, buffer: Buffer, spec: TensorSpec) -> Tensor:
        """Unpack `buffer`, which comes from a peer and is not to be trusted.

        Returns:
            A tensor of `spec`'s shape and dtype, contiguous or channels-last.

        Raises:
            CodecError: the buffer is not what `encode` makes for this spec.
        """

    def max_nbytes(self, spec: TensorSpec) -> int:
        """The most bytes that `encode` can return for this spec."""


_registry: dict[str, Codec] = {}


def register(codec: Codec) -> None:
    """Add a codec under its name."""
    _registry[codec.name] = codec


def names() -> tuple[str, ...]:
    """Names of all codecs, in order of registration."""
    return tuple(_registry)


def get(name: str) -> Codec:
    """The codec of that name.

    Raises:
        CodecError: there is none.
    """
    if name not in _registry:
        raise CodecError(f"codec {name!r}", "unknown", f"known are {', '.join(_registry)}")
    return _registry[name]
