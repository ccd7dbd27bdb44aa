"""train: teaches the decoder by cross-entropy, on the features of the train split."""

from dataclasses import asdict

from lib.core.workdir import prune
from lib.model.decoder import Decoder, DecoderConfig
from lib.model.saved import save_decoder
from lib.optim.optimiser import make_deterministic
from lib.runtime.distributed import is_first
from lib.runtime.launch import run_on_several
from lib.text.vocabulary import Vocabulary
from lib.training.cross_entropy import Recipe, train_decoder
from stages.common.entrypoint import CAPTIONS, DECODER
from stages.common.learning import run_folder, training_data, write_curves
from stages.params import read
from stages.params.model import Params as ModelParams
from stages.params.train import Params as TrainParams
from stages.params.vocabulary import Params as VocabularyParams


def main() -> None:
    model, recipe = read(ModelParams), Recipe(**read(TrainParams).model_dump(exclude={"scst"}))
    max_length = read(VocabularyParams).max_length
    vocabulary = Vocabulary.load(CAPTIONS / "vocabulary.json")
    train, val = (training_data(name, vocabulary, max_length) for name in ("train", "val"))
    config = DecoderConfig(
        places=train.features.shape[1],
        channels=train.features.shape[2],
        vocabulary_size=len(vocabulary),
        cell=model.cell,
        implementation=model.implementation,
        attention=model.attention,
        embedding_size=model.embedding,
        hidden_size=model.hidden,
        dropout=model.dropout,
    )
    make_deterministic(recipe.seed)
    decoder = Decoder(config)
    with run_folder("train", asdict(recipe), asdict(config), max_length) as folder:
        curve = train_decoder(decoder, vocabulary, train, val, recipe, max_length, folder / "checkpoint.safetensors")
    if is_first():
        save_decoder(DECODER, decoder, vocabulary)
        write_curves("train", curve, recipe.best_by)
        prune(folder)


if __name__ == "__main__":
    run_on_several(main)
