"""All scores of a set of captions, with coco-caption's names and units."""

from collections.abc import Mapping, Sequence

import numpy as np

from lib.scoring.bleu import bleu, bleu_statistics
from lib.scoring.cider import cider_d
from lib.scoring.rouge import rouge_l

METRICS = ("bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider_d")

Tokens = Sequence[str]


def score(references: Mapping[int, Sequence[Tokens]], hypotheses: Mapping[int, Tokens]) -> dict[str, float]:
    """Corpus scores: BLEU and ROUGE-L from 0 to 1, CIDEr-D from 0 to 10.

    Both arguments are keyed by image id; tokens as `lib.text.tokenizer` gives them.
    Raises ValueError where the ids differ, there are none, or an image has no reference.
    """
    per_image, statistics = _measure(references, hypotheses)
    corpus = dict(zip(METRICS[:4], map(float, bleu(statistics.sum(axis=0))), strict=True))
    return corpus | {name: float(np.mean(per_image[name])) for name in METRICS[4:]}


def score_each(references: Mapping[int, Sequence[Tokens]], hypotheses: Mapping[int, Tokens]) -> dict[str, np.ndarray]:
    """Scores image by image, each (I,), in the order of `hypotheses`. The mean of the BLEUs is not corpus BLEU."""
    per_image, statistics = _measure(references, hypotheses)
    return dict(zip(METRICS[:4], bleu(statistics).T, strict=True)) | per_image


def _measure(
    references: Mapping[int, Sequence[Tokens]], hypotheses: Mapping[int, Tokens]
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    if not hypotheses:
        raise ValueError("there are no captions to score")
    if references.keys() != hypotheses.keys():
        ids = sorted(references.keys() ^ hypotheses.keys())
        raise ValueError(f"references and captions are not of the same images: {len(ids)} differ, such as {ids[0]}")
    if bare := [image for image, captions in references.items() if not captions]:
        raise ValueError(f"{len(bare)} images have no reference caption, such as {bare[0]}")
    pairs = [(references[image], tokens) for image, tokens in hypotheses.items()]
    per_image = {
        "rouge_l": np.array([rouge_l(own, tokens) for own, tokens in pairs]),
        "cider_d": cider_d([own for own, _ in pairs], [tokens for _, tokens in pairs]),
    }
    return per_image, np.array([bleu_statistics(own, tokens) for own, tokens in pairs])
