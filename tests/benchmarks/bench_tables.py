"""Seconds and memory of the captions stage at the size of COCO. `make bench` prints them."""

import json
import os
import subprocess
import sys
import time
from itertools import cycle, islice
from pathlib import Path

from tests import miniature
from tests.realdata import REALDATA, needs_realdata
from tests.stages.imports import ROOT
from tests.stages.tiny import write_params

SOURCE = REALDATA / "coco/captions_val2017.json"
IMAGES, CAPTIONS = 123_287, 616_767
IN_TRAIN2014, IN_VAL, IN_TEST = 82_783, 5_000, 5_000  # number of images; the other images of val2014 are restval

# Run a command and print its peak memory in bytes. Run it from this small process, not from pytest, because on Linux
# the peak of a child includes the memory that its parent had at the start.
MEASURED = """
import os, subprocess, sys
_, status, usage = os.wait4(subprocess.Popen(sys.argv[1:]).pid, 0)
print(usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024))
sys.exit(os.waitstatus_to_exitcode(status))
"""


def write_raw(raw: Path) -> None:
    """Write annotations of the size of coco2014: the captions of val2017, repeated with new ids."""
    source = cycle(row["caption"] for row in json.loads(SOURCE.read_bytes())["annotations"])
    parts = {i: "train2014" if i <= IN_TRAIN2014 else "val2014" for i in range(1, IMAGES + 1)}
    names = {i: f"COCO_{part}_{i:012d}.jpg" for i, part in parts.items()}
    annotations: dict[str, dict[str, list]] = {part: {"images": [], "annotations": []} for part in parts.values()}
    lists: dict[str, list] = {"train": [], "val": [], "test": []}
    for i, part in parts.items():
        # Five captions per image, and six for some images, as in COCO.
        captions = list(islice(source, 5 + (i <= CAPTIONS - 5 * IMAGES)))
        annotations[part]["images"].append({"id": i, "file_name": names[i], "height": 480, "width": 640})
        rows = [{"image_id": i, "id": number, "caption": caption} for number, caption in enumerate(captions, 6 * i)]
        annotations[part]["annotations"] += rows
        image, in_val2014 = f"{part}/{names[i]}", i - IN_TRAIN2014
        if 0 < in_val2014 <= IN_VAL + IN_TEST:
            lists["val" if in_val2014 <= IN_VAL else "test"].append({"image": image, "caption": captions})
        else:
            lists["train"] += [{"caption": caption, "image": image, "image_id": f"coco_{i}"} for caption in captions]
    raw.mkdir(parents=True)
    miniature.write_annotations(raw, 2014, annotations)
    for split, rows in lists.items():
        (raw / f"coco_karpathy_{split}.json").write_text(json.dumps(rows))


@needs_realdata
def test_captions_of_coco(tmp_path, show):
    write_raw(tmp_path / "data/raw")
    write_params(tmp_path, **{"dataset.name": "coco2014", "dataset.limit": None, "vocabulary.min_count": 5})
    command = [sys.executable, "-c", MEASURED, sys.executable, "-m", "stages.captions"]
    env, start = {**os.environ, "PYTHONPATH": str(ROOT)}, time.perf_counter()
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    assert done.returncode == 0, done.stdout + done.stderr
    *_, summary, peak = done.stdout.strip().split("\n")
    assert summary.startswith(f"{IMAGES} images, {CAPTIONS} captions")
    show(f"the captions stage, {summary}: {seconds:.1f} s, {int(peak) / 1e9:.2f} GB peak")
