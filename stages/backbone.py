"""backbone: download the weights of the CNN (verified), read them from a local file, or train the CNN.

If the features are ready features, write a note instead of a CNN.
"""

from dataclasses import asdict

from lib.core.errors import short_line
from lib.core.files import expand_home, stat_signature
from lib.core.tables import read_images, read_tokens
from lib.core.workdir import prune
from lib.core.workers import worker_count
from lib.optim.optimiser import make_deterministic
from lib.pretraining.fitting import fit_backbone
from lib.pretraining.phrases import PretrainConfig
from lib.pretraining.tuning import TuneConfig, tune_backbone
from lib.vision.backbones import override, pretrained, random_init, save_without_cnn
from lib.vision.images import read_pixels
from stages.common.checkpoints import work_folder
from stages.common.entrypoint import run
from stages.common.paths import ANNOTATED_IMAGES, BACKBONE, CAPTION_TABLE, RAW
from stages.common.ready import ready_source
from stages.params import BackboneParams, FeaturesParams, read_params


def main() -> None:
    if source := ready_source(read_params(FeaturesParams)):
        save_without_cnn(BACKBONE, source.name)
        print(short_line(f"no CNN is needed, because the features are read from features.source={source}"))
        return
    params = read_params(BackboneParams)
    make_deterministic(params.fit.seed)
    fit = params.weights == "fit"
    if fit:
        backbone = random_init(params.name, params.size)
    else:
        backbone = pretrained(params.name, expand_home(params.weights), params.size)
    backbone.preprocess = override(backbone.preprocess, mean=params.mean, std=params.std)
    # If the network rejects one of these image sizes, fail before reading the images.
    tune_sizes = [params.tune.size] if params.tune.epochs and params.tune.size else []
    backbone.feature_size(backbone.preprocess.size, "grid" if fit else "pooled")
    for size in tune_sizes:
        backbone.feature_size(size)
    if fit or params.tune.epochs:
        pixels, image_ids = read_pixels(
            read_images(ANNOTATED_IMAGES, "train"), RAW, backbone.preprocess, workers=worker_count()
        )
        captions = list(read_tokens(CAPTION_TABLE, image_ids).values())
        raw = [stat_signature(path) for path in sorted(RAW.iterdir())]
        settings = [params.model_dump(), asdict(backbone.preprocess), image_ids]
        tables = [ANNOTATED_IMAGES, CAPTION_TABLE]
        with work_folder("backbone", *settings, backbone.weights(), *tables, raw) as folder:
            if fit:
                config = PretrainConfig(**params.fit.model_dump())
                fit_backbone(backbone, pixels, captions, config, folder / "fit.pt")
            if params.tune.epochs:
                tune = TuneConfig(**params.tune.model_dump())
                tune_backbone(backbone, pixels, captions, tune, folder / "tune.pt")
        prune(folder)
    backbone.save(BACKBONE)
    print(short_line(f"saved the backbone {params.name} with weights {params.weights}"))


if __name__ == "__main__":
    run(main)
