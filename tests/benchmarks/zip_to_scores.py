"""Time each stage from a zip of COCO's size to scores, with lower bounds for some stages on this machine.

`make zip-to-scores` runs it, on a GPU if there is one: ResNet-50 with random weights, pooled features, an LSTM of 512
units, 10 epochs in bfloat16 (on a CPU in float32), then one epoch of self-critical training. The images are drawn as in
full_size.py; the argument is their number. The captions are random words, with the number, length and vocabulary size
of COCO's captions, because the few words of `scenes` would make the softmax too cheap.
"""

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from lib.core.workers import worker_count
from lib.runtime.device import device
from lib.vision.backbones import random_init
from lib.vision.images import decode
from tests.benchmarks.full_size import DRAWN, HELD_OUT, LOCAL, drawings, prepare, run
from tests.benchmarks.timing import peak_rate
from tests.stages.tiny import STAGES, write_params

IMAGES, EACH = 123_287, 5  # images, captions per image
VOCABULARY, WORDS = 9_484, 10.5  # words of the vocabulary, mean words per caption
EPOCHS, SIZE, BEAM, SAMPLES = 10, 512, 5, 5
SCST = "finetune, one epoch of SCST"
ON_GPU = device().type == "cuda"
PRECISION = "bfloat16" if ON_GPU else "float32"  # few CPUs compute in bfloat16
SETTINGS = {
    "backbone.name": "resnet50", "features.kind": "pooled", "features.precision": PRECISION,
    "features.batch_size": 128,
    "model.attention": "none", "model.embedding": SIZE, "model.hidden": SIZE, "model.dropout": 0.3,
    "train.epochs": EPOCHS, "train.batch_size": 1024, "train.label_smoothing": 0.1, "train.ema_decay": 0.995,
    "train.precision": PRECISION, "train.monitor": "val_cider_d", "generate.beam_size": BEAM,
}  # fmt: skip
SCST_SETTINGS = {"finetune.epochs": 1, "finetune.samples": SAMPLES, "finetune.batch_size": 256}


def sentences(number: int) -> Iterator[str]:
    """Draw captions of random words; the frequency of the k-th word is proportional to 1 / k."""
    rng = np.random.default_rng(1)
    lengths = rng.normal(WORDS, 2.4, number).round().clip(6, 20).astype(int)
    share = np.cumsum(1 / np.arange(1, VOCABULARY + 1))
    words = np.searchsorted(share, rng.random(lengths.sum()) * share[-1])
    for caption in np.split(words, np.cumsum(lengths)[:-1]):
        yield " ".join(map(spelt, caption.tolist()))


def spelt(number: int) -> str:
    """Return a word of three syllables, because the tokenizer is slower on words with digits."""
    syllables = [number // 85**place % 85 for place in range(3)]
    return "".join("bcdfghjklmnprstvz"[syllable // 5] + "aeiou"[syllable % 5] for syllable in syllables)


def lower_bounds(folder: Path, jpegs: list[bytes], images: int) -> dict[str, str]:
    """Return, per stage, the minimum number of seconds and the operation that needs them."""
    train = images * (1 - 2 * HELD_OUT)
    # Captions are always decoded in float32.
    rate, decoding_rate = (peak_rate(device=device(), dtype=getattr(torch, kind)) for kind in (PRECISION, "float32"))
    backbone = random_init("resnet50")
    size = backbone.preprocess.size
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        backbone.network(torch.zeros(1, 3, size, size))
    start = time.perf_counter()
    for jpeg in jpegs:
        backbone.preprocess.pixels(decode(jpeg, backbone.preprocess.min_decode_size))
    reading = (time.perf_counter() - start) / len(jpegs) * images / worker_count()
    start = time.perf_counter()
    with (folder / "images.zip").open("rb") as source, (folder / "copy").open("wb") as copy:
        shutil.copyfileobj(source, copy, 1 << 24)
        copy.flush()
        os.fsync(copy.fileno())
    copying = time.perf_counter() - start
    (folder / "copy").unlink()
    word = 2 * (2 * SIZE * 4 * SIZE + SIZE * VOCABULARY)  # operations per word
    epoch = train * EACH * (WORDS + 1) * 3 * word / rate
    # 4: one forward pass to sample, and one forward and two backward products to train
    drawn = train * SAMPLES * (WORDS + 1) * 4 * word / decoding_rate
    rates = f"{rate / 1e12:.2f} TFLOP/s in {PRECISION}, {decoding_rate / 1e12:.2f} in float32"
    print(f"{device()}: {rates}; {worker_count()} cores", file=sys.stderr)
    return {
        "download": f"{copying:.1f} to copy the zip",
        "features": f"{reading:.1f} to decode, {counter.get_total_flops() * images / rate:.1f} for matrix products",
        "train": f"{EPOCHS * epoch:.1f} for matrix products",
        "generate": f"{2 * images * HELD_OUT * BEAM * (WORDS + 1) * word / decoding_rate:.1f} for matrix products",
        SCST: f"{drawn:.1f} for matrix products",
    }


def main(images: int) -> None:
    jpegs, captions = [jpeg for jpeg, _ in drawings()], sentences(EACH * images)
    content = [(jpegs[number % DRAWN], [next(captions) for _ in range(EACH)]) for number in range(images)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, content, SETTINGS)
        least = lower_bounds(folder, jpegs, images)
        held_out = round(images * HELD_OUT)
        work = {
            "download": (images, "images"), "captions": (EACH * images, "captions"), "features": (images, "images"),
            "train": (EPOCHS * EACH * (images - 2 * held_out), "captions"), "generate": (2 * held_out, "captions"),
            "evaluate": (2 * held_out, "captions"), "report": (held_out, "images"),
            SCST: (SAMPLES * (images - 2 * held_out), "captions"),
        }  # fmt: skip
        print("| stage | s | per second | lower bound, s | MB |\n|---|---|---|---|---|")

        def timed(name: str, stage: str) -> float:
            seconds, megabytes = run(stage, folder)
            count, unit = work.get(name, (0, ""))
            speed = f"{count / seconds:,.0f} {unit}" if count else ""
            print(f"| {name} | {seconds:.1f} | {speed} | {least.get(name, '')} | {megabytes:.0f} |", flush=True)
            epochs = [line for line in (folder / f"{stage}.log").read_text().splitlines() if line.startswith("epoch")]
            print(*epochs[-2:], sep="\n", end="\n" * bool(epochs), file=sys.stderr, flush=True)
            return seconds

        print(f"| all | {sum(timed(stage, stage) for stage in STAGES):.1f} | | | |")
        write_params(folder, **LOCAL, **SETTINGS, **SCST_SETTINGS)
        timed(SCST, "finetune")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else IMAGES)
