"""Every error that this project raises on purpose.

    AnabranchError
    ├── ModelError            a model cannot be loaded, captured or cut
    │   ├── CaptureError      torch.export or the block graph refuses the model
    │   ├── UnknownCut        a cut name that the model does not have
    │   └── ModelMismatch     two nodes or files hold different weights or structure
    ├── PlanError             a plan contradicts itself or its model
    ├── WireError             bytes from a peer that are not a valid message
    │   └── VersionMismatch   a message of another wire version
    ├── CodecError            a tensor that cannot be packed, or a buffer that cannot be unpacked
    ├── SourceError           a video, camera or folder that cannot be read
    ├── SinkError             results that cannot be written
    ├── ConfigError           a deployment file or command line that does not make sense
    │   └── KeysError         a key that is missing, wrong, or not kept secret
    └── NodeError             a port, peer or process that is not as it should be

(`traces` stands alone and has its own, `traces.errors.TraceError`.)

The text reads "thing: condition", and where there is one, "; mend". It fits on one line, since the
command line prints it as it is.
"""

from __future__ import annotations


class AnabranchError(Exception):
    """Base of all errors that carry a message for the user."""

    def __init__(self, thing: str, condition: str, mend: str = "") -> None:
        self.thing = thing
        self.condition = condition
        self.mend = mend
        super().__init__(f"{thing}: {condition}" + (f"; {mend}" if mend else ""))


class ModelError(AnabranchError):
    """A model cannot be loaded, captured or cut."""


class CaptureError(ModelError):
    """torch.export or the block graph refuses the model."""


class UnknownCut(ModelError):
    """A cut name that the model does not have."""


class ModelMismatch(ModelError):
    """Two nodes or files hold different weights or structure."""


class PlanError(AnabranchError):
    """A plan contradicts itself or its model."""


class WireError(AnabranchError):
    """Bytes from a peer that are not a valid message."""


class VersionMismatch(WireError):
    """A message of another wire version."""


class CodecError(AnabranchError):
    """A tensor that cannot be packed, or a buffer that cannot be unpacked."""


class SourceError(AnabranchError):
    """A video, camera or folder that cannot be read."""


class SinkError(AnabranchError):
    """Results that cannot be written."""


class ConfigError(AnabranchError):
    """A deployment file or command line that does not make sense."""


class KeysError(ConfigError):
    """A key that is missing, wrong, or not kept secret."""


class NodeError(AnabranchError):
    """A port, peer or process that is not as it should be."""
