"""server: captions all of COCO's val2014 and test2014, as its evaluation server wants them: `make server`.

Not a stage of the DAG: the server alone has the references of test2014, and its images are nobody's split. It needs a
trained model, and 13 GB for the two zips, of which coco2014 has fetched one already; for a consensus, data/captions and
data/features too.
"""

import json
import re
from collections.abc import Iterator
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
from lib.datasets.registry import remote_files
from lib.datasets.remote import reuse_dvc_cache
from lib.fetch.http import fetch
from lib.vision.images import Archives
from lib.vision.pixels import decoded_pixels
from stages.common.dvc_cache import dvc_cache
from stages.common.entrypoint import run
from stages.common.generation import model_folders, train_consensus
from stages.common.paths import DOWNLOADS
from stages.params import DatasetParams, GenerateParams, read_params

_RESULTS = Path("server/results.zip")
_SEARCH = {
    "beam_size",
    "max_length",
    "length_penalty",
    "min_length",
    "no_repeat_ngram_size",
}  # of generate, and of Captioner


def main() -> None:
    dataset = read_params(DatasetParams)
    params = read_params(GenerateParams)
    if params.method != "beam":
        raise UserError(
            f"params.yaml: generate.method is {params.method}, and the server's captions are of beam search"
        )
    captioner = Captioner.load(*model_folders(params))
    consensus = train_consensus(params, captioner.decoder.config, captioner.vocabulary)
    search = params.model_dump(include=_SEARCH) | {"consensus": consensus}
    files = remote_files("server", dataset.mirror, Path(dataset.checksums) if dataset.checksums else None)
    reuse_dvc_cache(files, DOWNLOADS, dvc_cache())
    members = []
    for file, path in zip(files, fetch(files, DOWNLOADS), strict=True):
        part = file.name.removesuffix(".zip")
        results = [
            {"image_id": image_id, "caption": text} for image_id, text in _captions(captioner, path, part, search)
        ]
        members.append((f"captions_{part}_captioner_results.json", json.dumps(results).encode()))
        print(f"{part}: {len(results)} captions written")
    with atomic_write(_RESULTS) as unfinished:
        write_stored_zip(unfinished, members)
    print(f"{_RESULTS}: upload it to the server")


def _captions(captioner: Captioner, path: Path, part: str, search: dict[str, Any]) -> Iterator[tuple[int, str]]:
    """The id and the caption of each image, in order of the names; an unreadable one is told of, and has no words."""
    with open_zip(path) as archive:
        names = sorted(name for name in archive.namelist() if re.search(r"_\d{12}\.jpg$", name))
    if not names:
        raise UserError(f"{path} holds no image of {part}")
    rows = [(int(name[-16:-4]), path.name, name) for name in names]
    archives = Archives(path.parent)
    see = partial(decoded_pixels, archives, captioner.backbone.preprocess)
    with ThreadPoolExecutor(worker_count()) as pool:
        for first in tqdm(range(0, len(rows), BATCH_SIZE), part, unit="batch", disable=None):
            seen = dict(pool.map(see, rows[first : first + BATCH_SIZE]))
            readable = {image_id: found for image_id, found in seen.items() if isinstance(found, np.ndarray)}
            captions = dict(zip(readable, captioner.caption(list(readable.values()), **search), strict=True))
            for image_id, _, name in rows[first : first + BATCH_SIZE]:
                if image_id in captions:
                    yield image_id, captions[image_id][0].text
                else:
                    print(f"{part}.zip: {name}: {seen[image_id]}", flush=True)
                    yield image_id, ""
    archives.close()


if __name__ == "__main__":
    run(main)
