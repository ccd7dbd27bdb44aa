"""CNN backbones: torchvision's classification models and SmallNet, without their classifier.

The pooled features are the input of the last linear layer. A saved backbone is a folder with weights.safetensors and
backbone.json (name and preprocessing).
"""

import copy
import json
import pickle
import re
import sys
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.fx
import torch.hub
from PIL import Image
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from lib.core.errors import UserError, one_line, readable_errors
from lib.vision.images import Preprocess

SMALL_NET = "small_net"
WEIGHTS_FILE, CONFIG_FILE = "weights.safetensors", "backbone.json"
_SIZES = range(16, 8193)  # pixels per side: a CNN reduces smaller images to nothing, and larger ones fill the memory
# The layer names in torchvision's DenseNet files, norm.1 instead of norm1, as in torchvision.models.densenet.
_OLD_DENSENET = re.compile(r"(\.denselayer\d+\.(?:norm|conv))\.([12]\.)")


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
    linear = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    if linear:
        network.set_submodule(linear[-1], nn.Identity())
    return network


def pretrained(name: str, weights: str) -> Backbone:
    """Return a backbone with trained weights and the preprocessing of these weights.

    `weights` is a file (.safetensors, or a .pth state dict), which gets the preprocessing of the default weights; or
    `DEFAULT` or another name of torchvision weights, which torch.hub downloads and verifies. Raises UserError.
    """
    is_file = Path(weights).suffix in (".safetensors", ".pth", ".pt") or "/" in weights
    entry = None if is_file else _torchvision_weights(name, weights)
    preprocess = _preprocess(name, entry)
    network = build(name, preprocess.size)
    try:
        if entry:
            progress = sys.stderr.isatty()
            state = entry.get_state_dict(map_location="cpu", progress=progress, check_hash=True, weights_only=True)
        else:
            is_safetensors = weights.endswith(".safetensors")
            state = load_file(weights) if is_safetensors else torch.load(weights, "cpu", weights_only=True)
        _load_state_dict(network, state)
    except Exception as error:  # network, hash, or malformed bytes, which make the readers raise almost anything
        reason = one_line(error)[:300]
        if isinstance(error, pickle.UnpicklingError):  # torch's message suggests to run the pickle
            reason = "it holds more than tensors"
        problem, fix = f"cannot read it as a state dict of backbone.name={name}", "change one of them"
        if entry:
            problem, fix = f"cannot download {entry.url} to {torch.hub.get_dir()}", "check the network, or use a file"
        raise UserError(f"backbone.weights={weights}: {problem}: {reason}; {fix}") from error
    return Backbone(name, for_inference(without_classifier(network)), preprocess)


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


def _load_state_dict(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    renamed = OrderedDict((_OLD_DENSENET.sub(r"\1\2", key), tensor) for key, tensor in state.items())
    # MNASNet needs its version, which safetensors files lack. Other modules get none, as if their files were old: then
    # a BatchNorm may lack num_batches_tracked, as in DenseNet's files.
    renamed._metadata = {"": {"version": network._version}}  # type: ignore[attr-defined]
    network.load_state_dict(renamed)


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
