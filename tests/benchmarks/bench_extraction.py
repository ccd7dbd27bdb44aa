"""Feature extraction from photographs against the bare CNN on tensors that lie ready, in the same run."""

import statistics
import time
import zipfile
from collections.abc import Callable

import pandas as pd
import pytest
import torch

from lib.core.workers import worker_count
from lib.extraction.extract import ExtractionConfig, extract
from lib.vision.backbones import random_init
from lib.vision.images import Archives, decoded_pixels, image_rows, read_pixels
from tests.realdata import REALDATA, needs_realdata

BATCH = 32
REPEATS = 3
ZIP = "val2017-sample.zip"  # 160 photographs of COCO at full size


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """Wall and processor time."""
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - processor


@needs_realdata
@pytest.mark.parametrize(("name", "rounds"), [("resnet50", 2), ("mobilenet_v3_large", 6)])
@pytest.mark.parametrize("pairs", [5])
def test_extraction_against_the_bare_cnn(name, rounds, pairs, tmp_path, capsys):
    raw = REALDATA / "coco"
    with zipfile.ZipFile(raw / ZIP) as archive:
        members = [member for member in archive.namelist() if member.endswith(".jpg")]
    photographs = pd.DataFrame({"image_id": range(len(members)), "archive": ZIP, "member": members})
    images = pd.concat([photographs] * rounds, ignore_index=True)
    torch.manual_seed(0)
    backbone = random_init(name)
    pixels, _ = read_pixels(photographs, raw, backbone.preprocess, workers=worker_count())
    ready = [backbone.preprocess.normalise(part) for part in torch.from_numpy(pixels).split(BATCH)]
    config = ExtractionConfig(raw, backbone, "pooled", "float32", BATCH)

    @torch.inference_mode()
    def bare() -> None:
        for _ in range(rounds):
            for x in ready:
                backbone.network(x)

    def decoding() -> None:
        archives = Archives(raw)
        for row in image_rows(photographs):
            decoded_pixels(archives, backbone.preprocess, row)

    bare()
    ratios, bounds = [], []
    for number in range(pairs):
        wall, processor = seconds(bare)
        ours, _ = seconds(lambda n=number: extract(images, config, tmp_path / str(n), worker_count()))
        _, spent = seconds(decoding)
        ratios.append(wall / ours)
        bounds.append(processor / (processor + rounds * spent))
    with capsys.disabled():
        print(
            f"\nextraction over bare {name}, {len(images)} photographs of COCO: images per second "
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}); "
            f"the bare CNN's (unfused) share of the processor time of CNN and decoding: {statistics.median(bounds):.2f}"
        )
