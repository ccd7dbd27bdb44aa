"""train: train the decoder with cross-entropy on the train split."""

from dataclasses import asdict

from lib.core.workdir import prune
from lib.model.decoder import Decoder, DecoderConfig
from lib.model.saved import save_decoder
from lib.optim.optimiser import make_deterministic
from lib.runtime.distributed import is_main_process
from lib.runtime.launch import launch
from lib.text.vocabulary import Vocabulary
from lib.training.cross_entropy import CrossEntropy, CrossEntropyConfig
from lib.training.loop import train_decoder
from stages.common.checkpoints import work_folder
from stages.common.entrypoint import run
from stages.common.paths import DECODER, VOCABULARY
from stages.common.training import curve_recorder, training_data, training_inputs
from stages.params import ModelParams, TrainParams, VocabularyParams, read_params


def main() -> None:
    model, config = read_params(ModelParams), CrossEntropyConfig(**read_params(TrainParams).model_dump())
    max_length = read_params(VocabularyParams).max_length
    vocabulary = Vocabulary.load(VOCABULARY)
    train, val = (training_data(split, vocabulary, max_length) for split in ("train", "val"))
    _, num_regions, feature_size = train.features.shape
    decoder_config = DecoderConfig(
        num_regions=num_regions,
        feature_size=feature_size,
        vocabulary_size=len(vocabulary),
        cell=model.cell,
        implementation=model.implementation,
        attention=model.attention,
        embedding_size=model.embedding,
        hidden_size=model.hidden,
        dropout=model.dropout,
        max_length=max_length,
        layers=model.layers,
    )
    make_deterministic(config.seed)
    decoder = Decoder(decoder_config)
    with work_folder("train", asdict(config), asdict(decoder_config), *training_inputs()) as folder:
        objective = CrossEntropy(decoder, vocabulary, train, val, config, max_length)
        train_decoder(objective, folder / "checkpoint.pt", curve_recorder("train", folder))
    if is_main_process():
        save_decoder(DECODER, decoder, vocabulary)
        prune(folder)


if __name__ == "__main__":
    run(lambda: launch(main))
