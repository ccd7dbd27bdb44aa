"""captions: read the annotations, apply the split, tokenise, and build the vocabulary from the train split alone."""

import sys
from dataclasses import replace

from lib.core.tables import write_table
from lib.datasets.dataset import Dataset
from lib.datasets.loaders import load_named
from lib.datasets.local import load_local
from lib.scenes.dataset import load_scenes
from lib.text.tokenizer import tokenize
from lib.text.vocabulary import Vocabulary
from stages.common.entrypoint import run
from stages.common.paths import ANNOTATED_IMAGES, CAPTION_TABLE, RAW, VOCABULARY
from stages.params import DatasetParams, FeaturesParams, VocabularyParams, read_params


def main() -> None:
    params = read_params(DatasetParams)
    annotated = load_dataset(params, read_params(FeaturesParams).max_skipped)
    dataset = annotated.checked()
    _report_left_out(annotated, dataset, "without a caption", "of no image")
    if params.limit is not None:
        dataset = dataset.first(params.limit)
    # Interned, because few words occur many times: for COCO that saves a third of a gigabyte.
    tokens = [list(map(sys.intern, tokenize(caption))) for caption in dataset.captions["caption"]]
    captions = dataset.captions.assign(tokens=tokens)
    with_words = replace(dataset, captions=captions[captions["tokens"].map(len) > 0]).checked()
    _report_left_out(dataset, with_words, "whose captions have no words", "without a word")
    images, captions = with_words.images, with_words.captions
    train_ids = images.loc[images["split"] == "train", "image_id"]
    train_tokens = captions.loc[captions["image_id"].isin(train_ids), "tokens"]

    write_table(images, ANNOTATED_IMAGES)
    write_table(captions, CAPTION_TABLE)
    vocabulary = Vocabulary.count(train_tokens, read_params(VocabularyParams).min_count)
    vocabulary.save(VOCABULARY)
    print(f"{len(images)} images, {len(captions)} captions, {len(vocabulary)} words in the vocabulary")


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


def _report_left_out(before: Dataset, after: Dataset, which_images: str, which_captions: str) -> None:
    images, captions = len(before.images) - len(after.images), len(before.captions) - len(after.captions)
    if images or captions:
        print(f"left out: {images} images {which_images}, {captions} captions {which_captions}")


if __name__ == "__main__":
    run(main)
