"""Code that the stages train and finetune share: load the data, and write the learning curves."""

import json
from collections.abc import Sequence

import pandas as pd

from lib.core.files import stat_signature
from lib.core.tables import read_images, read_tokens
from lib.features.store import Features, shard_paths
from lib.text.vocabulary import Vocabulary
from lib.training.batches import caption_set
from lib.training.data import Split
from lib.training.loop import EpochMetrics, best_epoch
from stages.common.paths import CAPTION_TABLE, FEATURES, IMAGES, METRICS, VOCABULARY


def training_data(split: str, vocabulary: Vocabulary, max_length: int) -> Split:
    """Load the features and captions of a split. Captions are cut after `max_length` words."""
    images = read_images(IMAGES, split)
    references = read_tokens(CAPTION_TABLE, images["image_id"])
    return Split(Features(FEATURES, images), references, caption_set(references.values(), vocabulary, max_length))


def training_inputs() -> list[object]:
    """Return inputs for `work_folder` that identify the data that `training_data` reads."""
    return [CAPTION_TABLE, VOCABULARY, IMAGES, [stat_signature(shard) for shard in shard_paths(FEATURES)]]


def write_curves(stage: str, curve: Sequence[EpochMetrics], monitor: str) -> None:
    """Write the learning curves and the metrics of the best epoch to the folder metrics/`stage`."""
    folder = METRICS / stage
    folder.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(curve).to_csv(folder / "curves.csv", index=False, float_format="%.6g")
    best = best_epoch(curve, monitor)
    shown = ("val_loss", "val_bleu_4", "val_cider_d")
    summary = {"best_epoch": best["epoch"], **{name: best[name] for name in shown if name in best}}
    (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
