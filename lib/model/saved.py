"""Save and load a trained model: a self-contained folder with the CNN, the decoder, the vocabulary and a model card."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save
from torch import Tensor

from lib.core.errors import UserError, readable_errors
from lib.features.pca import pca_path
from lib.model.decoder import Decoder, DecoderConfig
from lib.text.vocabulary import SPECIALS, Vocabulary

_WEIGHTS, _CONFIG, _VOCABULARY = "decoder.safetensors", "decoder.json", "vocabulary.json"
# Version of decoder.json and of the weight names. Version 1 had no "format" key. In version 2, the names of the body's
# weights had no prefix, and there was no transformer.
_FORMAT = 3

_USE = """Use: `caption --model FOLDER photo.jpg`, or `Captioner.load(FOLDER).caption(["photo.jpg"])` after
`from lib import Captioner`. The folder is self-contained."""
_USE_FEATURES = """Use: `Captioner.load(FOLDER).caption_features(features)` after `from lib import Captioner`, with
features (N, regions, size) from the same source. The model has no CNN, so it cannot caption image files."""


def weights_path(folder: Path) -> Path:
    """Return the path of the decoder's weights in a model folder."""
    return folder / _WEIGHTS


def provenance_path(folder: Path) -> Path:
    """Return the path of the file, in a model folder, with the params that the model was trained with."""
    return folder / "provenance.json"


def backbone_folder(folder: Path) -> Path:
    """Return the path of the CNN's folder in a model folder."""
    return folder / "backbone"


def save_captioner(folder: Path, backbone: Path, features: Path, decoder: Decoder, vocabulary: Vocabulary) -> None:
    """Write a model folder. Copy the CNN from the folder `backbone`, and the PCA, if any, from `features`."""
    save_decoder(folder, decoder, vocabulary)
    shutil.copytree(backbone, backbone_folder(folder), dirs_exist_ok=True, copy_function=shutil.copyfile)
    if pca_path(features).exists():
        shutil.copyfile(pca_path(features), pca_path(folder))


def save_decoder(folder: Path, decoder: Decoder, vocabulary: Vocabulary) -> None:
    """Write the part of a model folder that `load_decoder` reads: decoder and vocabulary."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.contiguous().cpu() for name, tensor in decoder.state_dict().items()}
    (folder / _WEIGHTS).write_bytes(save(weights))  # not save_file, because only the owner could read its file
    (folder / _CONFIG).write_text(json.dumps({"format": _FORMAT, **asdict(decoder.config)}, indent=2) + "\n")
    vocabulary.save(folder / _VOCABULARY)


def load_decoder(folder: Path) -> tuple[Decoder, Vocabulary]:
    """Return the decoder, in evaluation mode, and its vocabulary. Raises UserError if a file is malformed."""
    with readable_errors(folder / _CONFIG):
        settings = json.loads((folder / _CONFIG).read_text("utf-8"))
        if (found := settings.pop("format", 1)) not in (2, _FORMAT):
            problem = f"this model has format {found}, but this version reads formats 2 and {_FORMAT}"
            fix = "Run dvc repro to train it again, or use the commit that wrote it."
            raise UserError(f"{folder / _CONFIG}: {problem}. {fix}")
        config = DecoderConfig(**settings)
        if not isinstance(config.max_length, int) or config.max_length < 1:
            raise ValueError(f"max_length={config.max_length!r} must be a number of words, at least 1")
    with readable_errors(folder / _WEIGHTS):
        weights = load_file(folder / _WEIGHTS)
        if found == 2:
            shared = ("feature_", "output.")
            weights = {name if name.startswith(shared) else f"body.{name}": part for name, part in weights.items()}
        _check_sizes(config, weights)
        decoder = Decoder(config)
        decoder.load_state_dict(weights)
    vocabulary = Vocabulary.load(folder / _VOCABULARY)
    if len(vocabulary) != config.vocabulary_size:
        raise UserError(
            f"{folder / _VOCABULARY} has {len(vocabulary)} tokens, but the decoder has {config.vocabulary_size}: the "
            f"files are from different models. Restore the {_VOCABULARY} of this model."
        )
    return decoder.eval(), vocabulary


def _check_sizes(config: DecoderConfig, weights: Mapping[str, Tensor]) -> None:
    """Raise ValueError if a size in `config` differs from the weights. Otherwise a wrong size could fill the memory."""
    sizes = {
        "body.embed.weight": (config.vocabulary_size, config.embedding_size),
        "output.weight": (config.vocabulary_size, config.hidden_size),
        "feature_mean": (config.feature_size,),
    }
    if config.cell == "transformer":
        sizes["body.position"] = (config.max_length + 1, config.embedding_size)
        sizes[f"body.blocks.{config.layers - 1}.norm.weight"] = (config.hidden_size,)
    if config.attends:
        position = "region_position" if config.cell == "transformer" else "attention.position"
        sizes[f"body.{position}"] = (config.num_regions, config.feature_size)
    for name, size in sizes.items():
        if weights[name].shape != size:
            raise ValueError(f"{name} has shape {tuple(weights[name].shape)}, but {_CONFIG} says {size}")


def check_features(config: DecoderConfig, shape: Sequence[int], source: object) -> None:
    """Raise UserError if features of `shape` (N, P, C) from `source` have another shape than in training."""
    expected = (config.num_regions, config.feature_size)
    if tuple(shape[1:]) != expected:
        raise UserError(
            f"{source}: features have shape {tuple(shape[1:])}, but the decoder expects {expected} (num_regions, "
            "feature_size). The CNN, features.kind or features.pca_components differs from training. Use the model's "
            "own backbone and params, or train again."
        )


def _describe(config: DecoderConfig) -> str:
    if config.cell == "transformer":
        regions = "with" if config.attends else "without"
        return f"transformer, {config.layers} blocks of {config.hidden_size}, {regions} attention to regions"
    return f"{config.cell.upper()} with {config.hidden_size} hidden units, attention: {config.attention}"


def write_card(folder: Path, config: DecoderConfig, params: Mapping[str, Any], val: Mapping[str, float]) -> None:
    """Write provenance.json and README.md, a model card (Mitchell et al. 2019, "Model cards for model reporting").

    `params` has the params of the stages up to finetune, by section. `val` has the scores of greedy captions of the val
    split. The same arguments give the same bytes.
    """
    provenance_path(folder).write_text(json.dumps({"params": params, "val": val}, indent=2) + "\n", "utf-8")
    backbone, epochs = params["backbone"], params["finetune"]["epochs"]
    weights = "trained here" if backbone["weights"] == "fit" else f"weights {Path(backbone['weights']).name}"
    features, use = f"{backbone['name']} ({weights})", _USE
    if source := params["features"].get("source"):
        features, use = f"{Path(source).name}, ready features; this folder has no CNN", _USE_FEATURES
    finetuning = f", then {epochs} of self-critical training for CIDEr-D" if epochs else ""
    scores = ", ".join(f"{name} {value:.3f}" for name, value in val.items())
    (folder / "README.md").write_text(
        f"""# Image captioner

- Decoder: {_describe(config)}
- Image features: {config.num_regions} x {config.feature_size} from {features}
- Vocabulary: {config.vocabulary_size - len(SPECIALS)} words, tokenizer {params["text"]["tokenizer"]}
- Captions: up to {config.max_length} words
- Training: train split of {params["dataset"]["name"]}, {params["train"]["epochs"]} epochs of cross-entropy{finetuning}
- Scores of greedy captions of the val split: {scores} (BLEU and ROUGE-L: 0 to 1, CIDEr-D: 0 to 10)
- All params: [provenance.json](provenance.json)

{use}

Limits: the model repeats the habits and prejudices of its training captions. If an image differs from the training
images, the caption is a guess. Use the model for study, not for decisions about people. The license of the data set
applies.
""",
        "utf-8",
    )
