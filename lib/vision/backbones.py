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
_READY_FILE = "ready_features.json"  # instead of these two, if the features were made elsewhere
_SIZES = range(16, 8193)  # pixels per side: a CNN reduces smaller images to nothing, and larger ones fill the memory
# The layer names in torchvision's DenseNet files, norm.1 instead of norm1, as in torchvision.models.densenet.
_OLD_DENSENET = re.compile(r"(\.denselayer\d+\.(?:norm|conv))\.([12]\.)")

_FILE_SUFFIXES = {".safetensors", ".pth", ".pt", ".tar", ".ckpt", ".bin", ".pkl"}  # of weights
_TENSOR_KEYS = (  # of a checkpoint's state dict; an average of the weights first, because it is the better one
    "state_dict_ema", "model_ema", "state_dict", "model_state_dict", "model", "module", "net", "network", "backbone",
)  # fmt: skip
_AUXILIARY = ("AuxLogits.", "aux1.", "aux2.")  # Inception's and GoogLeNet's second classifiers; only training uses them
_NOT_WEIGHTS = ("num_batches_tracked", "total_ops", "total_params")  # counters that some tools add to a state dict
_MAX_NAMED = 3  # tensors in an error message
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

        `kind`: pooled (P = 1) or grid (the last feature map, row by row). `precision`: float32, or bfloat16 (autocast).
        """
        with torch.autocast(pixels.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            x = self.preprocess.normalise(pixels)
            return self.network(x)[:, None] if kind == "pooled" else self.grid(x)

    def feature_size(self, size: int) -> int:
        """Return the size C of the pooled features of images of `size` pixels per side. Raises UserError."""
        blank = torch.zeros(1, size, size, 3, dtype=torch.uint8, device=next(self.network.parameters()).device)
        try:
            return self.features(blank, "pooled").shape[2]
        except Exception as error:  # each network raises its own
            problem = f"{self.name} cannot take images of {size} pixels per side: {one_line(error)}"
            raise UserError(f"{problem}; change backbone.size or backbone.tune.size") from error

    def grid(self, x: Tensor) -> Tensor:
        """Return the last feature map of more than one region, (N, P, C), for normalised pixels (N, 3, size, size)."""
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
        """Raise UserError for a vision transformer: its only feature map is its input."""
        if self.name.startswith("vit_"):
            fix = "use features.kind=pooled, and a backbone.weights other than fit"
            raise UserError(f"backbone.name={self.name} has no feature map at its end; {fix}")

    def fuse_batchnorm(self) -> "Backbone":
        """Return a copy with each BatchNorm folded into the convolution before it: faster, and equal up to rounding."""
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
        """Return a copy for another thread: its own modules, because `grid` hooks them, over the same tensors."""
        shared = {id(tensor): tensor for tensor in (*self.network.parameters(), *self.network.buffers())}
        return replace(self, network=copy.deepcopy(self.network, shared))

    def save(self, folder: Path) -> None:
        """Write the backbone to `folder`. The same weights give the same bytes."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / WEIGHTS_FILE).write_bytes(self.weights())
        config = {"name": self.name, "preprocess": asdict(self.preprocess)}
        (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n")

    def weights(self) -> bytes:
        """Return the weights as the bytes of a safetensors file."""
        return save({name: tensor.contiguous() for name, tensor in self.network.state_dict().items()})

    @classmethod
    def load(cls, folder: Path) -> "Backbone":
        """Read a saved backbone. Raises UserError if a file is missing, damaged, or of another version."""
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
    """Write a note instead of a backbone: the features come from `source`, so no CNN of ours made them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _READY_FILE).write_text(json.dumps({"features": source}, indent=2) + "\n", "utf-8")


def has_cnn(folder: Path) -> bool:
    """Return whether the folder of a backbone has a CNN, or the note that its features were made elsewhere."""
    return not (folder / _READY_FILE).exists()


def read_backbone_config(folder: Path) -> tuple[str, Preprocess]:
    """Read the name and the preprocessing of a saved backbone. Raises UserError."""
    with readable_errors(folder / CONFIG_FILE):
        config = json.loads((folder / CONFIG_FILE).read_text("utf-8"))
        settings = config["preprocess"]
        preprocess = Preprocess(**settings | {key: tuple(settings[key]) for key in ("mean", "std")})
        if preprocess.size not in _SIZES:
            raise ValueError(f"size={preprocess.size}, but must be {_SIZES[0]} to {_SIZES[-1]} pixels per side")
        # Try it on a blank image: otherwise malformed values fail later.
        preprocess.normalise(torch.from_numpy(preprocess.pixels(Image.new("RGB", (8, 8))).copy())[None])
        return config["name"], preprocess


def for_inference(network: nn.Module) -> nn.Module:
    return network.eval().to(memory_format=torch.channels_last)


def build(name: str, size: int = 224) -> nn.Module:
    """Return the network `name`, with its classifier and random weights, for images of `size` pixels per side."""
    if name == SMALL_NET:
        return SmallNet()
    options: dict[str, Any] = {"image_size": size} if name.startswith("vit_") else {}
    if name in ("inception_v3", "googlenet"):  # weights ported from TensorFlow, which normalised to mean and std 0.5
        options = {"init_weights": False, "transform_input": True}
    return _torchvision_models(name).get_model(name, weights=None, **options)


def without_classifier(network: nn.Module) -> nn.Module:
    """Replace the last linear layer, if there is one, with the identity, in place."""
    if classifier := _classifier(network):
        network.set_submodule(classifier, nn.Identity())
    return network


def _classifier(network: nn.Module) -> str:
    """Return the name of the last linear layer, or an empty text if there is none."""
    return next((n for n, module in reversed(list(network.named_modules())) if isinstance(module, nn.Linear)), "")


def pretrained(name: str, weights: str) -> Backbone:
    """Return a backbone with trained weights and the preprocessing of these weights.

    `weights` is a file, which gets the preprocessing of the default weights; or `DEFAULT` or another name of
    torchvision weights, which torch.hub downloads and verifies. A file is a state dict (.safetensors or torch.save's
    format) or a checkpoint that contains one; see `_load_weights` for what may differ. Raises UserError.
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
    except Exception as error:  # network, hash, or malformed bytes, which make the readers raise almost anything
        reason = getattr(error, "strerror", None) or one_line(error)
        if isinstance(error, pickle.UnpicklingError):  # torch's message suggests to run the pickle
            reason = _refused(error)
        if "central directory" in reason:  # the end of a zip
            reason = "it is incomplete; copy or download it again"
        problem, fix = f"cannot load it as backbone.name={name}", "check the file and backbone.name"
        if entry:
            problem, fix = f"cannot download {entry.url} to {torch.hub.get_dir()}", "check the network, or use a file"
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
    """Return `preprocess` with the values that are given. A given size takes the complete image, uncropped."""
    changes: dict[str, Any] = {} if size is None else {"size": size, "resize": None}
    changes |= {key: tuple(value) for key, value in (("mean", mean), ("std", std)) if value is not None}
    return replace(preprocess, **changes)


def _read_weights(path: Path) -> Any:
    """Return what a file of weights contains, without running code from it. Raises almost any error."""
    with path.open("rb") as file:
        head = file.read(64)
    if reason := placeholder(head):
        raise ValueError(f"it is {reason}")
    if head[8:9] == b"{":  # safetensors: the length of the header, and the header as JSON
        return load_file(path)
    if not head.startswith((b"PK", b"\x80")):  # torch.save writes a zip; before 2020 it wrote a pickle
        raise ValueError("it is not a file of torch.save and not a safetensors file")
    with torch.serialization.safe_globals([argparse.Namespace]):  # the settings that timm and torchvision add
        return torch.load(path, "cpu", weights_only=True)


def _refused(error: pickle.UnpicklingError) -> str:
    found = re.search(r"GLOBAL (\S+)", str(error))
    what = f" ({found[1]})" if found else ""
    return f"it holds more than tensors{what}; where that code is, save torch.save(model.state_dict(), 'weights.pth')"


def _tensors(content: Any) -> dict[str, Tensor]:
    """Return the tensors by name of a state dict, or of the checkpoint around one. Raises ValueError."""
    if not isinstance(content, Mapping):
        raise ValueError(f"it holds a {type(content).__name__}, not a state dict (tensors by name)")
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
    raise ValueError(f"no state dict (tensors by name) under a usual key; it has the keys {keys}")


def _has_tensors(content: Mapping[Any, Any]) -> bool:
    """Return whether `content` has tensors, at once or further down. An optimiser's state has numbers as its keys."""
    return any(
        isinstance(key, str) and (isinstance(value, Tensor) or (isinstance(value, Mapping) and _has_tensors(value)))
        for key, value in content.items()
    )


def _load_weights(network: nn.Module, state: Mapping[str, Tensor], classifier: str) -> None:
    """Load the tensors of a network that others have trained. Raises ValueError if they do not fit.

    The names may have a common prefix, such as `module.` or `model.backbone.`. The classifier, named `classifier`, may
    have any number of classes or be missing. Everything else must be there, and nothing else, because ResNet-50's
    tensors are all found in ResNet-101.
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
    """Return what precedes the names `expected` in `state`. Raises ValueError if nothing does, or different things."""
    counts: Counter[str] = Counter()
    for key in state:
        parts = key.split(".")
        for i in range(len(parts)):
            if ".".join(parts[i:]) in expected:
                counts["".join(f"{part}." for part in parts[:i])] += 1
    if not counts:
        raise ValueError(
            f"no tensor has the name of one of the network's; it has {', '.join(list(state)[:_MAX_NAMED])}"
        )
    (prefix, most), *others = counts.most_common(2)
    if others and others[0][1] == most:
        names = f"{prefix}* and {others[0][0]}*"
        raise ValueError(f"it holds more than one network, {names}; save the state dict of one")
    return prefix


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape))


def _load_state_dict(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    ordered = OrderedDict(state)
    # MNASNet needs its version, which safetensors files lack. Other modules get none, as if their files were old: then
    # a BatchNorm may lack num_batches_tracked, as in DenseNet's files.
    ordered._metadata = {"": {"version": network._version}}  # type: ignore[attr-defined]
    network.load_state_dict(ordered)


def _torchvision_models(name: str) -> Any:
    """Import torchvision.models. Raises UserError if it has no classification model of that name."""
    from torchvision import models  # takes two seconds, and SmallNet does not need it

    if name not in models.list_models(module=models):
        problem = f"not {SMALL_NET} and not a classification model of torchvision"
        raise UserError(f"backbone.name={name}: {problem}; use for example resnet50 or mobilenet_v3_large")
    return models


def _torchvision_weights(name: str, weights: str) -> Any:
    entries = {} if name == SMALL_NET else _torchvision_models(name).get_model_weights(name).__members__
    if weights not in entries:
        raise UserError(f"backbone.weights={weights}: unknown for {name}; use {', '.join(['fit', 'a file', *entries])}")
    return entries[weights]


def _preprocess(name: str, entry: Any = None) -> Preprocess:
    """Return the preprocessing of torchvision's weights `entry`, by default the model's default ones."""
    if name == SMALL_NET:
        return Preprocess(size=64, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    preset = (entry or _torchvision_weights(name, "DEFAULT")).transforms()
    (size,), (resize,), interpolation = preset.crop_size, preset.resize_size, preset.interpolation.value
    return Preprocess(size, tuple(preset.mean), tuple(preset.std), resize, interpolation)


class SmallNet(nn.Module):
    """A CNN to train from random weights in minutes: five convolutions, down to a grid of 4 x 4 regions.

    The first two have stride 2, as in AlexNet and ResNet. Half of the last one's channels have a receptive field of 45
    pixels, which keeps apart which colour belongs to which shape. The other half have 77, most of the image, so they
    can tell which of two objects is to the left. The feature vector is the flattened grid, to keep the positions.
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
        """x (N, 3, 64, 64) -> (N, 2048): 128 channels of 16 regions."""
        return self.grid(x).flatten(1)


class _Concatenate(nn.Module):
    """Branches over the same input, their channels concatenated."""

    def __init__(self, *branches: list[nn.Module]):
        super().__init__()
        self.branches = nn.ModuleList(nn.Sequential(*branch) for branch in branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], dim=1)


def _convolution(inputs: int, outputs: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
