"""captions: reads the annotations, applies the split, tokenises, and counts the vocabulary on the train split alone."""

from lib.datasets import local, named
from lib.datasets.scenes import reading as scenes
from lib.datasets.tables import Dataset, write_table
from lib.text.tokenizer import tokenize
from lib.text.vocabulary import Vocabulary
from stages.params import read
from stages.params.dataset import Params as DatasetParams
from stages.params.vocabulary import Params as VocabularyParams
from stages.running import CAPTIONS, RAW, run


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
    dataset = read_dataset(params).checked()
    if params.limit is not None:
        dataset = dataset.first(params.limit)
    captions = dataset.captions.assign(tokens=[tokenize(caption) for caption in dataset.captions["caption"]])
    train_ids = dataset.images.loc[dataset.images["split"] == "train", "image_id"]
    train_tokens = captions.loc[captions["image_id"].isin(train_ids), "tokens"]

    write_table(dataset.images, CAPTIONS / "images.parquet")
    write_table(captions, CAPTIONS / "captions.parquet")
    vocabulary = Vocabulary.count(train_tokens, read(VocabularyParams).min_count)
    vocabulary.save(CAPTIONS / "vocabulary.json")
    print(f"{len(dataset.images)} images, {len(captions)} captions, {len(vocabulary)} words in the vocabulary")


if __name__ == "__main__":
    run(main)
