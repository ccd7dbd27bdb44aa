"""Code that the stages train and finetune share: load the data, and record the learning curves."""

import os
from pathlib import Path

from lib.core.files import stat_signature
from lib.core.tables import read_images, read_tokens
from lib.features.store import Features, shard_paths
from lib.runtime.distributed import is_main_process
from lib.text.vocabulary import Vocabulary
from lib.training.batches import caption_set
from lib.training.data import Split
from lib.training.recorder import Recorder
from stages.common.paths import CAPTION_TABLE, FEATURES, IMAGES, METRICS, VOCABULARY, user_path


def training_data(split: str, vocabulary: Vocabulary, max_length: int) -> Split:
    """Load the features and captions of a split. Captions are cut after `max_length` words."""
    images = read_images(IMAGES, split)
    references = read_tokens(CAPTION_TABLE, images["image_id"])
    return Split(Features(FEATURES, images), references, caption_set(references.values(), vocabulary, max_length))


def training_inputs() -> list[object]:
    """Return inputs for `work_folder` that identify the data that `training_data` reads."""
    return [CAPTION_TABLE, VOCABULARY, IMAGES, [stat_signature(shard) for shard in shard_paths(FEATURES)]]


def curve_recorder(stage: str, work_folder: Path) -> Recorder | None:
    """Return the recorder of the folder metrics/`stage`, or None if this is not the main process.

    If the environment variable CAPTION_TENSORBOARD names a folder, the recorder also writes TensorBoard events there.
    The run has the name of the DVC experiment or, without one, of the work folder.
    """
    if not is_main_process():
        return None
    name, folder = os.environ.get("DVC_EXP_NAME") or work_folder.name, os.environ.get("CAPTION_TENSORBOARD")
    return Recorder(METRICS / stage, user_path(folder) / name / stage if folder else None)
