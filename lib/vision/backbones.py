"""CNN backbones: torchvision's classification models and SmallNet, without their classifier.

The pooled features are the input of the last linear layer. A saved backbone is a folder with weights.safetensors and
backbone.json (name and preprocessing).
"""

import argparse
import copy
import json
import pickle
import re
import sys
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.fx
import torch.hub
import torch.serialization
from PIL import Image
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from lib.core.errors import UserError, one_line, readable_errors
from lib.core.file_types import placeholder
from lib.vision.images import Preprocess

SMALL_NET = "small_net"
WEIGHTS_FILE, CONFIG_FILE = "weights.safetensors", "backbone.json"
_READY_FILE = "ready_features.json"  # replaces the two files above if the model uses ready features
_SIZES = range(16, 8193)  # pixels per side; smaller images vanish in the strides of a CNN, larger ones fill the memory
# torchvision's DenseNet files have tensor names such as norm.1, but the network has norm1. torchvision renames them.
_OLD_DENSENET = re.compile(r"(\.denselayer\d+\.(?:norm|conv))\.([12]\.)")

_FILE_SUFFIXES = {".safetensors", ".pth", ".pt", ".tar", ".ckpt", ".bin", ".pkl"}  # suffixes of weight files
_TENSOR_KEYS = (  # keys of the state dict in a checkpoint; averaged weights (EMA) come first, because they are better
    "state_dict_ema", "model_ema", "state_dict", "model_state_dict", "model", "module", "net", "network", "backbone",
)  # fmt: skip
_AUXILIARY = ("AuxLogits.", "aux1.", "aux2.")  # auxiliary classifiers of Inception and GoogLeNet, used only in training
_NOT_WEIGHTS = ("num_batches_tracked", "total_ops", "total_params")  # counters that some tools add to a state dict
_MAX_NAMED = 3  # tensor names that an error message lists
_MAX_MESSAGE = 480  # characters


@dataclass
class Backbone:
    """A CNN without its classifier, and its preprocessing."""

    name: str
    network: nn.Module
    preprocess: Preprocess

    @torch.inference_mode()
    def features(self, pixels: Tensor, kind: str, precision: str = "float32") -> Tensor:
        """Return the features (N, P, C) of uint8 pixels (N, size, size, 3) on the network's device.

        `kind` is "pooled" (P = 1) or "grid" (the regions of the last feature map, row by row). `precision` is "float32"
        or "bfloat16" (autocast).
        """
        with torch.autocast(pixels.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            x = self.preprocess.normalise(pixels)
            return self.network(x)[:, None] if kind == "pooled" else self.grid(x)

    def feature_size(self, size: int) -> int:
        """Return the number C of pooled features for images of `size` pixels per side. Raises UserError."""
        blank = torch.zeros(1, size, size, 3, dtype=torch.uint8, device=next(self.network.parameters()).device)
        try:
            return self.features(blank, "pooled").shape[2]
        except Exception as error:  # the kind of error depends on the network
            problem = f"{self.name} rejects images of {size} pixels per side: {one_line(error)}"
            raise UserError(f"{problem}. Change backbone.size or backbone.tune.size.") from error

    def grid(self, x: Tensor) -> Tensor:
        """Return the last feature map that has several regions, (N, P, C), for normalised pixels (N, 3, size, size)."""
        self.check_grid()
        maps: list[Tensor] = []

        def keep(module: nn.Module, args: object, out: object) -> None:
            if isinstance(out, Tensor) and out.dim() == 4 and out.shape[2:].numel() > 1:
                maps[:] = [out]

        with ExitStack() as hooks:
            for module in self.network.modules():
                hooks.enter_context(module.register_forward_hook(keep))
            self.network(x)
        return maps[0].flatten(2).transpose(1, 2)

    def check_grid(self) -> None:
        """Raise UserError for a vision transformer, because its last feature map is its input."""
        if self.name.startswith("vit_"):
            problem = "a vision transformer has no grid of features (feature map)"
            fix = "Use another CNN, or features.kind=pooled with a backbone.weights other than fit."
            raise UserError(f"backbone.name={self.name}: {problem}. {fix}")

    def fuse_batchnorm(self) -> "Backbone":
        """Return a faster copy, equal up to rounding: each BatchNorm is fused into the convolution before it."""
        network = copy.deepcopy(self.network)
        for node in torch.fx.symbolic_trace(network).graph.nodes:
            before = node.args[0] if node.op == "call_module" else None
            if isinstance(before, torch.fx.Node) and before.op == "call_module" and len(before.users) == 1:
                convolution, norm = (network.get_submodule(str(name)) for name in (before.target, node.target))
                if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                    network.set_submodule(str(before.target), fuse_conv_bn_eval(convolution, norm))
                    network.set_submodule(str(node.target), nn.Identity())
        return Backbone(self.name, for_inference(network), self.preprocess)

    def replica(self) -> "Backbone":
        """Return a copy for another thread. It shares the tensors, but not the modules, because `grid` adds hooks."""
        shared = {id(tensor): tensor for tensor in (*self.network.parameters(), *self.network.buffers())}
        return replace(self, network=copy.deepcopy(self.network, shared))

    def save(self, folder: Path) -> None:
        """Write the backbone to `folder`. The same backbone gives the same bytes."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / WEIGHTS_FILE).write_bytes(self.weights())
        config = {"name": self.name, "preprocess": asdict(self.preprocess)}
        (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n")

    def weights(self) -> bytes:
        """Return the weights as the bytes of a safetensors file."""
        return save({name: tensor.contiguous() for name, tensor in self.network.state_dict().items()})

    @classmethod
    def load(cls, folder: Path) -> "Backbone":
        """Read a saved backbone. Raises UserError if a file is missing, damaged, or from another version."""
        name, preprocess = read_backbone_config(folder)
        with readable_errors(folder / CONFIG_FILE):
            try:
                network = without_classifier(build(name, preprocess.size))
            except UserError as error:
                raise ValueError(str(error)) from error
        with readable_errors(folder / WEIGHTS_FILE):
            _load_state_dict(network, load_file(folder / WEIGHTS_FILE))
        return cls(name, for_inference(network), preprocess)


def save_without_cnn(folder: Path, source: str) -> None:
    """Write a note to `folder` instead of a backbone: the ready features come from `source`, so there is no CNN."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _READY_FILE).write_text(json.dumps({"features": source}, indent=2) + "\n", "utf-8")


def has_cnn(folder: Path) -> bool:
    """Return whether `folder` has a CNN. If not, it has the note that `save_without_cnn` wrote."""
    return not (folder / _READY_FILE).exists()


def read_backbone_config(folder: Path) -> tuple[str, Preprocess]:
    """Read the name and the preprocessing of a saved backbone. Raises UserError."""
    with readable_errors(folder / CONFIG_FILE):
        config = json.loads((folder / CONFIG_FILE).read_text("utf-8"))
        settings = config["preprocess"]
        preprocess = Preprocess(**settings | {key: tuple(settings[key]) for key in ("mean", "std")})
        if preprocess.size not in _SIZES:
            raise ValueError(f"size={preprocess.size}, but it must be {_SIZES[0]} to {_SIZES[-1]} pixels per side")
        # Try the preprocessing on a blank image, because malformed values would fail only later.
        preprocess.normalise(torch.from_numpy(preprocess.pixels(Image.new("RGB", (8, 8))).copy())[None])
        return config["name"], preprocess


def for_inference(network: nn.Module) -> nn.Module:
    return network.eval().to(memory_format=torch.channels_last)


def build(name: str, size: int = 224) -> nn.Module:
    """Return the network `name`, with its classifier and random weights, for images of `size` pixels per side."""
    if name == SMALL_NET:
        return SmallNet()
    options: dict[str, Any] = {"image_size": size} if name.startswith("vit_") else {}
    if name in ("inception_v3", "googlenet"):  # their weights are from TensorFlow, with mean and std 0.5
        options = {"init_weights": False, "transform_input": True}
    return _torchvision_models(name).get_model(name, weights=None, **options)


def without_classifier(network: nn.Module) -> nn.Module:
    """Replace the last linear layer, if any, with the identity. Change `network` in place and return it."""
    if classifier := _classifier(network):
        network.set_submodule(classifier, nn.Identity())
    return network


def _classifier(network: nn.Module) -> str:
    """Return the name of the last linear layer, or an empty string if the network has no linear layer."""
    return next((n for n, module in reversed(list(network.named_modules())) if isinstance(module, nn.Linear)), "")


def pretrained(name: str, weights: str) -> Backbone:
    """Return a backbone with trained weights and the preprocessing of these weights.

    `weights` is a file, or the name of torchvision weights, such as `DEFAULT`, which torch.hub downloads and verifies.
    A file holds a state dict (in .safetensors or torch.save's format) or a checkpoint that contains a state dict. Its
    preprocessing is that of the default weights. See `_load_weights` for how its tensors may differ. Raises UserError.
    """
    is_file = Path(weights).suffix.lower() in _FILE_SUFFIXES or "/" in weights or Path(weights).is_file()
    entry = None if is_file else _torchvision_weights(name, weights)
    preprocess = _preprocess(name, entry)
    network = build(name, preprocess.size)
    classifier = _classifier(network)
    network = without_classifier(network)
    try:
        if entry:
            progress = sys.stderr.isatty()
            state = entry.get_state_dict(map_location="cpu", progress=progress, check_hash=True, weights_only=True)
        else:
            state = _tensors(_read_weights(Path(weights)))
        _load_weights(network, state, classifier)
    except Exception as error:  # a failed download, a wrong hash, or malformed bytes, which raise many kinds of error
        reason = getattr(error, "strerror", None) or one_line(error)
        if isinstance(error, pickle.UnpicklingError):
            # Replace torch's message: it advises to load the file in a way that runs the code in it.
            reason = _refused(error)
        if "central directory" in reason:  # the central directory is at the end of a zip
            reason = "the file is incomplete; copy or download it again"
        problem, fix = f"cannot load this file as backbone.name={name}", "check the file and backbone.name"
        if entry:
            problem = f"cannot download {entry.url} to {torch.hub.get_dir()}"
            fix = (
                "check the network, use a file, or set backbone.name=small_net and backbone.weights=fit to train a CNN"
            )
        start, end = f"backbone.weights={weights}: {problem}: ", f"; {fix}"
        room = max(100, _MAX_MESSAGE - len(start) - len(end))
        raise UserError(start + (reason if len(reason) <= room else reason[: room - 3] + "...") + end) from error
    return Backbone(name, for_inference(network), preprocess)


def random_init(name: str) -> Backbone:
    """Return a backbone with random weights and the preprocessing of the model's default weights."""
    preprocess = _preprocess(name)
    return Backbone(name, for_inference(without_classifier(build(name, preprocess.size))), preprocess)


def override(
    preprocess: Preprocess, *, size: int | None, mean: Sequence[float] | None, std: Sequence[float] | None
) -> Preprocess:
    """Return `preprocess` with the values that are not None. With a `size`, images are resized but not cropped."""
    changes: dict[str, Any] = {} if size is None else {"size": size, "resize": None}
    changes |= {key: tuple(value) for key, value in (("mean", mean), ("std", std)) if value is not None}
    return replace(preprocess, **changes)


def _read_weights(path: Path) -> Any:
    """Return the content of a weight file without running code from it. Malformed bytes raise many kinds of error."""
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


def _load_weights(network: nn.Module, state: Mapping[str, Tensor], classifier: str) -> None:
    """Load the tensors of a network that was trained elsewhere. Raises ValueError if they do not fit.

    The names may have a common prefix, such as `module.` or `model.backbone.`. The classifier, the layer `classifier`,
    may have any number of classes or be missing. All other tensors must be there. Unknown tensors are an error too,
    because a ResNet-101 has all tensors of a ResNet-50.
    """
    state = {_OLD_DENSENET.sub(r"\1\2", key): tensor for key, tensor in state.items()}
    expected = network.state_dict()
    prefix = _common_prefix(state, expected)
    given = {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}
    children = {key.partition(".")[0] for key in expected}
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
        known = key in expected or key.startswith((f"{classifier}.", *_AUXILIARY)) or key.endswith(_NOT_WEIGHTS)
        if not known and key.partition(".")[0] in children:
            problems.append(f"{key} is unknown")
    if problems:
        raise ValueError(f"{len(problems)} tensors do not fit: {'; '.join(problems[:_MAX_NAMED])}")
    auxiliary = {key: tensor for key, tensor in expected.items() if key.startswith(_AUXILIARY)}
    _load_state_dict(network, auxiliary | {key: given[key] for key in expected if key in given})


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


def _load_state_dict(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    ordered = OrderedDict(state)
    # Set the state dict's version of the root module, because MNASNet checks it and safetensors files do not store it.
    # Submodules get no version. BatchNorm then accepts files without num_batches_tracked, such as DenseNet's.
    ordered._metadata = {"": {"version": network._version}}  # type: ignore[attr-defined]
    network.load_state_dict(ordered)


def _torchvision_models(name: str) -> Any:
    """Import torchvision.models. Raises UserError if it has no classification model of that name."""
    from torchvision import models  # imported here, because it takes two seconds and SmallNet does not need it

    if name not in models.list_models(module=models):
        problem = f"this is neither {SMALL_NET} nor a classification model of torchvision"
        raise UserError(f"backbone.name={name}: {problem}. Use, for example, resnet50 or mobilenet_v3_large.")
    return models


def _torchvision_weights(name: str, weights: str) -> Any:
    entries = {} if name == SMALL_NET else _torchvision_models(name).get_model_weights(name).__members__
    if weights not in entries:
        fix = f"Use one of: {', '.join(['fit', 'a file', *entries])}"
        raise UserError(f"backbone.weights={weights}: {name} has no such weights. {fix}")
    return entries[weights]


def _preprocess(name: str, entry: Any = None) -> Preprocess:
    """Return the preprocessing of torchvision's weights `entry`, or of the model's default weights if it is None."""
    if name == SMALL_NET:
        return Preprocess(size=64, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    preset = (entry or _torchvision_weights(name, "DEFAULT")).transforms()
    (size,), (resize,), interpolation = preset.crop_size, preset.resize_size, preset.interpolation.value
    return Preprocess(size, tuple(preset.mean), tuple(preset.std), resize, interpolation)


class SmallNet(nn.Module):
    """A CNN that trains from random weights in minutes. Five convolutions give a grid of 4 x 4 regions.

    The first two convolutions have stride 2, as in AlexNet and ResNet. Half of the channels of the last convolution
    have a receptive field of 45 pixels, small enough to show which colour belongs to which shape. The other half have
    77 pixels, most of the image, enough to show which of two objects is on the left. The feature vector is the
    flattened grid, so that it keeps the positions.
    """

    def __init__(self) -> None:
        super().__init__()
        self.grid = nn.Sequential(
            *_convolution(3, 32, kernel=5, stride=2),  # 32 x 32
            *_convolution(32, 64, kernel=3, stride=2),  # 16 x 16
            *_convolution(64, 96, kernel=3),
            nn.MaxPool2d(2),  # 8 x 8
            *_convolution(96, 128, kernel=3),
            nn.MaxPool2d(2),  # 4 x 4
            _Concatenate(_convolution(128, 64, kernel=1), _convolution(128, 64, kernel=3)),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return features (N, 2048), 128 channels of 16 regions, for images x (N, 3, 64, 64)."""
        return self.grid(x).flatten(1)


class _Concatenate(nn.Module):
    """Runs several branches on the same input and concatenates their channels."""

    def __init__(self, *branches: list[nn.Module]):
        super().__init__()
        self.branches = nn.ModuleList(nn.Sequential(*branch) for branch in branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], dim=1)


def _convolution(inputs: int, outputs: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
