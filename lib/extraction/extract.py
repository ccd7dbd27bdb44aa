"""Running a CNN over a data set: images in, float16 feature shards and a table of skipped images out.

The unit of work is a batch, which one worker takes all the way from the zip to features: reading, decoding and
the CNN itself, on one core. Workers then never wait for one another: on two cores that is faster than two cores
sharing each layer while others decode. On a GPU the workers' decoding overlaps the GPU's work in the same way; there
may be so many of them that they are divided among processes.

The unit of storage, and of work on a cluster, is a shard, a fixed slice of the images table. It is written when it
is whole, and found when an interrupted extraction starts again. No result depends on the number of workers, nor on who
they are: threads of this process or of several, or the tasks of a Ray cluster.
"""

import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from multiprocessing import active_children
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from lib.core.errors import UserError
from lib.core.files import atomic_write, stat_signature
from lib.core.tables import read_table
from lib.core.workdir import fingerprint, locked
from lib.core.workers import worker_processes
from lib.extraction import ray_cluster as cluster
from lib.extraction.ray_cluster import Cluster
from lib.features.store import shard_path
from lib.runtime.device import device
from lib.vision.backbones import Backbone
from lib.vision.images import Archives
from lib.vision.pixels import ImageRow, decoded_pixels, image_rows

SHARD_SIZE = 2048  # images
_THREADS = 4  # of a process, where there are several
_SHARDS = 8  # that make another process worth its start


@dataclass(frozen=True)
class ExtractionConfig:
    """How images become features; `kind` and `precision` as in `Backbone.features`."""

    raw: Path
    backbone: Backbone
    kind: str
    precision: str
    batch_size: int


@dataclass(frozen=True)
class ExtractionResult:
    """What came of an extraction."""

    folder: Path  # of the shards
    index: pd.DataFrame  # where each feature is: image_id, shard, row
    skipped: pd.DataFrame  # the images that have none: image_id, reason


def extract(
    images: pd.DataFrame, how: ExtractionConfig, scratch: Path, workers: int, code: Sequence[Path] = ()
) -> ExtractionResult:
    """Makes the feature shards of `images` (image_id, archive, member), in its order, in a folder within `scratch`.

    The work is done by `workers` threads of this process, or by the Ray cluster at RAY_ADDRESS where that is set.
    The folder is named by all that the features depend on, the files `code` included: shards found there are not made
    again.
    Raises UserError for features that float16 cannot hold, and where the cluster cannot do the work.
    """
    rows = image_rows(images)
    shards = {first // SHARD_SIZE: rows[first : first + SHARD_SIZE] for first in range(0, len(rows), SHARD_SIZE)}
    with cluster.connected() if cluster.asked() else nullcontext() as nodes:
        folder = scratch / _fingerprint(rows, how, nodes.device_type if nodes else device().type, code)
        with locked(folder):
            _make_missing(shards, how, folder, workers, nodes)
    reports = [read_table(_report_path(folder, number)).assign(shard=number) for number in shards]
    report = pd.concat(reports, ignore_index=True)
    has = report["row"] >= 0
    return ExtractionResult(
        folder,
        report.loc[has, ["image_id", "shard", "row"]].reset_index(drop=True),
        report.loc[~has, ["image_id", "reason"]].reset_index(drop=True),
    )


def _fingerprint(rows: list[ImageRow], how: ExtractionConfig, device_type: str, code: Sequence[Path]) -> str:
    return fingerprint(
        rows,
        [stat_signature(how.raw / archive) for archive in sorted({archive for _, archive, _ in rows})],
        how.backbone.weights(),
        [how.backbone.name, asdict(how.backbone.preprocess), how.kind, how.precision, how.batch_size, SHARD_SIZE],
        [torch.__version__, device_type],
        *code,
    )


def _make_missing(
    shards: Mapping[int, list[ImageRow]], how: ExtractionConfig, folder: Path, workers: int, nodes: Cluster | None
) -> None:
    """Makes the shards that are not in `folder` yet, here or on a cluster."""
    missing = {number: rows for number, rows in shards.items() if not _is_whole(folder, number)}
    if not missing:
        return
    total, left = (sum(map(len, some.values())) for some in (shards, missing))
    with tqdm(  # without smoothing: a cluster's shards come in bursts
        desc="extracting features", total=total, initial=total - left, unit="image", smoothing=0, disable=None
    ) as progress:
        if nodes:
            _make_on(nodes, missing, how, folder, progress)
        elif (processes := _processes(len(missing), workers)) > 1:
            _make_in(processes, missing, how, folder, workers, progress)
        else:
            _make(missing, folder, workers, how=how, done=progress.update)


def _make_on(
    nodes: Cluster, shards: Mapping[int, list[ImageRow]], how: ExtractionConfig, folder: Path, bar: tqdm
) -> None:
    """Makes some shards on a cluster."""
    how = replace(how, raw=how.raw.absolute())  # a task has another working directory
    archives = sorted({how.raw / archive for rows in shards.values() for _, archive, _ in rows})
    finished = nodes.run(partial(_make, how=how), shards, folder.absolute(), archives)
    for done, number in enumerate(finished, 1):
        bar.set_postfix_str(f"{done} of the {len(shards)} missing shards", refresh=False)
        bar.update(len(shards[number]))


def _processes(shards: int, workers: int) -> int:
    """How many to divide the workers among: several where they feed a GPU, and for long enough to be worth their start.

    The threads of a process take turns in all that is Python: more than a few would keep each other waiting.
    """
    return min(workers // _THREADS, shards // _SHARDS) if device().type == "cuda" else 1


def _make_in(
    processes: int, shards: Mapping[int, list[ImageRow]], how: ExtractionConfig, folder: Path, workers: int, bar: tqdm
) -> None:
    """Makes some shards on this machine in several processes."""
    left = dict(shards)
    parts = [dict(list(shards.items())[first::processes]) for first in range(processes)]
    with worker_processes(processes) as pool:
        pending = {pool.submit(_make, part, folder, workers // processes, how=how) for part in parts}
        try:
            while pending:
                done, pending = wait(pending, timeout=0.5)
                for number in [number for number in left if _is_whole(folder, number)]:
                    bar.update(len(left.pop(number)))
                for part in done:
                    part.result()
        except BaseException:
            for process in active_children():  # else they would go on to the end of their part
                process.terminate()
            raise


def _make(
    shards: Mapping[int, list[ImageRow]],
    folder: Path,
    workers: int,
    *,
    how: ExtractionConfig,
    done: Callable[[int], object] = lambda images: None,
) -> None:
    """Makes some shards on this machine; calls `done` with each number of images that are."""
    archives = Archives(how.raw)
    fused = how.backbone.fuse_batchnorm()
    fused.network.to(device())

    own = threading.local()

    def start() -> None:
        torch.set_num_threads(1)  # OpenMP counts for each thread apart: here a layer runs on the worker's own core
        own.backbone = fused.replica()

    def work(batch: tuple[int, list[ImageRow]]) -> tuple[int, _Part]:
        number, rows = batch
        return number, _featured(rows, archives, own.backbone, how)

    batches = [
        (number, rows[first : first + how.batch_size])
        for number, rows in shards.items()
        for first in range(0, len(rows), how.batch_size)
    ]
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(workers, initializer=start) as pool:
            results = _in_order(pool, work, batches, ahead=2 * workers)
            for number, group in itertools.groupby(results, key=lambda result: result[0]):
                parts = []
                for _, part in group:
                    parts.append(part)
                    done(len(part.image_ids))
                _write_shard(folder, number, parts)
    finally:
        torch.set_num_threads(threads)  # MKL counts for the whole process
        archives.close()


@dataclass(frozen=True)
class _Part:
    """A batch's results."""

    image_ids: list[int]
    reasons: list[str | None]  # why an image has no features; None where it has
    features: np.ndarray | None  # of the images that have: (n, P, C) float16


def _featured(batch: Sequence[ImageRow], archives: Archives, backbone: Backbone, how: ExtractionConfig) -> _Part:
    found = [decoded_pixels(archives, backbone.preprocess, row)[1] for row in batch]
    good = [pixels for pixels in found if isinstance(pixels, np.ndarray)]
    reasons = [None if isinstance(pixels, np.ndarray) else pixels for pixels in found]
    image_ids = [image_id for image_id, *_ in batch]
    if not good:
        return _Part(image_ids, reasons, None)
    pixels = torch.from_numpy(np.stack(good)).to(device())
    features = backbone.features(pixels, how.kind, how.precision).to("cpu", torch.float16)
    if not features.isfinite().all():
        raise UserError(
            f"{backbone.name} gives features that are not numbers of float16 for image {image_ids[0]} "
            f"or one of the {len(batch) - 1} after it: check backbone.weights, mean and std"
        )
    return _Part(image_ids, reasons, features.numpy())


Item = TypeVar("Item")
Result = TypeVar("Result")


def _in_order(
    pool: ThreadPoolExecutor, work: Callable[[Item], Result], items: Sequence[Item], ahead: int
) -> Iterator[Result]:
    """The results of `work` on the items, of which at most `ahead` are under way or waiting to be taken."""
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def _is_whole(folder: Path, number: int) -> bool:
    """The report is written last; but a damaged shard may have been removed since (`make verify MEND=1`)."""
    return _report_path(folder, number).exists() and shard_path(folder, number).exists()


def _report_path(folder: Path, number: int) -> Path:
    """What became of a shard's images: image_id, row (or -1), reason."""
    return folder / f"report-{number:05d}.parquet"


def _write_shard(folder: Path, number: int, parts: Sequence[_Part]) -> None:
    reasons = [reason for part in parts for reason in part.reasons]
    read = np.array([reason is None for reason in reasons])
    report = pd.DataFrame({
        "image_id": [image_id for part in parts for image_id in part.image_ids],
        "row": np.where(read, np.cumsum(read) - 1, -1),
        "reason": pd.array(reasons, dtype="str"),
    })  # fmt: skip
    made = [part.features for part in parts if part.features is not None]
    features = np.concatenate(made) if made else np.empty((0, 0, 0), np.float16)
    with atomic_write(shard_path(folder, number)) as path, path.open("wb") as file:
        np.save(file, features)
    with atomic_write(_report_path(folder, number)) as path:
        report.to_parquet(path, index=False)
