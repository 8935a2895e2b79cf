"""From what the user writes after `--model` to a captured network.

A spec is `package.module:factory`, the path of a `.pt2` file, or `builtin`. A network may carry the attributes
`preprocess` (a `Preprocess`) and `labels` (names by class index); arguments win over them.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from pipeline import tablefile
from pipeline.errors import ModelError
from pipeline.frames import results
from pipeline.frames.preprocess import Preprocess
from pipeline.model import memory
from pipeline.model.capture import CapturedModel, capture
from pipeline.model.picture import PictureModel

BUILTIN = "builtin"
SUFFIX = ".pt2"
_EXTRA = "anabranch.json"
"""Name, in a `.pt2` archive, of what a network carries beside its graph."""


class Extras(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a `.pt2` written by `save_pt2` says of its network."""

    preprocess: Preprocess
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class LoadedModel:
    """A captured network, and what surrounds it."""

    captured: CapturedModel
    preprocess: Preprocess
    labels: tuple[str, ...]
    """Names by class index; empty where none are known."""
    name: str


@dataclass(frozen=True)
class PlainModel:
    """A network before capture: takes (1, 3, H, W) of uint8."""

    module: nn.Module
    preprocess: Preprocess
    labels: tuple[str, ...]
    name: str
    example: Tensor


def load_model(
    spec: str, *, weights: Path | None = None, preprocess: Preprocess | None = None, labels: Path | None = None
) -> LoadedModel:
    """Load and capture the network of a spec.

    Args:
        spec: see the module's docstring. `package.module` is also looked for in the working directory.
        weights: a state dict, bare or under the key `state_dict`, its keys with or without a leading `module.`.
        preprocess: wins over what the network carries.
        labels: class names, see `read_labels`; wins over what the network carries.

    Raises:
        ModelError: the spec, the weights or the labels cannot be read or do not fit.
        CaptureError: the network cannot be captured.
    """
    plain = load_plain(spec, weights=weights, preprocess=preprocess, labels=labels)
    captured = capture(plain.module, plain.example, plain.name)
    loaded = LoadedModel(captured, plain.preprocess, plain.labels, plain.name)
    del plain
    memory.give_back()
    return loaded


def load_plain(
    spec: str, *, weights: Path | None = None, preprocess: Preprocess | None = None, labels: Path | None = None
) -> PlainModel:
    """The network of a spec without capturing it, for reference; arguments and errors are those of `load_model`."""
    names = read_labels(labels) if labels is not None else None
    if spec.endswith(SUFFIX):
        plain = _from_archive(Path(spec), preprocess)
    else:
        plain = _from_module(_build(spec), preprocess, spec.rpartition(":")[2])
    if weights is not None:
        network = plain.module.network if isinstance(plain.module, PictureModel) else plain.module
        if not isinstance(network, nn.Module) or spec.endswith(SUFFIX):
            raise ModelError(f"weights {weights}", f"{spec} holds its own", "leave --weights out")
        load_weights(network, weights)
    if names is not None:
        plain = PlainModel(plain.module, plain.preprocess, names, plain.name, plain.example)
    plain.module.requires_grad_(False)
    return plain


def load_weights(network: nn.Module, path: Path) -> None:
    """Read a state dict into `network`.

    Raises:
        ModelError: the file cannot be read without running code from it, or its keys or shapes do not fit.
    """
    thing = f"weights {path}"
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ModelError(thing, "no such file", "check the path") from error
    except Exception as error:  # torch has no common base for what an unreadable file makes it raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(
            thing, f"not a readable state dict ({reason[:120]})", "save it as a dict of tensors"
        ) from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ModelError(thing, "holds no state dict", "save `model.state_dict()`")
    state = {key.removeprefix("module."): value for key, value in state.items()}
    _check_fit(network, state, thing)
    network.load_state_dict(state, strict=False)


def _check_fit(network: nn.Module, state: dict[str, Tensor], thing: str) -> None:
    # Old files have no batch counters; they change nothing in eval mode.
    own = {key: value for key, value in network.state_dict().items() if not key.endswith("num_batches_tracked")}
    given = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    mend = "give the weights of this very network"
    missing, unexpected = sorted(own.keys() - given.keys()), sorted(given.keys() - own.keys())
    if missing or unexpected:
        parts = [f"{len(keys)} keys {word} ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})"
                 for word, keys in (("missing", missing), ("unexpected", unexpected)) if keys]  # fmt: skip
        raise ModelError(thing, " and ".join(parts), mend)
    for key, value in own.items():
        if value.shape != given[key].shape:
            raise ModelError(thing, f"{key} is {tuple(given[key].shape)}, the network's {tuple(value.shape)}", mend)


def read_labels(path: Path) -> tuple[str, ...]:
    """Class names, as `pipeline.frames.results.read_labels` reads them; what a table leaves out is called by its index.

    Raises:
        ConfigError: the file cannot be read, or names more classes than any network has.
    """
    names = results.read_labels(path)
    return tuple(names.get(index, str(index)) for index in range(max(names, default=-1) + 1))


def save_pt2(plain: PlainModel, path: Path) -> None:
    """Write a network, its preprocessing and labels as a `.pt2` that `load_model` takes on another machine."""
    program = torch.export.export(plain.module.eval(), (plain.example,), strict=False)
    extras = msgspec.json.encode(Extras(plain.preprocess, plain.labels)).decode()
    torch.export.save(program, path, extra_files={_EXTRA: extras})


def _build(spec: str) -> nn.Module:
    if spec == BUILTIN:
        spec = "pipeline.model.builtin:build"
    where, colon, what = spec.partition(":")
    if not colon or not where or not what:
        raise ModelError(f"model {spec!r}", "not a model spec", "write package.module:factory, a .pt2 path, or builtin")
    factory = _find(spec, where, what)
    if isinstance(factory, nn.Module):
        return factory
    if not callable(factory):
        raise ModelError(f"model {spec}", f"{what} is not a function", "name a function that returns the network")
    try:
        # Networks without trained weights must come out alike in every process.
        with torch.random.fork_rng():
            torch.manual_seed(0)
            module = factory()
    except ModelError:
        raise
    except Exception as error:  # whatever the user's own code raises
        raise ModelError(f"model {spec}", f"{what}() raised {type(error).__name__}: {error}", "mend it") from error
    if not isinstance(module, nn.Module):
        raise ModelError(f"model {spec}", f"{what}() returned {type(module).__name__}", "return a torch.nn.Module")
    return module


def _find(spec: str, where: str, what: str) -> Any:
    with _working_directory_importable():
        try:
            found: Any = importlib.import_module(where)
        except ImportError as error:
            raise ModelError(f"model {spec}", f"cannot import {where} ({error})", "install it, or check it") from error
        except Exception as error:  # whatever the user's module raises while it is imported
            raise ModelError(f"model {spec}", f"importing {where} raised {error!r}", "mend that module") from error
    try:
        return functools.reduce(getattr, what.split("."), found)
    except AttributeError as error:
        close = [name for name in vars(found) if what.lower() in name.lower() and not name.startswith("_")][:3]
        hint = f"did you mean {' or '.join(close)}?" if close else "check the name behind the colon"
        raise ModelError(f"model {spec}", f"{where} has no {what}", hint) from error


@contextlib.contextmanager
def _working_directory_importable() -> Iterator[None]:
    here = str(Path.cwd())
    if here in sys.path:
        yield
        return
    sys.path.insert(0, here)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(here)


def _from_module(module: nn.Module, preprocess: Preprocess | None, name: str) -> PlainModel:
    if isinstance(module, PictureModel):
        wrapped = module if preprocess is None else PictureModel(module.network, preprocess)
    else:
        wrapped = PictureModel(module, preprocess or _own_preprocess(module))
    labels = getattr(module, "labels", None) or getattr(wrapped.network, "labels", ())
    return PlainModel(wrapped, wrapped.preprocess, _names(labels), name, wrapped.example())


def _own_preprocess(module: nn.Module) -> Preprocess:
    """What the network carries, or ImageNet's usual at the network's own size (pytorchcv keeps it in `in_size`)."""
    own = getattr(module, "preprocess", None)
    if isinstance(own, Preprocess):
        return own
    size = getattr(module, "in_size", None)
    if not isinstance(size, Sequence) or len(size) != 2:
        return Preprocess()
    height, width = int(size[0]), int(size[1])
    # 256 for 224, as is customary; small pictures (CIFAR) are taken whole.
    resize = round(min(height, width) * 8 / 7) if min(height, width) >= 112 else None
    return Preprocess(size=(height, width), resize=resize)


def _names(labels: Any) -> tuple[str, ...]:
    return tuple(str(label) for label in labels) if isinstance(labels, Sequence) else ()


def _from_archive(path: Path, preprocess: Preprocess | None) -> PlainModel:
    """A `.pt2`: one that takes uint8 is used as it is, one that takes floats gets its arithmetic put before it."""
    thing = f"model {path}"
    if not path.is_file():
        raise ModelError(thing, "no such file", "check the path")
    extra = {_EXTRA: ""}
    try:
        with _no_pickled_code():
            program = torch.export.load(path, extra_files=extra)
    except Exception as error:  # see `load_weights`
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(
            thing, f"not a .pt2 of this torch ({reason[:120]})", "write it with torch.export.save"
        ) from error
    extras = _read_extras(extra[_EXTRA], thing)
    inputs = program.graph_signature.user_inputs
    values = [node.meta["val"] for node in program.graph.nodes if node.op == "placeholder" and node.name in inputs]
    if len(values) != 1 or values[0].dim() != 4 or values[0].shape[1] != 3:
        raise ModelError(thing, "does not take one (1, 3, H, W) picture", "export it with such an example")
    size = (int(values[0].shape[2]), int(values[0].shape[3]))
    module = program.module(check_guards=False)
    if values[0].dtype is torch.uint8:
        chosen = preprocess or (extras.preprocess if extras else Preprocess(size=size))
        example = torch.zeros(1, 3, *size, dtype=torch.uint8)
        return PlainModel(module, chosen, extras.labels if extras else (), path.stem, example)
    chosen = preprocess or Preprocess(size=size)
    if chosen.size != size:
        raise ModelError(thing, f"takes {size} pixels, the preprocessing makes {chosen.size}", "make them agree")
    wrapped = PictureModel(module, chosen)
    return PlainModel(wrapped, chosen, (), path.stem, wrapped.example())


def _read_extras(text: str | bytes, thing: str) -> Extras | None:
    if not text:
        return None
    try:
        return msgspec.json.decode(text, type=Extras)
    except tablefile.MALFORMED as error:
        raise ModelError(thing, f"its {_EXTRA} is damaged ({error})", "save it again") from error


@contextlib.contextmanager
def _no_pickled_code() -> Iterator[None]:
    """torch.export.load may run code from some parts of an archive; this makes torch refuse all but plain tensors."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
