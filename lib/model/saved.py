"""A trained model on disk: one folder that needs nothing else, with CNN, decoder and vocabulary."""

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

_WEIGHTS, _CONFIG, _VOCABULARY = "decoder.safetensors", "decoder.json", "vocabulary.json"
_FORMAT = 2  # of decoder.json and the names of the weights; 1 had no "format"


def weights_path(folder: Path) -> Path:
    """Return the file of the decoder's weights in a model folder."""
    return folder / _WEIGHTS


def backbone_folder(folder: Path) -> Path:
    """Return the folder of the CNN in a model folder."""
    return folder / "backbone"


def save_captioner(folder: Path, backbone: Path, features: Path, decoder: Decoder, vocabulary: Vocabulary) -> None:
    """Write a model folder; the CNN is copied from the folder `backbone`, the PCA, if any, from `features`.

    The same weights give the same bytes.
    """
    save_decoder(folder, decoder, vocabulary)
    shutil.copytree(backbone, backbone_folder(folder), dirs_exist_ok=True, copy_function=shutil.copyfile)
    if pca_path(features).exists():
        shutil.copyfile(pca_path(features), pca_path(folder))


def save_decoder(folder: Path, decoder: Decoder, vocabulary: Vocabulary) -> None:
    """Write the part of a model folder that `load_decoder` reads: no CNN."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous().cpu() for name, tensor in decoder.state_dict().items()}, folder / _WEIGHTS)
    (folder / _CONFIG).write_text(json.dumps({"format": _FORMAT, **asdict(decoder.config)}, indent=2) + "\n")
    vocabulary.save(folder / _VOCABULARY)


def load_decoder(folder: Path) -> tuple[Decoder, Vocabulary]:
    """Return the decoder, in evaluation mode, and its vocabulary.

    Raises UserError if a file is missing, damaged, of another format or of another model.
    """
    with readable_errors(folder / _CONFIG):
        settings = json.loads((folder / _CONFIG).read_text("utf-8"))
        if (found := settings.pop("format", 1)) != _FORMAT:
            raise ValueError(
                f"model format {found}, not {_FORMAT}; train the model again with dvc repro, "
                "or use the commit that wrote it"
            )
        config = DecoderConfig(**settings)
    with readable_errors(folder / _WEIGHTS):
        weights = load_file(folder / _WEIGHTS)
        _check_sizes(config, weights)
        decoder = Decoder(config)
        decoder.load_state_dict(weights)
    vocabulary = Vocabulary.load(folder / _VOCABULARY)
    if len(vocabulary) != config.vocabulary_size:
        raise UserError(
            f"{folder / _VOCABULARY} has {len(vocabulary)} tokens, but the decoder was trained with "
            f"{config.vocabulary_size}: it belongs to another model; restore the file that came with this one"
        )
    return decoder.eval(), vocabulary


def _check_sizes(config: DecoderConfig, weights: Mapping[str, Tensor]) -> None:
    """Raise ValueError if the sizes are not those of the weights: a decoder of wrong sizes could fill the memory."""
    shapes = {
        "embed.weight": (config.vocabulary_size, config.embedding_size),
        "output.weight": (config.vocabulary_size, config.hidden_size),
        "feature_mean": (config.feature_size,),
    }
    if config.attention == "additive":
        shapes["attention.place"] = (config.num_regions, config.feature_size)
    for name, shape in shapes.items():
        if weights[name].shape != shape:
            raise ValueError(f"{name} has shape {tuple(weights[name].shape)}, but {_CONFIG} says {shape}")


def check_features(config: DecoderConfig, shape: Sequence[int], source: object) -> None:
    """Raise UserError if features of `shape` (N, P, C) from `source` are not like those that trained the decoder."""
    expected = (config.num_regions, config.feature_size)
    if tuple(shape[1:]) != expected:
        raise UserError(
            f"{source}: features of shape {tuple(shape[1:])}, but the decoder was trained on {expected} (num_regions, "
            "feature_size): they are of another CNN or features.kind; use the model's own backbone, or train again"
        )
