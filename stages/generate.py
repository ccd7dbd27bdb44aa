"""generate: caption the test split, and val to choose settings on, in COCO's results format."""

import json

import numpy as np
import torch
from tqdm import tqdm

from lib.core.tables import read_images
from lib.features.store import Features
from lib.finetuning.sampling import SamplingConfig, sample, skip_draws
from lib.model.decoding import CaptionModel, Hypothesis, gather_hypotheses
from lib.model.saved import check_features, load_decoder
from lib.runtime.device import device
from lib.runtime.distributed import is_main_process, shard
from lib.runtime.launch import launch
from lib.search.beam import beam_search
from lib.search.consensus import Consensus
from lib.search.constraints import DecodingConstraints
from lib.search.ensemble import build_ensemble
from stages.common.entrypoint import run
from stages.common.generation import model_folders, train_consensus
from stages.common.paths import FEATURES, IMAGES, METRICS
from stages.params import GenerateParams, read_params

_BATCH = 100  # images; the captions do not depend on it


def main() -> None:
    params = read_params(GenerateParams)
    folders = model_folders(params)
    loaded = [load_decoder(folder) for folder in folders]
    model, vocabulary = build_ensemble(folders, loaded)
    config = loaded[0][0].config
    consensus = train_consensus(params, config, vocabulary) if params.method == "beam" else None
    for split, name in (("test", "captions.json"), ("val", "captions_val.json")):
        images = read_images(IMAGES, split)
        features = Features(FEATURES, images)
        check_features(config, features.shape, FEATURES)
        hypotheses = _decode(params, model, consensus, features)
        if not is_main_process():
            continue
        words = [vocabulary.decode(hypothesis.token_ids) for hypothesis in hypotheses]
        results = [
            {"image_id": image_id, "caption": " ".join(caption)}
            for image_id, caption in zip(images["image_id"].tolist(), words, strict=True)
        ]
        METRICS.mkdir(exist_ok=True)
        (METRICS / name).write_text(json.dumps(results, indent=0) + "\n")
        print(f"{split}: {len(results)} captions" + f" by {len(folders)} models" * (len(folders) > 1))
        if split == "test":
            attention = [h.attention[: len(caption)] for h, caption in zip(hypotheses, words, strict=True)]
            np.save(METRICS / "attention.npy", torch.cat(attention).half().numpy())  # (words of all captions, P)


def _decode(
    params: GenerateParams, model: CaptionModel, consensus: Consensus | None, features: Features
) -> list[Hypothesis]:
    """Return one hypothesis per image of `features`."""
    constrain = DecodingConstraints(params.min_length, params.no_repeat_ngram_size).apply
    sampling = SamplingConfig(params.sample.temperature, params.sample.top_k, params.sample.top_p)
    generator = torch.Generator().manual_seed(params.sample.seed)
    own: list[Hypothesis] = []
    starts = shard(range(0, len(features), _BATCH))  # whole batches, because rounding depends on what is in one
    skip_draws(starts.start, params.max_length, generator)
    for start in tqdm(starts, "captioning", unit="batch", disable=None if is_main_process() else True):
        batch = features[start : start + _BATCH].to(device())
        if params.method == "beam":
            beams = beam_search(model, batch, params.beam_size, params.max_length, params.length_penalty, constrain)
            if consensus:
                beams = consensus.rerank(batch, beams, params.length_penalty)
        else:
            beams = sample(model, batch, 1, params.max_length, sampling, generator, constrain)
        own += [best for best, *_ in beams]
    return gather_hypotheses(own)


if __name__ == "__main__":
    run(lambda: launch(main))
