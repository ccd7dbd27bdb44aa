"""generate: captions the test split, in COCO's results format."""

import json

from tqdm import tqdm

from lib.captioner.beam import beam_search
from lib.captioner.model import load_decoder
from lib.compute import device
from stages.params import read
from stages.params.generate import Params
from stages.running import METRICS, MODEL, run
from stages.splits import features_of, images_with_features

_BATCH = 100  # images; the captions do not depend on it


def main() -> None:
    params = read(Params)
    decoder, vocabulary = load_decoder(MODEL)
    decoder.to(device())
    images = images_with_features("test")
    written: list[str] = []
    batches = -(-len(images) // _BATCH)
    for features in tqdm(features_of(images).split(_BATCH), "writing captions", batches, unit="batch", disable=None):
        captions = beam_search(
            decoder, features.to(device()), params.beam_size, params.max_length, params.length_penalty
        )  # fmt: skip
        written += [" ".join(vocabulary.decode(ids)) for ids in captions]
    results = [
        {"image_id": int(image_id), "caption": caption}
        for image_id, caption in zip(images["image_id"], written, strict=True)
    ]
    METRICS.mkdir(exist_ok=True)
    (METRICS / "captions.json").write_text(json.dumps(results, indent=0) + "\n")
    print(f"{len(results)} captions written")


if __name__ == "__main__":
    run(main)
