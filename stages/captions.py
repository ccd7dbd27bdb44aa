"""captions: read and split the annotations, tokenise, and build the vocabulary from the train split only."""

import sys
from dataclasses import replace

import pandas as pd

from lib.core.tables import write_table
from lib.datasets.dataset import Dataset
from lib.datasets.loaders import load_named
from lib.datasets.local import load_local
from lib.scenes.dataset import load_scenes
from lib.text.checks import check_vocabulary, check_words
from lib.text.tokenizer import Tokenizer
from lib.text.vocabulary import Vocabulary
from stages.common.entrypoint import run
from stages.common.paths import ANNOTATED_IMAGES, CAPTION_TABLE, RAW, VOCABULARY
from stages.params import DatasetParams, FeaturesParams, TextParams, VocabularyParams, read_params


def main() -> None:
    params = read_params(DatasetParams)
    annotated = load_dataset(params, read_params(FeaturesParams).max_skipped)
    dataset = annotated.checked()
    _report_left_out(annotated, dataset, "without a caption", "without an image")
    if params.limit is not None:
        dataset = dataset.first(params.limit)
    text = read_params(TextParams)
    tokenizer = Tokenizer(text.tokenizer, text.lowercase)
    with_words = _with_words(dataset, tokenizer)
    _report_left_out(dataset, with_words, "whose captions have no words", "without words")
    images, captions = with_words.images, with_words.captions
    train_ids = images.loc[images["split"] == "train", "image_id"]
    vocabulary = _vocabulary(captions.loc[captions["image_id"].isin(train_ids), "tokens"], tokenizer)

    write_table(images, ANNOTATED_IMAGES)
    write_table(captions, CAPTION_TABLE)
    vocabulary.save(VOCABULARY)
    print(f"{len(images)} images, {len(captions)} captions, {vocabulary.num_words} words in the vocabulary")


def load_dataset(params: DatasetParams, max_skipped: float) -> Dataset:
    match params.name:
        case "scenes":
            return load_scenes(RAW)
        case "local":
            local = params.local
            loaded = load_local(RAW, local.split_seed, local.val_share, local.test_share)
            for note in loaded.notes:
                print(f"captions: {note}")
            loaded.check_missing(max_skipped)
            return loaded.dataset
        case name:
            return load_named(name, RAW)


def _with_words(dataset: Dataset, tokenizer: Tokenizer) -> Dataset:
    """Return the captions that have words, with a column `tokens`. Raises UserError if the tokenizer does not fit."""
    texts = dataset.captions["caption"].tolist()
    # Equal words share one str object, which saves a third of a gigabyte for COCO.
    tokens = [list(map(sys.intern, tokenizer.tokenize(text))) for text in texts]
    print("\n".join(check_words(texts, tokens, tokenizer)))
    captions = dataset.captions.assign(tokens=tokens)
    return replace(dataset, captions=captions[captions["tokens"].map(len) > 0]).checked()


def _vocabulary(train_tokens: pd.Series, tokenizer: Tokenizer) -> Vocabulary:
    """Build the vocabulary from the train captions. Raises UserError if `vocabulary.*` params do not fit them."""
    params, tokens = read_params(VocabularyParams), train_tokens.tolist()
    vocabulary = Vocabulary.count(tokens, params.min_count, tokenizer)
    print("\n".join(check_vocabulary(tokens, vocabulary, params.min_count, params.max_length)))
    return vocabulary


def _report_left_out(before: Dataset, after: Dataset, which_images: str, which_captions: str) -> None:
    images, captions = len(before.images) - len(after.images), len(before.captions) - len(after.captions)
    if images or captions:
        print(f"left out: {images} images {which_images}, {captions} captions {which_captions}")


if __name__ == "__main__":
    run(main)
