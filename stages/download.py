"""download: fetches and verifies a data set by name, renders `scenes`, or takes in local files, into data/raw/."""

from pathlib import Path

from lib.core.workers import worker_count
from lib.datasets import local, registry as catalogue, remote
from lib.scenes.dataset import write_scenes
from stages.common.entrypoint import DOWNLOADS, RAW, dvc_cache, run
from stages.params import read
from stages.params.dataset import Params


def main() -> None:
    params = read(Params)
    if params.name == "scenes":
        scenes = params.scenes
        counts = {"train": scenes.train, "val": scenes.val, "test": scenes.test}
        write_scenes(
            RAW, counts, seed=scenes.seed, size=scenes.size, mix=scenes.mix.model_dump(), workers=worker_count()
        )
    elif params.name == "local":
        local.take_in(Path(params.local.images), Path(params.local.annotations), RAW)
    else:
        files = catalogue.files(params.name, params.mirror, Path(params.checksums) if params.checksums else None)
        remote.bring(params.name, files, RAW, limit=params.limit, store=DOWNLOADS, cache=dvc_cache())


if __name__ == "__main__":
    run(main)
