"""Read weight files without running code from them, and fit their tensors to a network."""

import argparse
import pickle
import re
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.serialization
from safetensors.torch import load_file
from torch import Tensor, nn

from lib.core.errors import one_line
from lib.core.file_types import placeholder

# torchvision's DenseNet files have tensor names such as norm.1, but the network has norm1. torchvision renames them.
_OLD_DENSENET = re.compile(r"(\.denselayer\d+\.(?:norm|conv))\.([12]\.)")

_FILE_SUFFIXES = {".safetensors", ".pth", ".pt", ".tar", ".ckpt", ".bin", ".pkl"}  # suffixes of weight files
_TENSOR_KEYS = (  # keys of the state dict in a checkpoint; averaged weights (EMA) come first, because they are better
    "state_dict_ema", "model_ema", "state_dict", "model_state_dict", "model", "module", "net", "network", "backbone",
)  # fmt: skip
_AUXILIARY = ("AuxLogits.", "aux1.", "aux2.")  # auxiliary classifiers of Inception and GoogLeNet, used only in training
_NOT_WEIGHTS = ("num_batches_tracked", "total_ops", "total_params")  # counters that some tools add to a state dict
_MAX_NAMED = 3  # tensor names that an error message lists


def is_weights_file(weights: str) -> bool:
    """Return whether `backbone.weights` is the path of a file, not the name of weights."""
    return Path(weights).suffix.lower() in _FILE_SUFFIXES or "/" in weights or Path(weights).is_file()


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors by name of a weight file: a state dict, or a checkpoint that contains a state dict.

    The format is that of safetensors or torch.save. Half precision becomes float32. Malformed files raise many kinds of
    error; see `failure_reason`.
    """
    return {key: t.float() if t.is_floating_point() else t for key, t in _tensors(_read(path)).items()}


def failure_reason(error: Exception) -> str:
    """Return in one line why weights cannot be read or downloaded."""
    if isinstance(error, pickle.UnpicklingError):
        # Replace torch's message: it advises to load the file in a way that runs the code in it.
        return _refused(error)
    text = getattr(error, "strerror", None) or one_line(error)
    if "central directory" in text:  # the central directory is at the end of a zip
        return "the file is incomplete; copy or download it again"
    return text


def _read(path: Path) -> Any:
    """Return the content of a weight file without running code from it."""
    with path.open("rb") as file:
        head = file.read(64)
    if reason := placeholder(head):
        raise ValueError(f"the file is {reason}")
    if head[8:9] == b"{":  # a safetensors file starts with the length of the header (8 bytes) and the header as JSON
        return load_file(path)
    if not head.startswith((b"PK", b"\x80")):  # torch.save writes a zip; before 2020 it wrote a pickle
        raise ValueError("the format is neither that of torch.save nor safetensors")
    with torch.serialization.safe_globals([argparse.Namespace]):  # checkpoints of timm and torchvision have it
        return torch.load(path, "cpu", weights_only=True)


def _refused(error: pickle.UnpicklingError) -> str:
    found = re.search(r"GLOBAL (\S+)", str(error))
    what = f" ({found[1]})" if found else ""
    fix = "save only the tensors with torch.save(model.state_dict(), 'weights.pth')"
    return f"the file holds objects other than tensors{what}; in the project that wrote it, {fix}"


def _tensors(content: Any) -> dict[str, Tensor]:
    """Return the tensors by name of a state dict, or of a checkpoint that contains one. Raises ValueError."""
    if not isinstance(content, Mapping):
        raise ValueError(f"the file holds a {type(content).__name__}, not a state dict (tensors by name)")
    nested = {key: value for key, value in content.items() if isinstance(value, Mapping) and _has_tensors(value)}
    for key in _TENSOR_KEYS:
        if key in nested:
            return _tensors(nested[key])
    tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    if tensors:
        return tensors
    if len(nested) == 1:
        return _tensors(*nested.values())
    keys = ", ".join(str(key)[:40] for key in list(content)[:10])
    raise ValueError(f"there is no state dict (tensors by name) under a usual key; the keys are {keys}")


def _has_tensors(content: Mapping[Any, Any]) -> bool:
    """Return whether `content` has tensors at any depth. Skip keys that are numbers, which an optimiser's state has."""
    return any(
        isinstance(key, str) and (isinstance(value, Tensor) or (isinstance(value, Mapping) and _has_tensors(value)))
        for key, value in content.items()
    )


def native_names(network: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of `state` under the names that `network` has.

    The names in `state` may have a common prefix, such as `module.` or `model.backbone.`. Raises ValueError if no name
    fits.
    """
    state = {_OLD_DENSENET.sub(r"\1\2", key): tensor for key, tensor in state.items()}
    prefix = _common_prefix(state, network.state_dict())
    return {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}


def load_weights(network: nn.Module, given: Mapping[str, Tensor], classifiers: Sequence[str]) -> None:
    """Load the tensors of a network that was trained elsewhere. Raises ValueError if they do not fit.

    The layers `classifiers` may have any number of classes or be missing. All other tensors must be there. Unknown
    tensors are an error too, because a ResNet-101 has all tensors of a ResNet-50.
    """
    given, expected = dict(given), network.state_dict()
    children = {name for name, _ in network.named_children()}
    dropped = (*(f"{name}." for name in classifiers), *_AUXILIARY)
    problems = []
    for key, tensor in expected.items():
        if key not in given and not key.endswith("num_batches_tracked") and not key.startswith(_AUXILIARY):
            problems.append(f"{key} is missing")
        elif key in given and given[key].shape != tensor.shape:
            if key.startswith(_AUXILIARY):
                del given[key]
            else:
                shapes = f"{_shape(given[key])} in the file, {_shape(tensor)} in the network"
                problems.append(f"{key} has shape {shapes}")
    for key in given:
        known = key in expected or key.startswith(dropped) or key.endswith(_NOT_WEIGHTS)
        if not known and (key.partition(".")[0] in children or "." not in key):
            problems.append(f"{key} is unknown")
    if problems:
        raise ValueError(f"{len(problems)} tensors do not fit: {'; '.join(problems[:_MAX_NAMED])}")
    auxiliary = {key: tensor for key, tensor in expected.items() if key.startswith(_AUXILIARY)}
    load_state_dict(network, auxiliary | {key: given[key] for key in expected if key in given})


def _common_prefix(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    """Return the prefix that the names in `state` have before those in `expected`, often "".

    Raises ValueError if no name fits, or if two prefixes are equally common.
    """
    counts: Counter[str] = Counter()
    for key in state:
        parts = key.split(".")
        for i in range(len(parts)):
            if ".".join(parts[i:]) in expected:
                counts["".join(f"{part}." for part in parts[:i])] += 1
    if not counts:
        raise ValueError(f"no tensor name occurs in the network; the names are {', '.join(list(state)[:_MAX_NAMED])}")
    (prefix, most), *others = counts.most_common(2)
    if others and others[0][1] == most:
        names = f"{prefix}* and {others[0][0]}*"
        raise ValueError(f"the file holds more than one network, {names}; save the state dict of one network")
    return prefix


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape))


def load_state_dict(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load the complete state dict of `network`."""
    ordered = OrderedDict(state)
    # Set the state dict's version of the root module, because MNASNet checks it and safetensors files do not store it.
    # Submodules get no version. BatchNorm then accepts files without num_batches_tracked, such as DenseNet's.
    ordered._metadata = {"": {"version": network._version}}  # type: ignore[attr-defined]
    network.load_state_dict(ordered)
