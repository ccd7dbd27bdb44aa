"""generate: caption the test and val splits, in COCO's results format. Use the scores of val to choose settings."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from lib.core.tables import read_images
from lib.features.store import Features
from lib.finetuning.sampling import SamplingConfig, sample, skip_draws
from lib.model.decoding import CaptionModel, Hypothesis, gather_hypotheses
from lib.model.saved import check_features, load_decoder
from lib.runtime.device import device
from lib.runtime.distributed import is_main_process, print_once, shard
from lib.runtime.launch import launch
from lib.search.beam import beam_search
from lib.search.consensus import Consensus
from lib.search.constraints import DecodingConstraints
from lib.search.ensemble import build_ensemble
from lib.text.tokenizer import Tokenizer
from lib.text.vocabulary import END
from stages.common.entrypoint import run
from stages.common.generation import model_folders, train_consensus
from stages.common.paths import FEATURES, IMAGES, METRICS
from stages.params import GenerateParams, read_params

_BATCH = 100  # images per batch; the captions do not depend on this number


def main() -> None:
    params = read_params(GenerateParams)
    folders = model_folders(params)
    loaded = [load_decoder(folder) for folder in folders]
    model, vocabulary = build_ensemble(folders, loaded)
    config = loaded[0][0].config
    consensus = train_consensus(params, config, vocabulary) if params.method == "beam" else None
    max_length = params.max_length or config.max_length
    if max_length < config.max_length:
        trained = f"the maximum in training, {config.max_length} words (vocabulary.max_length)"
        print_once(f"warning: generate.max_length={max_length} is below {trained}. Set it to null to use the maximum.")
    for split, name in (("test", "captions.json"), ("val", "captions_val.json")):
        images = read_images(IMAGES, split)
        features = Features(FEATURES, images)
        check_features(config, features.shape, FEATURES)
        hypotheses = _decode(params, max_length, model, consensus, features)
        if not is_main_process():
            continue
        words = [vocabulary.decode(hypothesis.token_ids) for hypothesis in hypotheses]
        results = caption_rows(images["image_id"].tolist(), words, vocabulary.tokenizer)
        METRICS.mkdir(exist_ok=True)
        (METRICS / name).write_text(json.dumps(results, indent=0, ensure_ascii=False) + "\n", "utf-8")
        empty, cut = words.count([]), sum(hypothesis.token_ids[-1] != END for hypothesis in hypotheses)
        print(f"{split}: {len(results)} captions" + f" by {len(folders)} models" * (len(folders) > 1))
        if empty:
            print(f"warning: {empty} captions have no words")
        if cut:
            print(f"warning: {cut} captions were cut at {max_length} words")
        if split == "test":
            attention = [h.attention[: len(caption)] for h, caption in zip(hypotheses, words, strict=True)]
            np.save(METRICS / "attention.npy", torch.cat(attention).half().numpy())  # (words of all captions, P)


def caption_rows(image_ids: Iterable[Any], captions: Sequence[list[str]], tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """Return rows in COCO's results format. If a caption has words that blanks do not separate, add `tokens` to all."""
    texts = [tokenizer.join(words) for words in captions]
    rows: list[dict[str, Any]] = [
        {"image_id": image_id, "caption": text} for image_id, text in zip(image_ids, texts, strict=True)
    ]
    if any(text.split() != words for text, words in zip(texts, captions, strict=True)):
        for row, words in zip(rows, captions, strict=True):
            row["tokens"] = words
    return rows


def _decode(
    params: GenerateParams, max_length: int, model: CaptionModel, consensus: Consensus | None, features: Features
) -> list[Hypothesis]:
    """Return one hypothesis per image of `features`."""
    constrain = DecodingConstraints(params.min_length, params.no_repeat_ngram_size).apply
    sampling = SamplingConfig(params.sample.temperature, params.sample.top_k, params.sample.top_p)
    generator = torch.Generator().manual_seed(params.sample.seed)
    own: list[Hypothesis] = []
    starts = shard(range(0, len(features), _BATCH))  # complete batches, because rounding errors depend on the batch
    skip_draws(starts.start, max_length, generator)
    for start in tqdm(starts, "captioning", unit="batch", disable=None if is_main_process() else True):
        batch = features[start : start + _BATCH].to(device())
        if params.method == "beam":
            beams = beam_search(model, batch, params.beam_size, max_length, params.length_penalty, constrain)
            if consensus:
                beams = consensus.rerank(batch, beams, params.length_penalty)
        else:
            beams = sample(model, batch, 1, max_length, sampling, generator, constrain)
        own += [best for best, *_ in beams]
    return gather_hypotheses(own)


if __name__ == "__main__":
    run(lambda: launch(main))
