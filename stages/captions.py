"""captions: reads the annotations, applies the split, tokenises, and counts the vocabulary on the train split alone."""

import sys
from dataclasses import replace

from lib.core.tables import write_table
from lib.datasets import loaders as named, local
from lib.datasets.dataset import Dataset
from lib.scenes import dataset as scenes
from lib.text.tokenizer import tokenize
from lib.text.vocabulary import Vocabulary
from stages.common.entrypoint import CAPTIONS, RAW, run
from stages.params import read
from stages.params.dataset import Params as DatasetParams
from stages.params.vocabulary import Params as VocabularyParams


def read_dataset(params: DatasetParams) -> Dataset:
    match params.name:
        case "scenes":
            return scenes.read(RAW)
        case "local":
            return local.read(RAW, params.local.split_seed, params.local.val_share, params.local.test_share)
        case name:
            return named.read(name, RAW)


def main() -> None:
    params = read(DatasetParams)
    whole = read_dataset(params)
    dataset = whole.checked()
    _tell_left_out(whole, dataset, "without a caption", "of no image")
    if params.limit is not None:
        dataset = dataset.first(params.limit)
    # Interned, for the same words come again and again: COCO's, one by one, would take a third of a gigabyte more.
    tokens = [list(map(sys.intern, tokenize(caption))) for caption in dataset.captions["caption"]]
    captions = dataset.captions.assign(tokens=tokens)
    with_words = replace(dataset, captions=captions[captions["tokens"].map(len) > 0]).checked()
    _tell_left_out(dataset, with_words, "whose captions have no words", "without a word")
    images, captions = with_words.images, with_words.captions
    train_ids = images.loc[images["split"] == "train", "image_id"]
    train_tokens = captions.loc[captions["image_id"].isin(train_ids), "tokens"]

    write_table(images, CAPTIONS / "images.parquet")
    write_table(captions, CAPTIONS / "captions.parquet")
    vocabulary = Vocabulary.count(train_tokens, read(VocabularyParams).min_count)
    vocabulary.save(CAPTIONS / "vocabulary.json")
    print(f"{len(images)} images, {len(captions)} captions, {len(vocabulary)} words in the vocabulary")


def _tell_left_out(before: Dataset, after: Dataset, which_images: str, which_captions: str) -> None:
    images, captions = len(before.images) - len(after.images), len(before.captions) - len(after.captions)
    if images or captions:
        print(f"left out: {images} images {which_images}, {captions} captions {which_captions}")


if __name__ == "__main__":
    run(main)
