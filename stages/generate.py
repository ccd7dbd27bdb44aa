"""generate: captions the test split, and val to choose settings on, in COCO's results format."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from lib.finetuning.sampling import Narrowing, pass_over, sample
from lib.model.decoder import DecoderConfig
from lib.model.decoding import Caption, Model
from lib.model.gathering import gather_captions
from lib.model.saved import check_features, load_decoder
from lib.runtime.device import device
from lib.runtime.distributed import is_first, share, tell
from lib.runtime.launch import run_on_several
from lib.search.beam import beam_search
from lib.search.consensus import Consensus
from lib.search.constraints import Rules
from lib.search.ensemble import as_one
from lib.text.vocabulary import Vocabulary
from stages.common.entrypoint import FEATURES, METRICS, MODEL
from stages.common.splits import features_of, images_with_features, references_of
from stages.params import read
from stages.params.generate import Params

_BATCH = 100  # images; the captions do not depend on it
_ONE_IN = 50  # pictures of the train split may be a picture's neighbour


def main() -> None:
    params = read(Params)
    folders = models_of(params)
    loaded = [load_decoder(folder) for folder in folders]
    model, vocabulary = as_one(folders, loaded)
    consensus = consensus_of_train(params, loaded[0][0].config, vocabulary) if params.method == "beam" else None
    for split, name in (("test", "captions.json"), ("val", "captions_val.json")):
        images = images_with_features(split)
        check_features(loaded[0][0].config, features_of(images).shape, FEATURES)
        captions = _captions(params, model, consensus, images)
        if not is_first():
            continue
        words = [vocabulary.decode(caption.ids) for caption in captions]
        results = [
            {"image_id": int(image_id), "caption": " ".join(written)}
            for image_id, written in zip(images["image_id"], words, strict=True)
        ]
        METRICS.mkdir(exist_ok=True)
        (METRICS / name).write_text(json.dumps(results, indent=0) + "\n")
        print(f"{split}: {len(results)} captions written" + f" by {len(folders)} models" * (len(folders) > 1))
        if split == "test":
            looked = [c.attention[: len(written)] for c, written in zip(captions, words, strict=True)]
            # (words of all captions, P)
            np.save(METRICS / "attention.npy", torch.cat(looked).half().numpy())


def models_of(params: Params) -> list[Path]:
    """The folders of the models that write together, the trained one first."""
    return [MODEL, *sorted(path for path in Path(params.ensemble).iterdir() if path.is_dir())]


def consensus_of_train(params: Params, config: DecoderConfig, vocabulary: Vocabulary) -> Consensus | None:
    """What the train split has to say, where params ask; UserError where its features are not the decoder's."""
    if not params.consensus.neighbours:
        return None
    images = images_with_features("train")
    # Were most of a small split a picture's neighbours, all pictures would have the same.
    neighbours = min(params.consensus.neighbours, max(1, len(images) // _ONE_IN))
    if neighbours < params.consensus.neighbours:
        tell(f"{neighbours} neighbours are asked, one in {_ONE_IN} of the train split, and not all that params say")
    features = features_of(images)
    check_features(config, features.shape, FEATURES)
    return Consensus(features, list(references_of(images).values()), vocabulary, neighbours, params.consensus.weight)


def _captions(params: Params, model: Model[Any], consensus: Consensus | None, images: pd.DataFrame) -> list[Caption]:
    """One for each of `images`."""
    rules, drawn = Rules(params.min_length, params.no_repeat), params.sample
    narrowing = Narrowing(drawn.temperature, drawn.top_k, drawn.top_p)
    generator = torch.Generator().manual_seed(drawn.seed)
    features, own = features_of(images), []
    firsts = share(range(0, len(images), _BATCH))  # of whole batches: the rounding depends on what is in one
    pass_over(firsts.start, params.max_length, generator)
    for first in tqdm(firsts, "writing captions", unit="batch", disable=None if is_first() else True):
        part = features[first : first + _BATCH].to(device())
        if params.method == "beam":
            found = beam_search(model, part, params.beam_size, params.max_length, params.length_penalty, rules)
            if consensus:
                found = consensus.rerank(part, found, params.length_penalty)
        else:
            found = sample(model, part, 1, params.max_length, narrowing, generator, rules)
        own += [best for best, *_ in found]
    return gather_captions(own)


if __name__ == "__main__":
    run_on_several(main)
