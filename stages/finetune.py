"""finetune: train the decoder self-critically if finetune.epochs is above 0. Write the complete model folder."""

from dataclasses import asdict

from lib.core.workdir import prune
from lib.finetuning.self_critical import SelfCritical, SelfCriticalConfig
from lib.model.saved import check_features, load_decoder, save_captioner, write_card
from lib.optim.optimiser import make_deterministic
from lib.runtime.distributed import is_main_process
from lib.runtime.launch import launch
from lib.training.loop import best_epoch, train_decoder
from stages.common.checkpoints import work_folder
from stages.common.entrypoint import run
from stages.common.paths import BACKBONE, DECODER, FEATURES, MODEL
from stages.common.provenance import note_run
from stages.common.ready import ready_source
from stages.common.training import curve_recorder, training_data, training_inputs
from stages.params import SECTIONS, FeaturesParams, FinetuneParams, VocabularyParams, read_params


def main() -> None:
    config = SelfCriticalConfig(**read_params(FinetuneParams).model_dump())
    max_length = read_params(VocabularyParams).max_length
    decoder, vocabulary = load_decoder(DECODER)
    val = training_data("val", vocabulary, max_length)
    # If finetune.epochs is 0, the train split is not needed. Reading it takes half a minute for COCO.
    train = training_data("train", vocabulary, max_length) if config.epochs else val
    check_features(decoder.config, val.features.shape, FEATURES)
    make_deterministic(config.seed)
    inputs = [*sorted(DECODER.iterdir()), *training_inputs()]
    with work_folder("finetune", asdict(config), max_length, *inputs) as folder:
        objective = SelfCritical(decoder, vocabulary, train, val, config, max_length)
        curve = train_decoder(objective, folder / "checkpoint.pt", curve_recorder("finetune", folder))
    if not is_main_process():
        return
    save_captioner(MODEL, BACKBONE, FEATURES, decoder, vocabulary)
    best = best_epoch(curve, config.monitor)
    val_scores = {name.removeprefix("val_"): value for name, value in best.items() if name.startswith("val_")}
    params = {name: read_params(schema).model_dump() for name, schema in SECTIONS.items() if name != "generate"}
    del params["dataset"]["mirror"]  # the mirror does not change the files
    if ready_source(read_params(FeaturesParams)) is None:
        del params["features"]["source"]
    write_card(MODEL, decoder.config, params, val_scores)
    note_run(MODEL)
    prune(folder)


if __name__ == "__main__":
    run(lambda: launch(main))
