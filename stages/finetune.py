"""finetune: self-critical training of the trained decoder, or none; and the model, whole, in a folder of its own."""

from dataclasses import asdict

from lib.core.workdir import prune
from lib.finetuning.self_critical import Recipe, finetune_decoder
from lib.model.card import write_card
from lib.model.saved import check_features, load_decoder, save_captioner
from lib.optim.optimiser import make_deterministic
from lib.runtime.distributed import is_first
from lib.runtime.launch import run_on_several
from lib.training.loop import best_epoch
from stages.common.entrypoint import BACKBONE, CAPTIONS, DECODER, FEATURES, MODEL
from stages.common.learning import run_folder, training_data, write_curves
from stages.params import read
from stages.params.backbone import Params as BackboneParams
from stages.params.dataset import Params as DatasetParams
from stages.params.features import Params as FeaturesParams
from stages.params.model import Params as ModelParams
from stages.params.train import Params as TrainParams
from stages.params.vocabulary import Params as VocabularyParams
from stages.tools.provenance import md5s, note_run


def main() -> None:
    params = {
        "dataset": read(DatasetParams).model_dump(exclude={"mirror"}),
        "vocabulary": read(VocabularyParams).model_dump(),
        "backbone": read(BackboneParams).model_dump(),
        "features": read(FeaturesParams).model_dump(),
        "model": read(ModelParams).model_dump(),
        "train": read(TrainParams).model_dump(),
    }
    recipe, max_length = Recipe(**params["train"]["scst"]), params["vocabulary"]["max_length"]
    decoder, vocabulary = load_decoder(DECODER)
    val = training_data("val", vocabulary, max_length)
    # Without an epoch nothing is learned from the train split, and to read COCO's takes half a minute.
    train = training_data("train", vocabulary, max_length) if recipe.epochs else val
    check_features(decoder.config, val.features.shape, FEATURES)
    make_deterministic(recipe.seed)
    with run_folder("finetune", asdict(recipe), max_length, *sorted(DECODER.iterdir())) as folder:
        curve = finetune_decoder(decoder, vocabulary, train, val, recipe, max_length, folder / "checkpoint.safetensors")
    if not is_first():
        return
    write_curves("finetune", curve, recipe.best_by)

    save_captioner(MODEL, BACKBONE, FEATURES, decoder, vocabulary)
    best = best_epoch(curve, recipe.best_by)
    val_scores = {name.removeprefix("val_"): value for name, value in best.items() if name.startswith("val_")}
    inputs = md5s([CAPTIONS / "images.parquet", CAPTIONS / "captions.parquet", BACKBONE, FEATURES, DECODER])
    write_card(MODEL, decoder.config, params, inputs, val_scores)
    note_run()
    prune(folder)


if __name__ == "__main__":
    run_on_several(main)
