"""Compare feature extraction from photographs with the CNN alone on tensors in memory. `make bench` prints ratios."""

import time
import zipfile
from collections.abc import Callable
from statistics import median

import pandas as pd
import pytest
import torch

from lib.core.workers import worker_count
from lib.extraction.extract import ExtractionConfig, extract
from lib.vision.backbones import random_init
from lib.vision.images import Archives, decoded_pixels, image_rows, read_pixels
from tests.realdata import REALDATA, needs_realdata

BATCH, PAIRS = 32, 5
ZIP = "val2017-sample.zip"  # 160 photographs of COCO at full size


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """Return the elapsed time and the processor time."""
    elapsed, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - elapsed, time.process_time() - processor


@needs_realdata
@pytest.mark.parametrize(
    ("name", "rounds"), [("resnet50", 2), ("timm/tf_efficientnet_lite2", 4), ("mobilenet_v3_large", 6)]
)
def test_extraction_against_the_cnn_alone(name, rounds, tmp_path, show):
    raw = REALDATA / "coco"
    with zipfile.ZipFile(raw / ZIP) as archive:
        members = [member for member in archive.namelist() if member.endswith(".jpg")]
    photographs = pd.DataFrame({"image_id": range(len(members)), "archive": ZIP, "member": members})
    images = pd.concat([photographs] * rounds, ignore_index=True)
    torch.manual_seed(0)
    backbone = random_init(name)
    pixels, _ = read_pixels(photographs, raw, backbone.preprocess, workers=worker_count())
    batches = [backbone.preprocess.normalise(part) for part in torch.from_numpy(pixels).split(BATCH)]
    config = ExtractionConfig(raw, backbone, "pooled", "float32", BATCH)

    @torch.inference_mode()
    def cnn_alone() -> None:
        for x in batches * rounds:
            backbone.network(x)

    def decoding() -> None:
        archives = Archives(raw)
        for row in image_rows(photographs):
            decoded_pixels(archives, backbone.preprocess, row)

    cnn_alone()
    ratios, shares = [], []
    for number in range(PAIRS):
        elapsed, processor = seconds(cnn_alone)
        ours, _ = seconds(lambda n=number: extract(images, config, tmp_path / str(n), worker_count()))
        ratios.append(elapsed / ours)
        shares.append(processor / (processor + rounds * seconds(decoding)[1]))
    show(
        f"extraction over {name} alone, {len(images)} photographs of COCO: images per second "
        f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}); "
        f"share of the CNN (BatchNorm not fused) in the processor time of CNN and decoding: {median(shares):.2f}"
    )
