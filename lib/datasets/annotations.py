"""Readers of the two annotation formats of the field: COCO captions JSON and Karpathy JSON.

COCO captions JSON (Chen et al. 2015): {"images": [{"id", "file_name"}], "annotations": [{"image_id", "caption"}]}.
Karpathy JSON (Karpathy & Fei-Fei 2015): {"images": [{"filename", "split", "sentences": [{"raw"}], "imgid"}]},
with the image id in "cocoid" where there is one, and a folder in "filepath".
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import pandas as pd

from lib.errors import UserError

# Karpathy's restval images are the part of COCO's own validation set that everyone trains on.
_KARPATHY_SPLITS = {"train": "train", "restval": "train", "val": "val", "test": "test"}


def read_json(path: Path) -> Any:
    """The JSON in `path`; raises UserError where there is none."""
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from error


def is_karpathy(content: Any) -> bool:
    return isinstance(content, dict) and "annotations" not in content and "images" in content


def read_coco(content: Any, source: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(images: image_id, file_name; captions: image_id, caption) of a COCO captions JSON. Raises UserError."""
    try:
        images = pd.DataFrame(
            [(int(image["id"]), str(image["file_name"])) for image in content["images"]],
            columns=["image_id", "file_name"],
        )
        captions = pd.DataFrame(
            [(int(row["image_id"]), str(row["caption"])) for row in content["annotations"]],
            columns=["image_id", "caption"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise _malformed(source, "a COCO captions JSON", error) from error
    return images, captions


def read_karpathy(content: Any, source: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(images: image_id, file_name, split; captions: image_id, caption) of a Karpathy JSON. Raises UserError."""
    images, captions = [], []
    try:
        for image in content["images"]:
            image_id = int(image["cocoid"] if "cocoid" in image else image["imgid"])
            name = "/".join(part for part in (image.get("filepath"), image["filename"]) if part)
            images.append((image_id, name, _KARPATHY_SPLITS[image["split"]]))
            captions += [(image_id, str(sentence["raw"])) for sentence in image["sentences"]]
    except (KeyError, TypeError, ValueError) as error:
        raise _malformed(source, "a Karpathy JSON", error) from error
    return (
        pd.DataFrame(images, columns=["image_id", "file_name", "split"]),
        pd.DataFrame(captions, columns=["image_id", "caption"]),
    )


def _malformed(source: Path, kind: str, error: Exception) -> UserError:
    what = f"it lacks, or does not know, {error}" if isinstance(error, KeyError) else str(error)
    return UserError(f"{source} is not {kind}: {what}")


def hashed_split(image_id: int, seed: int, val_share: float, test_share: float) -> str:
    """The split of an image by a hash of its id: other images do not move it when some are added or removed."""
    digest = hashlib.sha256(f"{seed}:{image_id}".encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64  # uniform in [0, 1)
    if place < test_share:
        return "test"
    return "val" if place < test_share + val_share else "train"
