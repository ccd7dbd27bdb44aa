"""Run a CNN over a data set: images in, float16 feature shards and a table of skipped images out.

Each worker reads and decodes a batch of images and runs the CNN on it, all on one core. On two cores, this is faster
than sharing each layer of the CNN between the cores. On a GPU, one worker decodes while the CNN runs for another.

A shard is a fixed slice of the images table. Its files are written when it is complete, so an interrupted extraction
resumes with the missing shards. Threads, processes and the tasks of a Ray cluster write the same bytes.
"""

import os
import threading
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from lib.core.errors import UserError
from lib.core.files import atomic_write, stat_signature
from lib.core.tables import read_table
from lib.core.workdir import fingerprint, locked
from lib.core.workers import worker_processes
from lib.extraction.ray_cluster import Progress, Shards, connect
from lib.features.store import shard_path
from lib.runtime.device import device
from lib.vision.backbones import Backbone
from lib.vision.images import Archives, ImageRow, decoded_pixels, heif_version, image_rows

SHARD_SIZE = 2048  # images
_THREADS_PER_PROCESS = 4  # more threads would wait, because only one at a time runs Python code
_MIN_SHARDS_PER_PROCESS = 8  # for fewer shards, starting a process takes too long

_Results = list[np.ndarray | str]  # per image: its features (P, C), or the reason why it is skipped


@dataclass(frozen=True)
class ExtractionConfig:
    """How images become features; `kind` and `precision` as in `Backbone.features`."""

    raw: Path  # the folder of the archives
    backbone: Backbone
    kind: str
    precision: str
    batch_size: int


@dataclass(frozen=True)
class ExtractionResult:
    """The folder of the shards, the index of the readable images, and the skipped images."""

    folder: Path
    index: pd.DataFrame  # image_id, shard, row
    skipped: pd.DataFrame  # image_id, reason


def extract(
    images: pd.DataFrame, config: ExtractionConfig, scratch: Path, workers: int, code: Sequence[Path] = ()
) -> ExtractionResult:
    """Write the feature shards of `images` (image_id, archive, member), in this order, to a folder in `scratch`.

    The folder's name is a fingerprint of everything that the features depend on, including the files `code`. Existing
    shards are kept. `workers` threads do the work or, if RAY_ADDRESS is set, the Ray cluster at this address. Raises
    UserError if features are not finite, or if the cluster fails.
    """
    archives = [config.raw / archive for archive in sorted(set(images["archive"]))]
    rows = image_rows(images)
    shards = {first // SHARD_SIZE: rows[first : first + SHARD_SIZE] for first in range(0, len(rows), SHARD_SIZE)}
    with connect() if os.environ.get("RAY_ADDRESS") else nullcontext() as cluster:
        backbone, preprocess = config.backbone, asdict(config.backbone.preprocess)
        settings = [backbone.name, preprocess, config.kind, config.precision, config.batch_size, SHARD_SIZE]
        platform = [torch.__version__, cluster.device_type if cluster else device().type, heif_version()]
        inputs = [rows, [stat_signature(archive) for archive in archives], backbone.weights(), settings, platform]
        folder = scratch / fingerprint(*inputs, *code)
        with locked(folder):
            if missing := {number: rows for number, rows in shards.items() if not is_complete(folder, number)}:
                if cluster:
                    # Absolute paths, because a task has another working directory.
                    work = partial(make_shards, replace(config, raw=config.raw.absolute()))
                    progress = cluster.run(work, missing, folder.absolute(), [path.absolute() for path in archives])
                elif (processes := _process_count(len(missing), workers)) > 1:
                    progress = _extract_processes(config, missing, folder, workers // processes, processes)
                else:
                    progress = _extract_threads(config, missing, folder, workers)
                _show_progress(progress, len(rows), sum(map(len, missing.values())))
    return read_result(folder, shards)


def _show_progress(progress: Progress, images: int, missing: int) -> None:
    # Without smoothing, because the shards of several processes finish in bursts.
    bar = tqdm(None, "extracting features", images, initial=images - missing, unit="image", smoothing=0, disable=None)
    with closing(progress), bar:
        for count in progress:
            bar.update(count)


def make_shards(config: ExtractionConfig, shards: Shards, folder: Path, threads: int) -> None:
    """Write the files of `shards` to `folder`. A process, or a task of a cluster, runs this function."""
    for _ in _extract_threads(config, shards, folder, threads):
        pass


def _extract_processes(config: ExtractionConfig, shards: Shards, folder: Path, threads: int, count: int) -> Progress:
    unfinished = dict(shards)
    parts = [dict(list(shards.items())[first::count]) for first in range(count)]
    with worker_processes(count) as pool:
        pending = {pool.submit(make_shards, config, part, folder, threads) for part in parts}
        try:
            while pending:
                done, pending = wait(pending, timeout=0.5)
                for number in [number for number in unfinished if is_complete(folder, number)]:
                    yield len(unfinished.pop(number))
                for future in done:
                    future.result()
        except BaseException:
            for process in active_children():  # otherwise they would finish their part
                process.terminate()
            raise


def _extract_threads(config: ExtractionConfig, shards: Shards, folder: Path, threads: int) -> Progress:
    archives, local = Archives(config.raw), threading.local()
    fused = config.backbone.fuse_batchnorm()
    fused.network.to(device())

    def init_thread() -> None:
        torch.set_num_threads(1)  # OpenMP's setting is per thread: each worker runs its layers on its own core
        local.backbone = fused.replica()

    def extract_batch(rows: list[ImageRow]) -> _Results:
        return _extract_batch(rows, archives, local.backbone, config)

    size = config.batch_size
    batches = (rows[first : first + size] for rows in shards.values() for first in range(0, len(rows), size))
    num_threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads, initializer=init_thread)
    try:
        # Submit only a few batches at a time, to limit the memory.
        pending = deque(pool.submit(extract_batch, batch) for batch in islice(batches, 2 * threads))
        for number, rows in shards.items():
            results: _Results = []
            while len(results) < len(rows):
                batch_results = pending.popleft().result()
                pending.extend(pool.submit(extract_batch, batch) for batch in islice(batches, 1))
                results += batch_results
                yield len(batch_results)
            write_shard(folder, number, [image_id for image_id, *_ in rows], results)
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(num_threads)  # restore it, because MKL's setting is per process


def _process_count(shards: int, workers: int) -> int:
    """Return the number of processes: on a GPU, several if the work is long enough to be worth their start."""
    return min(workers // _THREADS_PER_PROCESS, shards // _MIN_SHARDS_PER_PROCESS) if device().type == "cuda" else 1


def _extract_batch(rows: list[ImageRow], archives: Archives, backbone: Backbone, config: ExtractionConfig) -> _Results:
    results: _Results = [decoded_pixels(archives, backbone.preprocess, row)[1] for row in rows]
    readable = [i for i, result in enumerate(results) if isinstance(result, np.ndarray)]
    if readable:
        pixels = torch.from_numpy(np.stack([results[i] for i in readable])).to(device())
        features = backbone.features(pixels, config.kind, config.precision).to("cpu", torch.float16)
        finite = features.isfinite().flatten(1).all(dim=1)  # (n,)
        if not finite.all():
            image_id, *_ = rows[readable[finite.tolist().index(False)]]
            problem = f"features that are not finite as float16, for image {image_id}"
            fix = "Check backbone.weights, backbone.mean and backbone.std."
            raise UserError(f"{backbone.name} gives {problem}. {fix}")
        for i, image_features in zip(readable, features.numpy(), strict=True):
            results[i] = image_features
    return results


def read_result(folder: Path, shards: Iterable[int]) -> ExtractionResult:
    """Return what the complete files of `shards` in `folder` say."""
    report = pd.concat([read_table(_report_path(folder, n)).assign(shard=n) for n in shards], ignore_index=True)
    readable = report["row"] >= 0
    index, skipped = (report[rows].reset_index(drop=True) for rows in (readable, ~readable))
    return ExtractionResult(folder, index[["image_id", "shard", "row"]], skipped[["image_id", "reason"]])


def is_complete(folder: Path, number: int) -> bool:
    """Return whether both files exist. The report is written last, but verify_cache may remove a damaged shard."""
    return _report_path(folder, number).exists() and shard_path(folder, number).exists()


def _report_path(folder: Path, number: int) -> Path:
    """Return the path of the table of a shard's images: image_id, row (-1 if skipped), reason."""
    return folder / f"report-{number:05d}.parquet"


def write_shard(folder: Path, number: int, image_ids: list[int], results: _Results) -> None:
    """Write a shard and its report, atomically."""
    features = [result for result in results if isinstance(result, np.ndarray)]
    reasons = pd.array([None if isinstance(result, np.ndarray) else result for result in results], dtype="str")
    rows = np.where(reasons.isna(), np.cumsum(reasons.isna()) - 1, -1)
    with atomic_write(shard_path(folder, number)) as path, path.open("wb") as file:
        np.save(file, np.stack(features) if features else np.empty((0, 0, 0), np.float16))
    with atomic_write(_report_path(folder, number)) as path:
        pd.DataFrame({"image_id": image_ids, "row": rows, "reason": reasons}).to_parquet(path, index=False)
