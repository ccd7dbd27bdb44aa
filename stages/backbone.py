"""backbone: gets the CNN: torchvision weights (verified), a local file, or trained here (`fit`)."""

from dataclasses import asdict
from pathlib import Path

import torch

from lib.core.files import identity
from lib.core.tables import read_table
from lib.core.workdir import alone, fingerprint, prune
from lib.core.workers import worker_count
from lib.optim.optimiser import make_deterministic
from lib.pretraining import fitting, tuning
from lib.runtime.device import device
from lib.vision.backbones import Backbone, override, pretrained, untrained
from lib.vision.pixels import read_pixels
from stages.common.entrypoint import BACKBONE, CAPTIONS, DOWNLOADS, RAW, SCRATCH, run
from stages.params import read
from stages.params.backbone import Params


def main() -> None:
    params = read(Params)
    make_deterministic(params.fit.seed)
    fit = params.weights == "fit"
    backbone = untrained(params.name) if fit else pretrained(params.name, params.weights, DOWNLOADS)
    backbone.preprocess = override(backbone.preprocess, size=params.size, mean=params.mean, std=params.std)
    tuned = [params.tune.size] if params.tune.epochs and params.tune.size else []
    # To tell at once what would not do.
    backbone.width(backbone.preprocess.size, *tuned)
    if fit:
        backbone.check_grid()
    if fit or params.tune.epochs:
        images = read_table(CAPTIONS / "images.parquet")
        train = images[images["split"] == "train"]
        pixels, image_ids = read_pixels(train, RAW, backbone.preprocess, workers=worker_count())
        tokens = read_table(CAPTIONS / "captions.parquet").groupby("image_id")["tokens"].agg(list)
        captions = [tokens[image_id] for image_id in image_ids]
        folder = _run_folder(params, backbone)
        with alone(folder):
            if fit:
                recipe = fitting.Recipe(**params.fit.model_dump())
                fitting.fit_backbone(backbone, pixels, captions, recipe, folder / "fit.safetensors")
            if params.tune.epochs:
                tune = tuning.Recipe(**params.tune.model_dump())
                tuning.tune_backbone(backbone, pixels, captions, tune, folder / "tune.safetensors")
        prune(folder)
    backbone.save(BACKBONE)
    print(f"{params.name}, weights: {params.weights}")


def _run_folder(params: Params, backbone: Backbone) -> Path:
    """Where fitting and tuning keep their checkpoints: another folder where anything differs that weights depend on."""
    tables = [CAPTIONS / "images.parquet", CAPTIONS / "captions.parquet"]
    raw = [identity(path) for path in sorted(RAW.iterdir())]
    machine = [device().type, torch.__version__]
    settings = [params.model_dump(), asdict(backbone.preprocess)]
    return SCRATCH / "backbone" / fingerprint(*settings, backbone.weights(), *tables, raw, machine, *library())


if __name__ == "__main__":
    run(main)
