"""Write and read a data set of scenes in COCO's layout: a stored zip of JPEGs and a captions JSON per split."""

import json
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import TypeAdapter
from tqdm import tqdm

from lib.core.tables import SPLITS
from lib.core.workers import worker_processes
from lib.core.zips import write_stored_zip
from lib.datasets.annotations import read_annotations, read_json
from lib.datasets.dataset import Dataset
from lib.scenes.drawing import render
from lib.scenes.grammar import describe
from lib.scenes.world import Scene, sample_scene

CAPTIONS_PER_IMAGE = 5
IMAGES, TRUTH = "images.zip", "truth.json"


def load_scenes(raw: Path) -> Dataset:
    """Read the data set that `write_scenes` wrote to `raw`."""
    parts = []
    for split in SPLITS:
        images, captions = read_annotations(raw / f"captions_{split}.json")
        images = images.assign(archive=IMAGES, member=f"{split}/" + images["file_name"], split=split)
        parts.append((images.drop(columns="file_name"), captions))
    images, captions = (pd.concat(tables, ignore_index=True) for tables in zip(*parts, strict=True))
    return Dataset(images, captions, raw)


def read_truth(raw: Path) -> dict[int, Scene]:
    """Return the scene of each image id."""
    scene = TypeAdapter(Scene)
    return {record["image_id"]: scene.validate_python(record) for record in read_json(raw / TRUTH)}


def make_scene(image_id: int, *, seed: int, size: int, mix: dict[str, float]) -> tuple[Scene, bytes, list[str]]:
    """Return a scene, its JPEG and its captions. They depend only on the arguments."""
    rng = np.random.default_rng([seed, image_id])
    scene = sample_scene(rng, mix)
    captions = [describe(scene, rng) for _ in range(CAPTIONS_PER_IMAGE)]
    return scene, render(scene, size, rng), captions


def write_scenes(
    raw: Path, counts: Mapping[str, int], *, seed: int, size: int, mix: dict[str, float], workers: int = 1
) -> None:
    """Draw `counts[split]` scenes for each split; write images.zip, captions_*.json and truth.json to `raw`.

    The bytes do not depend on the number of worker processes.
    """
    raw.mkdir(parents=True, exist_ok=True)
    splits = [split for split in SPLITS for _ in range(counts[split])]
    ids = range(1, len(splits) + 1)
    coco: dict[str, dict[str, list[Any]]] = {split: {"images": [], "annotations": []} for split in SPLITS}
    truth = []

    def members(pool: Executor) -> Iterator[tuple[str, bytes]]:
        scenes = pool.map(partial(make_scene, seed=seed, size=size, mix=mix), ids, chunksize=50)
        bar = tqdm(scenes, "drawing scenes", len(ids), unit="picture", disable=None)
        for image_id, split, (scene, jpeg, captions) in zip(ids, splits, bar, strict=True):
            name = f"{image_id:012d}.jpg"
            coco[split]["images"].append({"id": image_id, "file_name": name, "width": size, "height": size})
            for caption_id, caption in enumerate(captions, image_id * CAPTIONS_PER_IMAGE):
                coco[split]["annotations"].append({"id": caption_id, "image_id": image_id, "caption": caption})
            truth.append({"image_id": image_id, **asdict(scene)})
            yield f"{split}/{name}", jpeg

    with worker_processes(workers) as pool:
        write_stored_zip(raw / IMAGES, members(pool))
    for split, content in coco.items():
        (raw / f"captions_{split}.json").write_text(json.dumps(content), "utf-8")
    (raw / TRUTH).write_text(json.dumps(truth), "utf-8")
