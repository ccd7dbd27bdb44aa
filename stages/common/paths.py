"""The paths of the stages' outputs, relative to the top folder of the project, and of DVC's cache."""

import os
import subprocess
import sys
from pathlib import Path

from lib.core.files import expand_home

RAW, CAPTIONS, BACKBONE, FEATURES = (Path("data") / name for name in ("raw", "captions", "backbone", "features"))
DECODER, MODEL, METRICS = Path("data/decoder"), Path("data/model"), Path("metrics")

READY_FEATURES = Path("data/ready_features")  # the default of features.source; if it is empty, a CNN makes the features
ANNOTATED_IMAGES = CAPTIONS / "images.parquet"  # the images with captions: image_id, archive, member, split
CAPTION_TABLE = CAPTIONS / "captions.parquet"  # image_id, caption, tokens
VOCABULARY = CAPTIONS / "vocabulary.json"
IMAGES = FEATURES / "images.parquet"  # the images with features: image_id, archive, member, split, shard, row
SKIPPED = FEATURES / "skipped.parquet"  # the images without features: image_id, reason


def user_path(text: str) -> Path:
    """Return a path that the user wrote, with `~` replaced by the home folder."""
    return Path(expand_home(text))


# The folder for interrupted work. DVC deletes the outputs of a stage before it runs the stage, but not this folder.
SCRATCH = user_path(os.environ.get("CAPTION_SCRATCH") or ".scratch")
DOWNLOADS = SCRATCH / "downloads"
PROVENANCE = SCRATCH / "provenance.json"  # when and where the model was trained; no stage reads it


def dvc_cache() -> Path | None:
    """Return the folder of DVC's cache, or None outside a DVC project."""
    command = [sys.executable, "-m", "dvc", "cache", "dir"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return Path(done.stdout.strip()) if done.returncode == 0 else None
