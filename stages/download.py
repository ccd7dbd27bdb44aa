"""download: put a data set into data/raw. Download and verify it, draw `scenes`, or import local files."""

from lib.core.workers import worker_count
from lib.datasets.local import import_local
from lib.datasets.remote import fetch_dataset, remote_files
from lib.scenes.dataset import write_scenes
from stages.common.entrypoint import run
from stages.common.paths import DOWNLOADS, RAW, dvc_cache, user_path
from stages.params import DatasetParams, read_params


def main() -> None:
    params = read_params(DatasetParams)
    if params.name == "scenes":
        scenes = params.scenes
        counts = {"train": scenes.train, "val": scenes.val, "test": scenes.test}
        mix = scenes.mix.model_dump()
        write_scenes(RAW, counts, seed=scenes.seed, size=scenes.size, mix=mix, workers=worker_count())
    elif params.name == "local":
        local, source = params.local, params.local.annotations
        captions = user_path(source) if isinstance(source, str) else {key: user_path(source[key]) for key in source}
        import_local(user_path(local.images), captions, RAW, local.columns.model_dump(exclude_none=True))
    else:
        files = remote_files(params.name, params.mirror, user_path(params.checksums) if params.checksums else None)
        fetch_dataset(params.name, files, RAW, limit=params.limit, store=DOWNLOADS, cache=dvc_cache())


if __name__ == "__main__":
    run(main)
