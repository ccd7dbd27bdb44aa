"""train: teaches the decoder on the features of the train split."""

import json
from dataclasses import asdict

import pandas as pd
import torch

from lib.captioner.decoder import Decoder, DecoderConfig
from lib.captioner.model import save_captioner
from lib.compute import device
from lib.errors import UserError
from lib.scratch import fingerprint, identity, library, prune
from lib.text.vocabulary import Vocabulary
from lib.training.batches import caption_set
from lib.training.decoder import Recipe, Split, best_epoch, train_decoder
from lib.training.optimisation import make_deterministic
from lib.vision.features import index_path, shard_paths
from stages.params import read
from stages.params.model import Params as ModelParams
from stages.params.train import Params as TrainParams
from stages.params.vocabulary import Params as VocabularyParams
from stages.running import BACKBONE, CAPTIONS, FEATURES, METRICS, MODEL, SCRATCH, run
from stages.splits import features_of, images_with_features, references_of


def main() -> None:
    model, recipe = read(ModelParams), Recipe(**read(TrainParams).model_dump())
    max_length = read(VocabularyParams).max_length
    vocabulary = Vocabulary.load(CAPTIONS / "vocabulary.json")

    def split(name: str) -> Split:
        images = images_with_features(name)
        if images.empty:
            raise UserError(f"the {name} split has no images: training needs train and val")
        references = references_of(images)
        return Split(features_of(images), references, caption_set(references.values(), vocabulary, max_length))

    train, val = split("train"), split("val")
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
    task = SCRATCH / "train" / _fingerprint(asdict(recipe), asdict(config), max_length)
    curve = train_decoder(decoder, vocabulary, train, val, recipe, max_length, task / "checkpoint.safetensors")

    save_captioner(MODEL, BACKBONE, FEATURES, decoder, vocabulary)
    out = METRICS / "train"
    out.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(map(asdict, curve)).to_csv(out / "curves.csv", index=False, float_format="%.6g")
    best = best_epoch(curve, recipe.best_by)
    summary = {
        "best_epoch": best.epoch,
        "val_loss": best.val_loss,
        "val_bleu_4": best.val_bleu_4,
        "val_cider_d": best.val_cider_d,
    }
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    prune(task)


def _fingerprint(*settings: object) -> str:
    """Of everything that the weights depend on: a checkpoint of anything else is not gone on from."""
    tables = [CAPTIONS / "captions.parquet", CAPTIONS / "vocabulary.json", index_path(FEATURES)]
    shards = [identity(shard) for shard in shard_paths(FEATURES)]
    machine = [device().type, torch.__version__, torch.get_num_threads()]
    return fingerprint(*settings, *tables, shards, machine, *library())


if __name__ == "__main__":
    run(main)
