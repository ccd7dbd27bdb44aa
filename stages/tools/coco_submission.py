"""Caption COCO's val2014 and test2014 for the evaluation server: `make server`. Downloads their zips, 13 GB."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from lib.app.captioner import BATCH_SIZE, Captioner
from lib.core.errors import UserError
from lib.core.files import atomic_write
from lib.core.workers import worker_count
from lib.core.zips import open_zip, write_stored_zip
from lib.datasets.remote import remote_files, reuse_dvc_cache
from lib.fetch.http import fetch
from lib.vision.images import Archives, decoded_pixels
from stages.common.entrypoint import run
from stages.common.generation import model_folders, train_consensus
from stages.common.paths import DOWNLOADS, dvc_cache, user_path
from stages.params import DatasetParams, GenerateParams, read_params


def main() -> None:
    dataset, params = read_params(DatasetParams), read_params(GenerateParams)
    if params.method != "beam":
        problem = "a submission needs beam search"
        raise UserError(f"params.yaml: generate.method={params.method}: {problem}. Set generate.method to beam.")
    captioner = Captioner.load(*model_folders(params))
    search = params.model_dump(exclude={"method", "sample", "ensemble"})
    search["consensus"] = train_consensus(params, captioner.decoder.config, captioner.vocabulary)
    files = remote_files("server", dataset.mirror, user_path(dataset.checksums) if dataset.checksums else None)
    reuse_dvc_cache(files, DOWNLOADS, dvc_cache())
    members = []
    for file, path in zip(files, fetch(files, DOWNLOADS), strict=True):
        split = Path(file.name).stem
        results = _results(captioner, path, split, search)
        members.append((f"captions_{split}_captioner_results.json", json.dumps(results).encode()))
        print(f"{split}: {len(results)} captions")
    output = Path("server/results.zip")
    with atomic_write(output) as unfinished:
        write_stored_zip(unfinished, members)
    print(f"wrote {output}; upload this file to the evaluation server")


def _results(captioner: Captioner, path: Path, split: str, search: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the id and the caption of each image, sorted by file name. An unreadable image gets an empty caption."""
    with open_zip(path) as archive:
        names = sorted(name for name in archive.namelist() if re.search(r"_\d{12}\.jpg$", name))
    if not names:
        example = f"COCO_{split}_000000000001.jpg"
        fix = "Check dataset.mirror and dataset.checksums."
        raise UserError(f"{path} holds no image of {split}, such as {example}. {fix}")
    rows = [(int(name[-16:-4]), path.name, name) for name in names]
    captions, archives = {image_id: "" for image_id, _, _ in rows}, Archives(path.parent)
    decode = partial(decoded_pixels, archives, captioner.cnn().preprocess)
    with ThreadPoolExecutor(worker_count()) as pool:
        for start in tqdm(range(0, len(rows), BATCH_SIZE), split, unit="batch", disable=None):
            decoded = dict(pool.map(decode, rows[start : start + BATCH_SIZE]))
            pixels = {image_id: value for image_id, value in decoded.items() if isinstance(value, np.ndarray)}
            for image_id in decoded.keys() - pixels.keys():
                reason = f"cannot read image {image_id}: {decoded[image_id]}"
                print(f"{split}.zip: {reason}; wrote an empty caption", flush=True)
            if not pixels:
                continue
            beams = captioner.caption_features(captioner.features(np.stack(list(pixels.values()))), **search)
            captions |= {image_id: beam[0].text for image_id, beam in zip(pixels, beams, strict=True)}
    return [{"image_id": image_id, "caption": caption} for image_id, caption in captions.items()]


if __name__ == "__main__":
    run(main)
