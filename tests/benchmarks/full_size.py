"""Every stage at COCO's size: seconds, cost of an image and memory as the data grows.

`make full-size` runs it at 1,000, 10,000 and 123,287 images in a folder of its own, which it removes; the numbers of
images may be given instead. The pictures have as many pixels as COCO's; a few hundred are drawn and stored again and
again, as a data set of the user's own, for no stage knows one from another. One epoch of training, and a CNN at random
weights: neither changes what a step costs. A stage has ended when what it wrote is on the disk: till then a few
gigabytes cost as good as nothing, for they lie in memory, and more do not. Memory is what the processes hold of their
own (Linux's RssAnon), beside the files that are mapped into them.
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
from lib.vision.backbones import build
from tests.miniature import draw
from tests.stages.imports import ROOT
from tests.stages.tiny import STAGES, write_params

SIZES = (1_000, 10_000, 123_287)
HELD_OUT = 5_000 / 123_287  # COCO's share of val, and of test
DRAWN = 400  # pictures
SIDE = 554  # pixels: a square has as many as COCO's 640 x 480
LOCAL = {
    "dataset.name": "local", "dataset.local.images": "images.zip", "dataset.local.annotations": "captions.json",
    "backbone.weights": "weights.safetensors", "vocabulary.min_count": 5,
}  # fmt: skip
SETTINGS = {
    "backbone.name": "small_net", "model.embedding": 128, "model.hidden": 128, "train.batch_size": 128,
    "train.epochs": 1,
}  # fmt: skip


def drawings() -> dict[int, tuple[bytes, list[str]]]:
    """A few JPEGs of COCO's size, with five captions each."""
    with worker_processes(worker_count()) as pool:
        parts = pool.map(partial(draw, size=SIDE), ([number] for number in range(DRAWN)), chunksize=DRAWN // 40)
        shown = tqdm(parts, "drawing", DRAWN, unit="picture", disable=None)
        return {number: drawn for part in shown for number, drawn in part.items()}


def prepare(folder: Path, pictures: Sequence[tuple[bytes, list[str]]], settings: Mapping[str, Any]) -> None:
    """Writes a data set of JPEGs with their captions, the params, and the CNN that they name, at random weights."""
    held_out = round(len(pictures) * HELD_OUT)
    splits = ["val"] * held_out + ["test"] * held_out + ["train"] * (len(pictures) - 2 * held_out)
    write_stored_zip(folder / "images.zip", ((f"{number}.jpg", jpeg) for number, (jpeg, _) in enumerate(pictures)))
    rows = [
        {
            "imgid": number,
            "filename": f"{number}.jpg",
            "split": split,
            "sentences": [{"raw": text} for text in captions],
        }
        for number, (split, (_, captions)) in enumerate(zip(splits, pictures, strict=True))
    ]
    (folder / "captions.json").write_text(json.dumps({"images": rows}))
    write_params(folder, **LOCAL, **settings)
    (folder / "data/ensemble").mkdir(parents=True)
    torch.manual_seed(0)
    save_file(build(settings["backbone.name"]).state_dict(), folder / "weights.safetensors")


def anonymous(session: int) -> float:
    """MB that the processes of a session hold of their own."""
    held = 0
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            fields = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
            if int((status.parent / "stat").read_text().rpartition(")")[2].split()[3]) == session:
                held += int(fields.get("RssAnon", "0").split()[0])
        except (FileNotFoundError, ProcessLookupError):  # a process that has ended
            continue
    return held / 1024


def run(stage: str, folder: Path) -> tuple[float, float]:
    """Runs a stage as DVC does; returns the seconds until its outputs were on the disk, and the most MB it held."""
    os.sync()
    start, most = time.perf_counter(), 0.0
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); import runpy; "
               f"runpy.run_module('stages.{stage}', run_name='__main__')"]  # fmt: skip
    with (folder / f"{stage}.log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True)
        while process.poll() is None:
            most = max(most, anonymous(process.pid))
            time.sleep(0.2)
    if process.returncode:
        sys.exit(f"{stage}: {(folder / f'{stage}.log').read_text()[-2000:]}")
    os.sync()
    return time.perf_counter() - start, most


def main(sizes: list[int]) -> None:
    print("| stage | " + " | ".join(f"{images:,} images: s, ms an image, MB" for images in sizes) + " |")
    print("|---" * (len(sizes) + 1) + "|")
    rows: dict[str, list[str]] = {stage: [] for stage in STAGES}
    drawn = drawings()
    for images in sizes:
        with tempfile.TemporaryDirectory() as name:
            prepare(Path(name), [drawn[number % DRAWN] for number in range(images)], SETTINGS)
            for stage, cells in rows.items():
                seconds, megabytes = run(stage, Path(name))
                cells.append(f"{seconds:.1f}, {1000 * seconds / images:.2f}, {megabytes:.0f}")
                print(f"{images} images, {stage}: {cells[-1]}", file=sys.stderr, flush=True)
    for stage, cells in rows.items():
        print(f"| {stage} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main([int(images) for images in sys.argv[1:]] or list(SIZES))
