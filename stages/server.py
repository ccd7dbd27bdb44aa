"""server: captions all of COCO's val2014 and test2014, as its evaluation server wants them: `make server`.

Not a stage of the DAG: the server alone has the references of test2014, and its images are nobody's split. It needs a
trained model, and 13 GB for the two zips, of which coco2014 has fetched one already.
"""

import json
import re
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from lib.captioner.captioner import BATCH, Captioner
from lib.datasets import catalogue
from lib.datasets.archive import MOST_IMAGE, open_zip, read_member, write_stored_zip
from lib.download import fetch
from lib.errors import UserError
from lib.scratch import written_whole
from lib.vision.images import ImageError, decode
from lib.workers import worker_count
from stages.params import read
from stages.params.dataset import Params as DatasetParams
from stages.params.generate import Params as GenerateParams
from stages.running import DOWNLOADS, MODEL, run

_RESULTS = Path("server/results.zip")


def main() -> None:
    dataset = read(DatasetParams)
    captioner = Captioner.load(MODEL)
    files = catalogue.files("server", dataset.mirror, Path(dataset.checksums) if dataset.checksums else None)
    members = []
    for file, path in zip(files, fetch(files, DOWNLOADS), strict=True):
        part = file.name.removesuffix(".zip")
        with open_zip(path) as archive:
            results = [
                {"image_id": image_id, "caption": text} for image_id, text in _captions(captioner, archive, part)
            ]
        members.append((f"captions_{part}_captioner_results.json", json.dumps(results).encode()))
        print(f"{part}: {len(results)} captions written")
    with written_whole(_RESULTS) as unfinished:
        write_stored_zip(unfinished, members)
    print(f"{_RESULTS}: upload it to the server")


def _captions(captioner: Captioner, archive: zipfile.ZipFile, part: str) -> Iterator[tuple[int, str]]:
    """The id and the caption of each image, in order of the names; an unreadable one is told of, and has no words."""
    params = read(GenerateParams)
    names = sorted(name for name in archive.namelist() if re.search(r"_\d{12}\.jpg$", name))
    preprocess = captioner.backbone.preprocess

    def see(name: str) -> np.ndarray | None:
        try:
            return preprocess.pixels(decode(read_member(archive, name, MOST_IMAGE), preprocess.least))
        except (ImageError, zipfile.BadZipFile) as error:
            print(f"{archive.filename}: {name}: {error}", flush=True)
            return None

    if not names:
        raise UserError(f"{archive.filename} holds no image of {part}")
    with ThreadPoolExecutor(worker_count()) as pool:
        for first in tqdm(range(0, len(names), BATCH), part, unit="batch", disable=None):
            batch = names[first : first + BATCH]
            seen = {
                name: pixels for name, pixels in zip(batch, pool.map(see, batch), strict=True) if pixels is not None
            }
            found = captioner.caption(
                list(seen.values()),
                beam_size=params.beam_size,
                max_length=params.max_length,
                length_penalty=params.length_penalty,
                min_length=params.min_length,
                no_repeat=params.no_repeat,
            )
            texts = dict(zip(seen, (best.text for best, *_ in found), strict=True))
            yield from ((int(name[-16:-4]), texts.get(name, "")) for name in batch)


if __name__ == "__main__":
    run(main)
