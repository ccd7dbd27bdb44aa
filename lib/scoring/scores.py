"""All scores of a set of captions, with coco-caption's names and units.

Each is a function of sums over the images (of matches, of lengths, of ROUGE-L), so an image is measured once, as a row
of numbers; from these rows come the scores of all images, of each by itself, and of any sample of them.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from lib.scoring.bleu import BleuReferences, bleu
from lib.scoring.cider import CiderD
from lib.scoring.ngrams import Tokens
from lib.scoring.rouge import rouge_l

METRICS = ("bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider_d")


def score(references: Mapping[int, Sequence[Tokens]], hypotheses: Mapping[int, Tokens]) -> dict[str, float]:
    """Corpus scores: BLEU and ROUGE-L from 0 to 1, CIDEr-D from 0 to 10.

    Both arguments are keyed by image id; tokens as `lib.text.tokenizer` gives them.
    Raises ValueError where the ids differ, there are none, or an image has no reference.
    """
    return corpus_scores(measure(references, hypotheses))


def corpus_scores(measures: np.ndarray) -> dict[str, float]:
    """The scores of all images together, from their measures (I, 12)."""
    return dict(zip(METRICS, combine(measures.sum(axis=0), len(measures)).tolist(), strict=True))


def image_scores(measures: np.ndarray) -> dict[str, np.ndarray]:
    """The scores of each image by itself, (I,) each, from measures (I, 12). The mean of BLEUs is not corpus BLEU."""
    return dict(zip(METRICS, combine(measures, 1).T, strict=True))


def measure(references: Mapping[int, Sequence[Tokens]], hypotheses: Mapping[int, Tokens]) -> np.ndarray:
    """What each image adds, (I, 12): BLEU's ten statistics, ROUGE-L and CIDEr-D. In the order of `hypotheses`.

    Raises ValueError as `score` does.
    """
    if not hypotheses:
        raise ValueError("there are no captions to score")
    if references.keys() != hypotheses.keys():
        ids = sorted(references.keys() ^ hypotheses.keys())
        raise ValueError(f"references and captions are not of the same images: {len(ids)} differ, such as {ids[0]}")
    return Scorer({image: references[image] for image in hypotheses}).measure(list(hypotheses.values()))


class Scorer:
    """Scores against the same references again and again, as training needs them: these are counted once."""

    def __init__(self, references: Mapping[int, Sequence[Tokens]]) -> None:
        """Raises ValueError where an image has no reference."""
        if bare := [image for image, captions in references.items() if not captions]:
            raise ValueError(f"{len(bare)} images have no reference caption, such as {bare[0]}")
        self._references = list(references.values())
        self._bleu = [BleuReferences(captions) for captions in self._references]
        self._cider = CiderD(self._references)

    def measure(self, hypotheses: Sequence[Tokens]) -> np.ndarray:
        """As `measure`, of a caption for each image, in the order of the references."""
        return np.column_stack(
            [
                np.array([own.statistics(tokens) for own, tokens in zip(self._bleu, hypotheses, strict=True)], float),
                [rouge_l(own, tokens) for own, tokens in zip(self._references, hypotheses, strict=True)],
                self._cider.scores(range(len(hypotheses)), hypotheses),
            ]
        )


def combine(sums: np.ndarray, images: int) -> np.ndarray:
    """The scores in the order of METRICS, (..., 6), of measures summed over so many images, (..., 12)."""
    return np.concatenate([bleu(sums[..., :10]), sums[..., 10:] / images], axis=-1)
