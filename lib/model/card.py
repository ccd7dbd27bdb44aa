"""The provenance of a model, and a short model card (Mitchell et al. 2019, "Model cards for model reporting")."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lib.model.decoder import DecoderConfig
from lib.text.vocabulary import SPECIALS

_PROVENANCE, _CARD = "provenance.json", "README.md"


def provenance_path(folder: Path) -> Path:
    """Return the file that holds the params behind a model folder."""
    return folder / _PROVENANCE


def write_card(folder: Path, config: DecoderConfig, params: Mapping[str, Any], val: Mapping[str, float]) -> None:
    """Write provenance.json and README.md into a model folder. The same arguments give the same bytes.

    `params` are those of the stages up to finetune, by section; `val` are scores of greedy captions of the val split.
    """
    provenance = {"params": params, "val": val}
    provenance_path(folder).write_text(json.dumps(provenance, indent=2) + "\n", "utf-8")
    backbone, epochs = params["backbone"], params["finetune"]["epochs"]
    weights = "trained here" if backbone["weights"] == "fit" else f"weights {Path(backbone['weights']).name}"
    finetuning = f", then {epochs} of self-critical training for CIDEr-D" if epochs else ""
    scores = ", ".join(f"{name} {value:.3f}" for name, value in val.items())
    (folder / _CARD).write_text(
        f"""# Image captioner

- Decoder: {config.cell.upper()} with {config.hidden_size} hidden units, attention: {config.attention}
- Image features: {config.num_regions} x {config.feature_size} from {backbone["name"]} ({weights})
- Vocabulary: {config.vocabulary_size - len(SPECIALS)} words
- Training: train split of {params["dataset"]["name"]}, {params["train"]["epochs"]} epochs of cross-entropy{finetuning}
- Scores of greedy captions of the val split: {scores} (BLEU and ROUGE-L: 0 to 1, CIDEr-D: 0 to 10)
- All params: [{_PROVENANCE}]({_PROVENANCE})

Use: `caption --model FOLDER photo.jpg`, or `Captioner.load(FOLDER).caption(["photo.jpg"])` after
`from lib import Captioner`. The folder is self-contained.

Limits: the model repeats the habits and prejudices of its training captions, and guesses when an image is unlike its
training images. Use it for study, not for decisions about people. The license of the data set applies.
""",
        "utf-8",
    )
