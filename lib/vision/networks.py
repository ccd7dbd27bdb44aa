"""Sources of networks: small_net, torchvision's classification models, and timm.

A source knows the preprocessing of a network, builds it, loads its weights, and returns the features of its regions. To
add a source, write a subclass of `Source` and add it to `find_source`.
"""

import logging
import sys
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from difflib import get_close_matches
from functools import cached_property
from typing import Any

import torch
import torch.hub
from torch import Tensor, nn

from lib.core.errors import UserError, one_line
from lib.vision.images import Preprocess
from lib.vision.small_net import SmallNet
from lib.vision.weights import load_weights, native_names

SMALL_NET = "small_net"
TIMM = "timm/"  # the prefix of timm's names


def find_source(name: str) -> "Source":
    """Return the source of the network `backbone.name`. Its methods check the name."""
    if name == SMALL_NET:
        return SmallNetSource(name)
    return TimmSource(name) if name.startswith(TIMM) else TorchvisionSource(name)


class Source(ABC):
    """The source of the network `name`. All methods raise UserError if the source has no network of this name."""

    def __init__(self, name: str):
        self.name = name

    @abstractmethod
    def preprocess(self, weights: str = "DEFAULT") -> Preprocess:
        """Return the preprocessing of `weights`, the name of weights."""

    def build(self, size: int) -> nn.Module:
        """Return the network, with its classifier and random weights, for images of `size` pixels per side."""
        try:
            return self.create(size)
        except UserError:
            raise
        except Exception as error:  # the kind of error depends on the network
            problem = f"{self.name} rejects images of {size} pixels per side: {one_line(error)}"
            raise UserError(f"{problem}. Change backbone.size.") from error

    @abstractmethod
    def create(self, size: int) -> nn.Module:
        """Return what `build` returns. If the network rejects this size, raise any kind of error."""

    def classifiers(self, network: nn.Module) -> tuple[str, ...]:
        """Return the names of the classifier's layers: by default, the last linear layer if there is one."""
        names = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
        return tuple(names[-1:])

    def without_classifier(self, network: nn.Module) -> nn.Module:
        """Replace the classifier with the identity. Change `network` in place and return it."""
        for name in self.classifiers(network):
            network.set_submodule(name, nn.Identity())
        return network

    def from_tensors(self, tensors: Mapping[str, Tensor], size: int) -> nn.Module:
        """Return the network without its classifier, with the tensors of a weight file.

        See `native_names` and `load_weights` for how the tensors may differ. Raises ValueError if they do not fit.
        """
        network = self.build(size)
        classifiers = self.classifiers(network)
        network = self.without_classifier(network)
        load_weights(network, self.resized(network, native_names(network, tensors)), classifiers)
        return network

    def resized(self, network: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return `state` with position embeddings for the image size of `network`, if it has any."""
        return state

    @abstractmethod
    def download(self, weights: str, size: int) -> nn.Module:
        """Return the network without its classifier, with downloaded weights. A failure raises many kinds of error."""

    @abstractmethod
    def origin(self, weights: str) -> str:
        """Return what `download` copies, for an error message. Raises UserError if there are no such weights."""

    @abstractmethod
    def grid(self, network: nn.Module, x: Tensor) -> Tensor:
        """Return the features of the regions, row by row, (N, P, C), for normalised pixels x (N, 3, size, size)."""


def _unknown_name(name: str, known: Iterable[str], what: str, example: str) -> UserError:
    close = " or ".join(get_close_matches(name, known, 3)) or example
    return UserError(f"backbone.name={name}: this is {what}. Use, for example, {close}.")


def _unknown_weights(name: str, weights: str, known: Iterable[str]) -> UserError:
    fix = f"Use one of: {', '.join(['fit', 'a file', *known])}"
    return UserError(f"backbone.weights={weights}: {name} has no such weights. {fix}")


class SmallNetSource(Source):
    """The CNN of lib/vision/small_net.py. There are no weights to download."""

    def preprocess(self, weights: str = "DEFAULT") -> Preprocess:
        return Preprocess(size=64, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))

    def create(self, size: int) -> nn.Module:
        return SmallNet()

    def download(self, weights: str, size: int) -> nn.Module:
        raise _unknown_weights(self.name, weights, [])

    def origin(self, weights: str) -> str:
        raise _unknown_weights(self.name, weights, [])

    def grid(self, network: nn.Module, x: Tensor) -> Tensor:
        return network.get_submodule("grid")(x).flatten(2).transpose(1, 2)


class TorchvisionSource(Source):
    """torchvision's classification models. torch.hub downloads and verifies their weights."""

    @cached_property
    def _models(self) -> Any:
        from torchvision import models  # imported here, because it takes two seconds and SmallNet does not need it

        known = models.list_models(module=models)
        if self.name not in known:
            what = f"neither {SMALL_NET}, nor a classification model of torchvision, nor {TIMM} and a name of timm"
            raise _unknown_name(self.name, known, what, "resnet50 or mobilenet_v3_large")
        return models

    def _entry(self, weights: str) -> Any:
        entries = self._models.get_model_weights(self.name).__members__
        if weights not in entries:
            raise _unknown_weights(self.name, weights, entries)
        return entries[weights]

    def preprocess(self, weights: str = "DEFAULT") -> Preprocess:
        preset = self._entry(weights).transforms()
        (size,), (resize,), interpolation = preset.crop_size, preset.resize_size, preset.interpolation.value
        return Preprocess(size, tuple(preset.mean), tuple(preset.std), resize, interpolation)

    def create(self, size: int) -> nn.Module:
        options: dict[str, Any] = {"image_size": size} if self.name.startswith("vit_") else {}
        if self.name in ("inception_v3", "googlenet"):  # their weights are from TensorFlow, with mean and std 0.5
            options = {"init_weights": False, "transform_input": True}
        return self._models.get_model(self.name, weights=None, **options)

    def resized(self, network: Any, state: dict[str, Tensor]) -> dict[str, Tensor]:
        if self.name.startswith("vit_") and "encoder.pos_embedding" in state:
            interpolate = self._models.vision_transformer.interpolate_embeddings
            return interpolate(network.image_size, network.patch_size, OrderedDict(state))
        return state

    def download(self, weights: str, size: int) -> nn.Module:
        progress = sys.stderr.isatty()
        state = self._entry(weights).get_state_dict(
            map_location="cpu", progress=progress, check_hash=True, weights_only=True
        )
        return self.from_tensors(state, size)

    def origin(self, weights: str) -> str:
        return f"{self._entry(weights).url} to {torch.hub.get_dir()}"

    def grid(self, network: nn.Module, x: Tensor) -> Tensor:
        """Return the last feature map that has several regions, or the last tokens of a vision transformer."""
        last: list[Tensor] = []

        def keep(module: nn.Module, args: object, out: object) -> None:
            if isinstance(out, Tensor) and (out.dim() == 3 or (out.dim() == 4 and out.shape[2:].numel() > 1)):
                last[:] = [out]

        with ExitStack() as hooks:
            for module in network.modules():
                hooks.enter_context(module.register_forward_hook(keep))
            network(x)
        if last[0].dim() == 3:
            return last[0][:, 1:]  # without the class token
        return last[0].flatten(2).transpose(1, 2)


class TimmSource(Source):
    """timm's models. The name may have a tag of weights: timm/vit_base_patch16_clip_224.openai."""

    @cached_property
    def _timm(self) -> Any:
        try:
            import timm  # imported here, because it takes a second
        except ImportError as error:
            fix = "Run pip install timm, or use a model of torchvision"
            raise UserError(f"backbone.name={self.name}: cannot import timm: {one_line(error)}. {fix}.") from error

        known = {TIMM + name for tags in (False, True) for name in timm.list_models(include_tags=tags)}
        if self.name not in known:
            raise _unknown_name(self.name, known, "not a model of timm", f"{TIMM}resnet50.a1_in1k")
        return timm

    @cached_property
    def _config(self) -> Any:
        return self._timm.get_pretrained_cfg(self.name.removeprefix(TIMM))

    def create(self, size: int, **options: Any) -> nn.Module:
        if self._config.fixed_input_size:
            options["img_size"] = size
        return self._timm.create_model(self.name.removeprefix(TIMM), **options)

    def preprocess(self, weights: str = "DEFAULT") -> Preprocess:
        """Return the preprocessing of timm's data config. If its crop_mode is not center, images are not cropped."""
        config = self._timm.data.resolve_data_config(pretrained_cfg=self._config.to_dict())
        size = min(config["input_size"][1:])
        resize = int(size / config["crop_pct"]) if config["crop_mode"] == "center" else None
        return Preprocess(size, tuple(config["mean"]), tuple(config["std"]), resize, config["interpolation"])

    def classifiers(self, network: nn.Module) -> tuple[str, ...]:
        names = self._config.classifier or ()
        return (names,) if isinstance(names, str) else tuple(names)

    def without_classifier(self, network: nn.Module) -> nn.Module:
        if hasattr(network, "reset_classifier"):  # not if it has no classifier
            network.reset_classifier(0)  # type: ignore[operator]
        return network

    def from_tensors(self, tensors: Mapping[str, Tensor], size: int) -> nn.Module:
        """Return the network without its classifier, with the tensors of a weight file.

        If they do not fit, timm converts them. They may be those of an original file, such as that of CLIP or DINOv2,
        or have position embeddings for another image size.
        """
        try:
            return super().from_tensors(tensors, size)
        except ValueError as error:
            try:
                return self._convert(tensors, size)
            except Exception:  # conversions that do not fit raise many kinds of error
                raise error from None

    def _convert(self, tensors: Mapping[str, Tensor], size: int) -> nn.Module:
        # timm checks that no tensor is missing or unknown if the file and the network have the same number of classes.
        # Files with timm's tensor names may have any number, so drop the classifier. Original files have the number of
        # timm's config.
        state, options = dict(tensors), {}
        network = self.build(size)
        with suppress(ValueError):
            state = native_names(network, tensors)
            dropped = tuple(f"{name}." for name in self.classifiers(network))
            state = {key: tensor for key, tensor in state.items() if not key.startswith(dropped)}
            options = {"num_classes": 0}
        overlay = {"state_dict": state, **options}
        network = self.create(size, pretrained=True, pretrained_cfg_overlay=overlay, **options)
        config: Any = network.pretrained_cfg
        del config["state_dict"]  # otherwise each copy of the network would have these tensors too
        return self.without_classifier(network)

    def download(self, weights: str, size: int) -> nn.Module:
        if self._config.hf_hub_id:
            # Without a network, the hub's client would print 20 lines about its retries.
            logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
            return self.without_classifier(self.create(size, pretrained=True))
        # Not timm's own download from a URL, because in rare cases it runs code from the file.
        progress = sys.stderr.isatty()
        state = torch.hub.load_state_dict_from_url(
            self._config.url, map_location="cpu", progress=progress, check_hash=True, weights_only=True
        )
        return self.from_tensors(state, size)

    def origin(self, weights: str) -> str:
        repository, url = self._config.hf_hub_id, self._config.url
        if weights != "DEFAULT" or not (repository or url):
            raise _unknown_weights(self.name, weights, ["DEFAULT"] if repository or url else [])
        return f"{repository} from the Hugging Face hub" if repository else f"{url} to {torch.hub.get_dir()}"

    def grid(self, network: nn.Module, x: Tensor) -> Tensor:
        """Return what timm's `forward_features` returns, without class tokens and registers."""
        features = network.forward_features(x)  # type: ignore[operator]
        if not isinstance(features, Tensor) or features.dim() not in (3, 4):
            raise UserError(f"backbone.name={self.name}: it has no single grid of features. Use features.kind=pooled.")
        if features.dim() == 3:
            return features[:, getattr(network, "num_prefix_tokens", 0) :]
        if getattr(network, "output_fmt", "NCHW") == "NHWC":
            return features.flatten(1, 2)
        return features.flatten(2).transpose(1, 2)
