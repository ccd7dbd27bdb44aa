"""What train and finetune share: the data, the folder of a run's checkpoint, and the learning curves."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pandas as pd
import torch

from lib.core.files import identity
from lib.core.workdir import alone, fingerprint
from lib.features.store import index_path, shard_paths
from lib.runtime.device import device
from lib.runtime.distributed import is_first, wait_for_first
from lib.text.vocabulary import Vocabulary
from lib.training.batches import caption_set
from lib.training.loop import Row, best_epoch
from lib.training.split import Split
from stages.common.entrypoint import CAPTIONS, FEATURES, METRICS, SCRATCH
from stages.common.splits import features_of, images_with_features, references_of


def training_data(name: str, vocabulary: Vocabulary, max_length: int) -> Split:
    """A split; captions are cut after `max_length` words."""
    images = images_with_features(name)
    references = references_of(images)
    return Split(features_of(images), references, caption_set(references.values(), vocabulary, max_length))


@contextmanager
def run_folder(stage: str, *settings: object) -> Iterator[Path]:
    """Where a stage that learns keeps its checkpoint: another folder where anything differs that weights depend on.

    But not where sums are only taken in another order, by more threads or processes: a run may go on with as many as
    there are. Another run of the same waits until this one leaves it, and then has nothing left to learn.
    """
    tables = [CAPTIONS / name for name in ("images.parquet", "captions.parquet", "vocabulary.json")]
    shards = [identity(shard) for shard in shard_paths(FEATURES)]
    machine = [device().type, torch.__version__]
    folder = SCRATCH / stage / fingerprint(*settings, *tables, index_path(FEATURES), shards, machine, *library())
    with alone(folder) if is_first() else nullcontext():  # of several processes the first writes, and the others follow
        wait_for_first()
        yield folder


def write_curves(stage: str, curve: Sequence[Row], best_by: str) -> None:
    """Writes metrics/`stage`: the learning curves, and the figures of the best epoch."""
    folder = METRICS / stage
    folder.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(curve).to_csv(folder / "curves.csv", index=False, float_format="%.6g")
    best = best_epoch(curve, best_by)
    told = ("val_loss", "val_bleu_4", "val_cider_d")
    summary = {"best_epoch": best["epoch"], **{name: best[name] for name in told if name in best}}
    (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
