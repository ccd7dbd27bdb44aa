"""Measure seconds, milliseconds per image and memory of each stage as the data grows to COCO's size.

`make full-size` runs it on 1,000, 10,000 and 123,287 images, or on the given numbers of images, in a temporary folder.
The images have as many pixels as COCO's. A few hundred images are drawn; the data set `local` repeats them. Training
has one epoch, and the CNN has random weights, because neither changes the cost of a step. A stage ends when
its outputs are on the disk. Memory is anonymous memory (Linux's RssAnon), which excludes mapped files.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tqdm import tqdm

from lib.core.workers import worker_count, worker_processes
from lib.core.zips import write_stored_zip
from lib.vision.networks import find_source
from tests.miniature import draw
from tests.stages.imports import ROOT
from tests.stages.tiny import STAGES, write_params

SIZES = (1_000, 10_000, 123_287)
HELD_OUT = 5_000 / 123_287  # share of COCO's images in val; also in test
DRAWN = 400  # images
SIDE = 554  # pixels per side: as many pixels as 640 x 480, COCO's size
LOCAL = {
    "dataset.name": "local", "dataset.local.images": "images.zip", "dataset.local.annotations": "captions.json",
    "backbone.weights": "weights.safetensors", "vocabulary.min_count": 5,
}  # fmt: skip
SETTINGS = {
    "backbone.name": "small_net", "model.embedding": 128, "model.hidden": 128, "train.batch_size": 128,
    "train.epochs": 1,
}  # fmt: skip


def drawings() -> list[tuple[bytes, list[str]]]:
    """Return some JPEGs of COCO's size, with five captions each."""
    with worker_processes(worker_count()) as pool:
        parts = pool.map(partial(draw, size=SIDE), ([number] for number in range(DRAWN)), chunksize=DRAWN // 40)
        bar = tqdm(parts, "drawing", DRAWN, unit="image", disable=None)
        return [drawn for part in bar for drawn in part.values()]


def prepare(folder: Path, images: Sequence[tuple[bytes, list[str]]], settings: Mapping[str, Any]) -> None:
    """Write a data set of JPEGs with captions, the params, and random weights of the CNN."""
    held_out = round(len(images) * HELD_OUT)
    splits = ["val"] * held_out + ["test"] * held_out + ["train"] * (len(images) - 2 * held_out)
    write_stored_zip(folder / "images.zip", ((f"{number}.jpg", jpeg) for number, (jpeg, _) in enumerate(images)))
    rows = [
        {"imgid": i, "filename": f"{i}.jpg", "split": split, "sentences": [{"raw": text} for text in captions]}
        for i, (split, (_, captions)) in enumerate(zip(splits, images, strict=True))
    ]
    (folder / "captions.json").write_text(json.dumps({"images": rows}))
    write_params(folder, **LOCAL, **settings)
    (folder / "data/ensemble").mkdir(parents=True)
    torch.manual_seed(0)
    save_file(find_source(settings["backbone.name"]).build(64).state_dict(), folder / "weights.safetensors")


def anonymous(session: int) -> float:
    """Return the anonymous memory of the processes of a session in MB."""
    kilobytes = 0
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            fields = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
            if int((status.parent / "stat").read_text().rpartition(")")[2].split()[3]) == session:
                kilobytes += int(fields.get("RssAnon", "0").split()[0])
        except (FileNotFoundError, ProcessLookupError):  # a process that has ended
            continue
    return kilobytes / 1024


def run(stage: str, folder: Path) -> tuple[float, float]:
    """Run a stage as DVC does. Return the seconds until its outputs are on the disk, and its peak memory in MB."""
    os.sync()
    start, most, log = time.perf_counter(), 0.0, folder / f"{stage}.log"
    command, env = [sys.executable, "-m", f"stages.{stage}"], {**os.environ, "PYTHONPATH": str(ROOT)}
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=folder, env=env, stdout=output, stderr=output, start_new_session=True)
        while process.poll() is None:
            most = max(most, anonymous(process.pid))
            time.sleep(0.2)
    if process.returncode:
        sys.exit(f"{stage}: {log.read_text()[-2000:]}")
    os.sync()
    return time.perf_counter() - start, most


def main(sizes: list[int]) -> None:
    print("| stage | " + " | ".join(f"{count:,} images: s, ms per image, MB" for count in sizes) + " |")
    print("|---" * (len(sizes) + 1) + "|")
    rows: dict[str, list[str]] = {stage: [] for stage in STAGES}
    drawn = drawings()
    for count in sizes:
        with tempfile.TemporaryDirectory() as name:
            prepare(Path(name), [drawn[number % DRAWN] for number in range(count)], SETTINGS)
            for stage, cells in rows.items():
                seconds, megabytes = run(stage, Path(name))
                cells.append(f"{seconds:.1f}, {1000 * seconds / count:.2f}, {megabytes:.0f}")
                print(f"{count} images, {stage}: {cells[-1]}", file=sys.stderr, flush=True)
    for stage, cells in rows.items():
        print(f"| {stage} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main([int(count) for count in sys.argv[1:]] or list(SIZES))
