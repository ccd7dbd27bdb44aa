"""generate: captions the test split, and val to choose settings on, in COCO's results format."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from lib.captioner.beam import beam_search
from lib.captioner.ensemble import as_one
from lib.captioner.model import load_decoder
from lib.captioner.rules import Rules
from lib.captioner.sampling import Narrowing, sample
from lib.captioner.writing import Caption, Model
from lib.compute import device
from stages.params import read
from stages.params.generate import Params
from stages.running import METRICS, MODEL, run
from stages.splits import features_of, images_with_features

_BATCH = 100  # images; the captions do not depend on it


def main() -> None:
    params = read(Params)
    folders = [MODEL, *sorted(path for path in Path(params.ensemble).iterdir() if path.is_dir())]
    model, vocabulary = as_one(folders, [load_decoder(folder) for folder in folders])
    METRICS.mkdir(exist_ok=True)
    for split, name in (("test", "captions.json"), ("val", "captions_val.json")):
        images = images_with_features(split)
        captions = list(_captions(params, model, images))
        words = [vocabulary.decode(caption.ids) for caption in captions]
        results = [
            {"image_id": int(image_id), "caption": " ".join(written)}
            for image_id, written in zip(images["image_id"], words, strict=True)
        ]
        (METRICS / name).write_text(json.dumps(results, indent=0) + "\n")
        print(f"{split}: {len(results)} captions written" + f" by {len(folders)} models" * (len(folders) > 1))
        if split == "test":
            looked = [c.attention[: len(written)] for c, written in zip(captions, words, strict=True)]
            # (words of all captions, P)
            np.save(METRICS / "attention.npy", torch.cat(looked).half().numpy() if looked else np.empty((0, 0)))


def _captions(params: Params, model: Model[Any], images: pd.DataFrame) -> Iterator[Caption]:
    """One for each of `images`, which may be none."""
    if images.empty:
        return
    rules, drawn = Rules(params.min_length, params.no_repeat), params.sample
    narrowing = Narrowing(drawn.temperature, drawn.top_k, drawn.top_p)
    generator = torch.Generator().manual_seed(drawn.seed)
    batches = -(-len(images) // _BATCH)
    for part in tqdm(features_of(images).split(_BATCH), "writing captions", batches, unit="batch", disable=None):
        features = part.to(device())
        if params.method == "beam":
            found = beam_search(model, features, params.beam_size, params.max_length, params.length_penalty, rules)
        else:
            found = sample(model, features, 1, params.max_length, narrowing, generator, rules)
        yield from (best for best, *_ in found)


if __name__ == "__main__":
    run(main)
