"""The CNN that turns pixels into a feature vector: torchvision's classification models, or our own small net.

A backbone is the network without its classifier: the feature vector is what the last linear layer reads.
It is kept as a folder of weights.safetensors and backbone.json (name and preprocessing).
"""

import copy
import json
import pickle
import re
import sys
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.fx
import torch.hub
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from lib.core.errors import UserError, one_line, readable_errors
from lib.vision.preprocess import CONFIG_FILE, Preprocess, read_backbone_config
from lib.vision.small_net import INPUT_SIZE, SmallNet

SMALL_NET = "small_net"
# torchvision's files of DenseNets are older than its names.
_OLD_DENSENET = re.compile(r"(\.denselayer\d+\.(?:norm|conv))\.([12]\.)")
WEIGHTS_FILE = "weights.safetensors"


@dataclass
class Backbone:
    """A CNN without its classifier, and how it wants its pixels."""

    name: str
    network: nn.Module
    preprocess: Preprocess

    @torch.inference_mode()
    def features(self, pixels: Tensor, kind: str, precision: str = "float32") -> Tensor:
        """uint8 pixels (N, size, size, 3), on the network's device -> (N, P, C), by `kind`:

        - pooled: the feature vector, as the one place that there is, P = 1
        - grid: the last convolutional layer's output, place by place, row by row

        `precision` is float32, or bfloat16 for the layers that stand it.
        """
        with torch.autocast(pixels.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            x = self.preprocess.normalise(pixels)
            return self.network(x)[:, None] if kind == "pooled" else self.grid(x)

    @torch.inference_mode()
    def width(self, *sizes: int) -> int:
        """How many numbers the feature vector has, of pictures of any of `sizes` pixels a side.

        Raises UserError where the network does not take pictures of such a size, or makes another number of each.
        """
        widths, there = {}, next(self.network.parameters()).device
        for size in sizes:
            try:
                blank = torch.zeros(1, size, size, 3, dtype=torch.uint8, device=there)
                widths[size] = self.features(blank, "pooled").shape[2]
            except Exception as error:  # each network has its own way to say so
                raise UserError(
                    f"{self.name} cannot take pictures of {size} pixels a side: {one_line(error)}; see backbone.size, "
                    "and backbone.tune.size where it is tuned"
                ) from error
        if len(set(widths.values())) > 1:
            told = ", ".join(f"{width} for {size} pixels a side" for size, width in widths.items())
            raise UserError(
                f"{self.name} makes another number of features of pictures of another size ({told}): make "
                "backbone.tune.size and backbone.size the same"
            )
        return widths[sizes[0]]

    def grid(self, x: Tensor) -> Tensor:
        """Normalised pixels (N, 3, size, size) -> the last convolutional layer's output, (N, P, C).

        That is the last map of several places, (N, C, height, width), that any module of the network gives out.
        Raises UserError for a network without, see `check_grid`.
        """
        self.check_grid()
        maps: list[Tensor] = []

        def keep(module: nn.Module, args: object, out: object) -> None:
            if isinstance(out, Tensor) and out.dim() == 4 and out.shape[2:].numel() > 1:
                maps[:] = [out]

        hooks = [module.register_forward_hook(keep) for module in self.network.modules()]
        try:
            self.network(x)
        finally:
            for hook in hooks:
                hook.remove()
        return maps[0].flatten(2).transpose(1, 2)

    def check_grid(self) -> None:
        """Raises UserError for a transformer: its only map of several places is the one that it begins with."""
        if self.name.startswith("vit_"):
            raise UserError(
                f"{self.name} ends in no convolutional layer, and so has no grid: use features.kind=pooled, and given "
                "weights, for fit learns on the grid"
            )

    def fuse_batchnorm(self) -> "Backbone":
        """The same function with each batch normalisation folded into the convolution that it follows.

        A pass over memory less for each: features are made 1.2 to 2 times as fast, and differ by rounding alone.
        """
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
        """Another network over the very same tensors, for another thread: `grid` listens to its network's modules."""
        shared = {id(tensor): tensor for tensor in (*self.network.parameters(), *self.network.buffers())}
        return replace(self, network=copy.deepcopy(self.network, shared))

    def save(self, folder: Path) -> None:
        """Writes `folder`; the same weights give the same bytes."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / WEIGHTS_FILE).write_bytes(self.weights())
        config = {"name": self.name, "preprocess": asdict(self.preprocess)}
        (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n")

    def weights(self) -> bytes:
        """The weights as a safetensors file's bytes, which depend on them alone."""
        return save({name: tensor.contiguous() for name, tensor in self.network.state_dict().items()})

    @classmethod
    def load(cls, folder: Path) -> "Backbone":
        """Reads what `save` wrote. Raises UserError where a file is missing, damaged, or of another version."""
        name, preprocess = read_backbone_config(folder)
        with readable_errors(folder / WEIGHTS_FILE):
            network = without_classifier(build(name, preprocess.size))
            _load(network, load_file(folder / WEIGHTS_FILE))
        return cls(name, for_inference(network), preprocess)


def for_inference(network: nn.Module) -> nn.Module:
    return network.eval().to(memory_format=torch.channels_last)


def build(name: str, size: int | None = None) -> nn.Module:
    """The network of that name, with its classifier, at random weights. Raises UserError for an unknown name.

    `size` is that of the pictures, in pixels a side; only vision transformers are made for one alone.
    """
    if name == SMALL_NET:
        return SmallNet()
    options: dict[str, Any] = {}
    if name in ("inception_v3", "googlenet"):  # ported from another library, whose weights want other normalised pixels
        options = {"init_weights": False, "transform_input": True}
    elif name.startswith("vit_") and size is not None:
        options = {"image_size": size}
    return _torchvision_models(name).get_model(name, weights=None, **options)


def without_classifier(network: nn.Module) -> nn.Module:
    """Replaces the last linear layer by nothing, in place."""
    linear = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    if linear and not isinstance(network, SmallNet):
        parent, _, child = linear[-1].rpartition(".")
        setattr(network.get_submodule(parent), child, nn.Identity())
    return network


def pretrained(name: str, weights: str) -> Backbone:
    """A backbone with given weights, preprocessed as those weights want.

    `weights` is a file (.safetensors, or a .pth state dict), `DEFAULT`, or the name of one of torchvision's
    weights for that model, which are downloaded to `store` and verified by hash. A file says nothing of
    preprocessing: it gets that of the model's default weights. Raises UserError.
    """
    given = _is_file_name(weights)
    if name == SMALL_NET and not given:
        raise UserError(f"backbone.weights is {weights}, but {SMALL_NET} has none to download: use fit or a file")
    preprocess, url = small_net_preprocess(), ""
    if name != SMALL_NET:
        entry = _torchvision_weights(name, "DEFAULT" if given else weights)
        preprocess, url = _preset(entry), entry.url
    network = build(name, preprocess.size)
    state = _read_state_dict(Path(weights)) if given else _library_state_dict(url)
    _load_named(network, state, f"backbone.weights={weights}", name)
    return Backbone(name, for_inference(without_classifier(network)), preprocess)


def random_init(name: str) -> Backbone:
    """A backbone at random weights, to be fitted."""
    preprocess = small_net_preprocess() if name == SMALL_NET else _preset(_torchvision_weights(name, "DEFAULT"))
    return Backbone(name, for_inference(without_classifier(build(name, preprocess.size))), preprocess)


def small_net_preprocess() -> Preprocess:
    return Preprocess(size=INPUT_SIZE, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


def override(
    preprocess: Preprocess, *, size: int | None, mean: Sequence[float] | None, std: Sequence[float] | None
) -> Preprocess:
    """The user's own preprocessing where given. A size of one's own takes the whole picture, uncropped."""
    given = {"mean": mean, "std": std}
    changes: dict[str, Any] = {key: tuple(value) for key, value in given.items() if value is not None}
    if size is not None:
        changes |= {"size": size, "resize": None}
    return replace(preprocess, **changes)


def _is_file_name(weights: str) -> bool:
    return Path(weights).suffix in (".safetensors", ".pth", ".pt") or "/" in weights


def _read_state_dict(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise UserError(f"backbone.weights is {path}, and there is no such file")
    try:
        content = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # its own text advises to run the pickle: never that
        raise UserError(
            f"backbone.weights is {path}, which holds more than tensors: save its state dict alone"
        ) from error
    except Exception as error:  # whatever a wild file makes the readers raise
        raise UserError(f"backbone.weights is {path}, which cannot be read: {one_line(error)}") from error
    if not (isinstance(content, dict) and all(isinstance(value, Tensor) for value in content.values())):
        raise UserError(f"backbone.weights is {path}, which holds no state dict (a mapping of names to tensors)")
    return content


def _library_state_dict(url: str) -> dict[str, Tensor]:
    """Download torchvision's weights into torch's own cache. The file name carries the hash that they must have."""
    try:
        return torch.hub.load_state_dict_from_url(
            url, map_location="cpu", progress=sys.stderr.isatty(), check_hash=True, weights_only=True
        )
    except (OSError, RuntimeError) as error:
        raise UserError(f"cannot download {url}: {one_line(error)}; check the network, or give a file") from error


def _load_named(network: nn.Module, state: dict[str, Tensor], source: str, name: str) -> None:
    tensors = {_OLD_DENSENET.sub(r"\1\2", key): tensor for key, tensor in state.items()}
    try:
        _load(network, tensors, getattr(state, "_metadata", None))
    except (RuntimeError, ValueError) as error:
        first = (str(error).splitlines()[1:] or [one_line(error)])[0].strip()
        raise UserError(f"{source}: its tensors do not fit {name}: {first}") from error


def _load(network: nn.Module, tensors: dict[str, Tensor], versions: Any = None) -> None:
    """Gives the network its weights, of given `versions` of its modules, as torch notes them.

    Where nobody noted them, the network's own is taken for today's, which MNASNet asks for, and others for the oldest.
    """
    state = OrderedDict(tensors)
    state._metadata = versions or {"": {"version": network._version}}  # type: ignore[attr-defined]
    network.load_state_dict(state)


def _torchvision_models(name: str) -> Any:
    """The module, which has a model of that name, or UserError is raised."""
    from torchvision import models  # two seconds that the small net does not need

    if name not in models.list_models(module=models):
        raise UserError(
            f"backbone.name is {name}, which is neither {SMALL_NET} nor one of torchvision's classification models, "
            "such as resnet50, mobilenet_v3_large or efficientnet_b0"
        )
    return models


def _torchvision_weights(name: str, weights: str) -> Any:
    entries = _torchvision_models(name).get_model_weights(name)
    if weights not in entries.__members__:
        known = ", ".join(["DEFAULT", *(entry.name for entry in entries)])
        raise UserError(f"backbone.weights is {weights}: for {name} use fit, a file, or one of {known}")
    return entries[weights]


def _preset(entry: Any) -> Preprocess:
    preset = entry.transforms()
    return Preprocess(
        size=preset.crop_size[0],
        resize=preset.resize_size[0],
        mean=tuple(preset.mean),
        std=tuple(preset.std),
        interpolation=preset.interpolation.value,
    )
