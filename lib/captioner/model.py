"""A trained captioner on disk: one folder that needs nothing else, with CNN, decoder and vocabulary."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

from safetensors.torch import load_file, save_file

from lib.captioner.decoder import Decoder, DecoderConfig
from lib.text.vocabulary import Vocabulary
from lib.vision.projection import projection_path

_DECODER, _CONFIG, _VOCABULARY = "decoder.safetensors", "decoder.json", "vocabulary.json"


def backbone_folder(folder: Path) -> Path:
    """Where in a captioner's folder its CNN is."""
    return folder / "backbone"


def save_captioner(folder: Path, backbone: Path, features: Path, decoder: Decoder, vocabulary: Vocabulary) -> None:
    """Writes the folder; `backbone` is the folder of a saved backbone, `features` that of what was learned from.

    The same weights give the same bytes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copytree(backbone, backbone_folder(folder), dirs_exist_ok=True, copy_function=shutil.copyfile)
    if projection_path(features).exists():
        shutil.copyfile(projection_path(features), projection_path(folder))
    save_decoder(folder, decoder, vocabulary)


def save_decoder(folder: Path, decoder: Decoder, vocabulary: Vocabulary) -> None:
    """Writes what `load_decoder` reads, without the CNN."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous().cpu() for name, tensor in decoder.state_dict().items()}, folder / _DECODER)
    (folder / _CONFIG).write_text(json.dumps(asdict(decoder.config), indent=2) + "\n")
    vocabulary.save(folder / _VOCABULARY)


def load_decoder(folder: Path) -> tuple[Decoder, Vocabulary]:
    """The decoder, in evaluation mode, and its vocabulary, without the CNN."""
    decoder = Decoder(DecoderConfig(**json.loads((folder / _CONFIG).read_text())))
    decoder.load_state_dict(load_file(folder / _DECODER))
    return decoder.eval(), Vocabulary.load(folder / _VOCABULARY)
