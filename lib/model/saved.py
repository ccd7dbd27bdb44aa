"""A trained captioner on disk: one folder that needs nothing else, with CNN, decoder and vocabulary."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from lib.core.errors import UserError, readable_errors
from lib.features.pca import pca_path
from lib.model.decoder import Decoder, DecoderConfig
from lib.text.vocabulary import Vocabulary

_DECODER, _CONFIG, _VOCABULARY = "decoder.safetensors", "decoder.json", "vocabulary.json"


def weights_path(folder: Path) -> Path:
    """Where in a captioner's folder its decoder's weights are."""
    return folder / _DECODER


def backbone_folder(folder: Path) -> Path:
    """Where in a captioner's folder its CNN is."""
    return folder / "backbone"


def save_captioner(folder: Path, backbone: Path, features: Path, decoder: Decoder, vocabulary: Vocabulary) -> None:
    """Writes the folder; `backbone` is the folder of a saved backbone, `features` that of what was learned from.

    The same weights give the same bytes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copytree(backbone, backbone_folder(folder), dirs_exist_ok=True, copy_function=shutil.copyfile)
    if pca_path(features).exists():
        shutil.copyfile(pca_path(features), pca_path(folder))
    save_decoder(folder, decoder, vocabulary)


def save_decoder(folder: Path, decoder: Decoder, vocabulary: Vocabulary) -> None:
    """Writes what `load_decoder` reads, without the CNN."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous().cpu() for name, tensor in decoder.state_dict().items()}, folder / _DECODER)
    (folder / _CONFIG).write_text(json.dumps(asdict(decoder.config), indent=2) + "\n")
    vocabulary.save(folder / _VOCABULARY)


def load_decoder(folder: Path) -> tuple[Decoder, Vocabulary]:
    """The decoder, in evaluation mode, and its vocabulary, without the CNN.

    Raises UserError where a file of the three is missing, damaged, of another version, or of another model.
    """
    with readable_errors(folder / _CONFIG):
        config = DecoderConfig(**json.loads((folder / _CONFIG).read_text("utf-8")))
    with readable_errors(folder / _DECODER):
        weights = load_file(folder / _DECODER)
        _check_sizes(config, weights)
        decoder = Decoder(config)
        decoder.load_state_dict(weights)
    vocabulary = Vocabulary.load(folder / _VOCABULARY)
    if len(vocabulary) != decoder.config.vocabulary_size:
        raise UserError(
            f"{folder / _VOCABULARY} is of another model: {len(vocabulary)} words are listed, "
            f"{decoder.config.vocabulary_size} were learned; make it anew, or take another"
        )
    return decoder.eval(), vocabulary


def _check_sizes(config: DecoderConfig, weights: Mapping[str, Tensor]) -> None:
    """Raises ValueError where the sizes are not those of the weights: wrong ones could fill the memory."""
    shapes = {
        "embed.weight": (config.vocabulary_size, config.embedding_size),
        "output.weight": (config.vocabulary_size, config.hidden_size),
        "feature_mean": (config.feature_size,),
    }
    if config.attention == "additive":
        shapes["attention.position"] = (config.num_regions, config.feature_size)
    for name, shape in shapes.items():
        if weights[name].shape != shape:
            raise ValueError(f"{name} is {tuple(weights[name].shape)}, where {_CONFIG} says {shape}")


def check_features(config: DecoderConfig, shape: Sequence[int], maker: object) -> None:
    """Raises UserError where features of `shape` (N, P, C), which `maker` gives, are not what a decoder has learned."""
    _, places, channels = shape
    if (places, channels) != (config.num_regions, config.feature_size):
        raise UserError(
            f"this decoder was trained on features of another CNN: on {config.num_regions} x {config.feature_size} numbers a "
            f"picture, where {maker} gives {places} x {channels}"
        )
