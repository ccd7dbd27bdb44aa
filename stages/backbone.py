"""backbone: gets the CNN: torchvision weights (verified), a local file, or trained here (`fit`)."""

import pandas as pd

from lib.training.backbone import FitRecipe, fit_backbone
from lib.training.optimisation import make_deterministic
from lib.vision.backbones import override, pretrained, untrained
from lib.vision.pixels import read_pixels
from lib.workers import worker_count
from stages.params import read
from stages.params.backbone import Params
from stages.running import BACKBONE, CAPTIONS, DOWNLOADS, RAW, run


def main() -> None:
    params = read(Params)
    make_deterministic(params.fit.seed)
    fit = params.weights == "fit"
    backbone = untrained(params.name) if fit else pretrained(params.name, params.weights, DOWNLOADS)
    backbone.preprocess = override(backbone.preprocess, size=params.size, mean=params.mean, std=params.std)
    if fit:
        images = pd.read_parquet(CAPTIONS / "images.parquet")
        train = images[images["split"] == "train"]
        pixels, image_ids = read_pixels(train, RAW, backbone.preprocess, workers=worker_count())
        captions = pd.read_parquet(CAPTIONS / "captions.parquet").groupby("image_id")["tokens"].agg(list)
        fit_backbone(backbone, pixels, [captions[i] for i in image_ids], FitRecipe(**params.fit.model_dump()))
    backbone.save(BACKBONE)
    print(f"{params.name}, weights: {params.weights}")


if __name__ == "__main__":
    run(main)
