"""A model's papers: what made it, for programs, and a short model card (Mitchell et al. 2019), for people."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lib.model.decoder import DecoderConfig
from lib.text.vocabulary import SPECIALS

_PROVENANCE, _CARD = "provenance.json", "README.md"


def provenance_path(folder: Path) -> Path:
    """Where in a captioner's folder it says what made it."""
    return folder / _PROVENANCE


def write_card(folder: Path, config: DecoderConfig, params: Mapping[str, Any], val: Mapping[str, float]) -> None:
    """Writes both into a captioner's folder. The same arguments give the same bytes.

    `params` are those of all stages up to finetune, by section; `val` the scores of greedy captions of the val split.
    """
    provenance = {"params": params, "val": val}
    provenance_path(folder).write_text(json.dumps(provenance, indent=2) + "\n", "utf-8")
    dataset, backbone, train = (params[section] for section in ("dataset", "backbone", "train"))
    words = config.vocabulary_size - len(SPECIALS)
    looks = "looking at a grid of places" if config.attention == "additive" else "from one vector a picture"
    weights = (
        "trained on the same pictures" if backbone["weights"] == "fit" else f"weights {Path(backbone['weights']).name}"
    )
    taught = f"{train['epochs']} epochs of cross-entropy"
    if params["finetune"]["epochs"]:
        taught += f", {params['finetune']['epochs']} of self-critical training for CIDEr-D"
    scores = ", ".join(f"{name} {value:.3f}" for name, value in val.items())
    (folder / _CARD).write_text(
        f"""# An image captioner

An {config.cell.upper()} of {config.hidden_size} units writes a sentence about a picture, {looks}
({config.num_regions} x {config.feature_size} numbers of {backbone["name"]}, {weights}). It knows {words} words.

- Learned from: the train split of {dataset["name"]}, {taught}.
- On the val split, greedy: {scores} (BLEU and ROUGE-L from 0 to 1, CIDEr-D from 0 to 10).
- What made it, param by param and file by file, is in [{_PROVENANCE}]({_PROVENANCE}).

This folder is all that it needs: `caption --model FOLDER photo.jpg`, or in Python
`from lib import Captioner; Captioner.load(FOLDER).caption(["photo.jpg"])`.

It says what the captions that it learned from would say: of pictures unlike those it can only guess, it has their
writers' habits and prejudices, and it names no one. It is for study, not for decisions about people. The terms of its
data set hold for it too.
""",
        "utf-8",
    )
