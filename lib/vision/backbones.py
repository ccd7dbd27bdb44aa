"""A backbone: a network without its classifier, and the preprocessing of its images.

The pooled features are the input of the classifier. A saved backbone is a folder with weights.safetensors and
backbone.json (name and preprocessing). The networks are in lib/vision/networks.py.
"""

import copy
import json
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from math import isqrt
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from lib.core.errors import UserError, one_line, readable_errors
from lib.vision.images import Preprocess
from lib.vision.networks import find_source
from lib.vision.weights import failure_reason, is_weights_file, load_state_dict, read_tensors

WEIGHTS_FILE, CONFIG_FILE = "weights.safetensors", "backbone.json"
_READY_FILE = "ready_features.json"  # replaces the two files above if the model uses ready features
_SIZES = range(16, 8193)  # pixels per side; smaller images vanish in the strides of a CNN, larger ones fill the memory
_MAX_MESSAGE = 480  # characters
_MAX_DIFFERENCE = 1e-3  # relative; rounding differs by less, and a wrong fusion by more


@dataclass
class Backbone:
    """A network without its classifier, and its preprocessing."""

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

    def feature_size(self, size: int, kind: str = "pooled") -> int:
        """Return the number C of features for images of `size` pixels per side. Raises UserError."""
        blank = torch.zeros(1, size, size, 3, dtype=torch.uint8, device=next(self.network.parameters()).device)
        try:
            return self.features(blank, kind).shape[2]
        except UserError:
            raise
        except Exception as error:  # the kind of error depends on the network
            problem = f"{self.name} rejects images of {size} pixels per side: {one_line(error)}"
            raise UserError(f"{problem}. Change backbone.size or backbone.tune.size.") from error

    def grid(self, x: Tensor) -> Tensor:
        """Return the features of the regions, row by row, (N, P, C), for normalised pixels (N, 3, size, size).

        Raises UserError if the regions form no square grid of 2 x 2 or more.
        """
        features = find_source(self.name).grid(self.network, x)
        regions = features.shape[1]
        if regions < 4 or isqrt(regions) ** 2 != regions:
            problem = f"images of {x.shape[-1]} pixels per side give {regions} regions, not a square grid"
            raise UserError(f"backbone.name={self.name}: {problem}. Change backbone.size, or use features.kind=pooled.")
        return features

    def fuse_batchnorm(self) -> "Backbone":
        """Return a faster copy, equal up to rounding: each BatchNorm is fused into the convolution before it."""
        network = for_inference(copy.deepcopy(self.network))
        size = self.preprocess.size
        blank = next(network.parameters()).new_empty(1, 3, size, size)
        x = blank.normal_(generator=torch.Generator(blank.device).manual_seed(0))
        pairs, expected = _conv_norm_pairs(network, x)
        for conv_name, norm_name in pairs:
            convolution: Any = network.get_submodule(conv_name)
            norm: Any = network.get_submodule(norm_name)
            network.set_submodule(conv_name, fuse_conv_bn_eval(convolution, norm))
            # timm's BatchNormAct2d contains the activation.
            network.set_submodule(norm_name, getattr(norm, "act", nn.Identity()))
        with torch.inference_mode():
            difference = (network(x) - expected).norm() / expected.norm()
        return replace(self, network=network if difference < _MAX_DIFFERENCE else copy.deepcopy(self.network))

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
                source = find_source(name)
                network = source.without_classifier(source.build(preprocess.size))
            except UserError as error:
                raise ValueError(str(error)) from error
        with readable_errors(folder / WEIGHTS_FILE):
            load_state_dict(network, load_file(folder / WEIGHTS_FILE))
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


def _conv_norm_pairs(network: nn.Module, x: Tensor) -> tuple[list[tuple[str, str]], Tensor]:
    """Return the names of each convolution and the BatchNorm that runs right after it, and the output for `x`.

    Layers that run more than once are left out.
    """
    layers = {name: m for name, m in network.named_modules() if isinstance(m, nn.Conv2d | nn.BatchNorm2d)}
    last: list[tuple[str, Tensor]] = []  # name and output of the last convolution
    pairs, calls = [], Counter[str]()

    def watch(name: str, module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
        calls[name] += 1
        if isinstance(module, nn.Conv2d):
            last[:] = [(name, out)]
        elif last and args[0] is last[0][1] and module.track_running_stats:
            pairs.append((last[0][0], name))

    with ExitStack() as hooks, torch.inference_mode():
        for name, layer in layers.items():
            hooks.enter_context(layer.register_forward_hook(partial(watch, name)))
        output = network(x)
    return [(conv, norm) for conv, norm in pairs if calls[conv] == calls[norm] == 1], output


def pretrained(name: str, weights: str, size: int | None = None) -> Backbone:
    """Return a backbone with trained weights and the preprocessing of these weights.

    `weights` is a file, or the name of weights to download, such as `DEFAULT`. The preprocessing of a file is that of
    the default weights. `size` is None or pixels per side; see `override`. Raises UserError.
    """
    source = find_source(name)
    is_file = is_weights_file(weights)
    preprocess = override(source.preprocess("DEFAULT" if is_file else weights), size=size)
    problem, fix = f"cannot load this file as backbone.name={name}", "check the file and backbone.name"
    if not is_file:
        problem = f"cannot download {source.origin(weights)}"
        fix = "check the network, use a file, or set backbone.name=small_net and backbone.weights=fit to train a CNN"
    try:
        if is_file:
            network = source.from_tensors(read_tensors(Path(weights)), preprocess.size)
        else:
            network = source.download(weights, preprocess.size)
    except UserError:
        raise
    except Exception as error:  # a failed download, a wrong hash, or malformed bytes, which raise many kinds of error
        start, reason, end = f"backbone.weights={weights}: {problem}: ", failure_reason(error), f"; {fix}"
        room = max(100, _MAX_MESSAGE - len(start) - len(end))
        raise UserError(start + (reason if len(reason) <= room else reason[: room - 3] + "...") + end) from error
    return Backbone(name, for_inference(network), preprocess)


def random_init(name: str, size: int | None = None) -> Backbone:
    """Return a backbone with random weights and the preprocessing of the model's default weights. See `pretrained`."""
    source = find_source(name)
    preprocess = override(source.preprocess(), size=size)
    network = source.without_classifier(source.build(preprocess.size))
    return Backbone(name, for_inference(network), preprocess)


def override(
    preprocess: Preprocess,
    *,
    size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Preprocess:
    """Return `preprocess` with the values that are not None. With a `size`, images are resized but not cropped."""
    changes: dict[str, Any] = {} if size is None else {"size": size, "resize": None}
    changes |= {key: tuple(value) for key, value in (("mean", mean), ("std", std)) if value is not None}
    return replace(preprocess, **changes)
