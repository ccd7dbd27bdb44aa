"""BLEU, ROUGE-L and CIDEr-D with coco-caption's names and units, without Java.

Every score is a function of sums over images. So each image is measured once, as a row of numbers. The rows give the
scores of all images, of each image, and of any sample of them.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from lib.scoring.bleu import bleu, bleu_statistics
from lib.scoring.cider import CiderD
from lib.scoring.ngrams import Matches, Tokens
from lib.scoring.rouge import rouge_l

METRICS = ("bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider_d")


def score(references: Mapping[int, Sequence[Tokens]], hypotheses: Mapping[int, Tokens]) -> dict[str, float]:
    """Return the corpus scores: BLEU and ROUGE-L from 0 to 1, CIDEr-D from 0 to 10.

    Both arguments are keyed by image id, with tokens as in `lib.text.tokenizer`. Raises ValueError if the ids differ,
    there are none, or an image has no reference.
    """
    return corpus_scores(measure(references, hypotheses))


def corpus_scores(measures: np.ndarray) -> dict[str, float]:
    """Return the scores of all images together, from measures (I, 12)."""
    return dict(zip(METRICS, combine(measures.sum(axis=0), len(measures)).tolist(), strict=True))


def image_scores(measures: np.ndarray) -> dict[str, np.ndarray]:
    """Return the scores of each image, (I,) each, from measures (I, 12). Their mean BLEU is not corpus BLEU."""
    return dict(zip(METRICS, combine(measures, 1).T, strict=True))


def measure(references: Mapping[int, Sequence[Tokens]], hypotheses: Mapping[int, Tokens]) -> np.ndarray:
    """Return a row per image, in the order of `hypotheses`: BLEU's ten statistics, ROUGE-L and CIDEr-D, (I, 12)."""
    if not hypotheses:
        raise ValueError("there are no captions to score")
    if differing := sorted(references.keys() ^ hypotheses.keys()):
        raise ValueError(f"{len(differing)} images have references or a caption, not both, such as {differing[0]}")
    return Scorer({image: references[image] for image in hypotheses}).measure(list(hypotheses.values()))


class Scorer:
    """Scores hypotheses against fixed references, whose n-grams it counts once."""

    def __init__(self, references: Mapping[int, Sequence[Tokens]]) -> None:
        if missing := [image for image, captions in references.items() if not captions]:
            raise ValueError(f"{len(missing)} images have no reference caption, such as {missing[0]}")
        self._references = list(references.values())
        self._cider = CiderD(self._references)

    def measure(self, hypotheses: Sequence[Tokens]) -> np.ndarray:
        """Return the rows of `measure` of one hypothesis per image, in the order of the references."""
        rouge = [rouge_l(image, tokens) for image, tokens in zip(self._references, hypotheses, strict=True)]
        matches = self._match(hypotheses)
        statistics = bleu_statistics(matches, self._cider.ngrams.counts)
        return np.column_stack([statistics, rouge, self._cider.cider_d(matches)])

    def cider_r(self, hypotheses: Sequence[Tokens]) -> np.ndarray:
        """Return CIDEr-R of one hypothesis per image, (I,), 0 to 10."""
        return self._cider.cider_r(self._match(hypotheses))

    def _match(self, hypotheses: Sequence[Tokens]) -> Matches:
        return self._cider.ngrams.match(np.arange(len(hypotheses)), hypotheses)


def combine(sums: np.ndarray, images: int) -> np.ndarray:
    """Return the scores in the order of METRICS, (..., 6), from measures summed over `images` images, (..., 12)."""
    return np.concatenate([bleu(sums[..., :10]), sums[..., 10:] / images], axis=-1)
