"""BLEU, ROUGE-L and CIDEr-D with coco-caption's names and units, without Java.

    from lib.scoring import score_captions

    score_captions({1: ["A dog runs.", "A brown dog."]}, {1: "a dog"})   # {"bleu_1": ..., ..., "cider_d": ...}

Every score is a function of sums over images. So each image is measured once, which gives a row of 12 numbers. From
these rows, compute the scores of all images, of each image, or of any sample of images.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from lib.scoring.bleu import bleu, bleu_statistics
from lib.scoring.cider import CiderD
from lib.scoring.ngrams import Matches, Tokens
from lib.scoring.rouge import rouge_l
from lib.text.tokenizer import tokenize

METRICS = ("bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider_d")


def score_captions(
    references: Mapping[Any, Sequence[str]],
    captions: Mapping[Any, str],
    tokenize: Callable[[str], Tokens] = tokenize,
) -> dict[str, float]:
    """Tokenise references and captions, and return the corpus scores. Each image has one caption. See `score`."""
    tokens = {image: [tokenize(text) for text in texts] for image, texts in references.items()}
    return score(tokens, {image: tokenize(text) for image, text in captions.items()})


def score(references: Mapping[Any, Sequence[Tokens]], hypotheses: Mapping[Any, Tokens]) -> dict[str, float]:
    """Return the corpus scores: BLEU and ROUGE-L from 0 to 1, CIDEr-D from 0 to 10.

    The keys of both arguments are image ids. The tokens are those of `lib.text.tokenizer`. Raises ValueError if there
    are no images, if the image ids differ, or if an image has no reference.
    """
    return corpus_scores(measure(references, hypotheses))


def corpus_scores(measures: np.ndarray) -> dict[str, float]:
    """Return the scores of all images together, from measures (I, 12)."""
    return dict(zip(METRICS, combine(measures.sum(axis=0), len(measures)).tolist(), strict=True))


def image_scores(measures: np.ndarray) -> dict[str, np.ndarray]:
    """Return the scores of each image, arrays (I,), from measures (I, 12). Their mean BLEU is not the corpus BLEU."""
    return dict(zip(METRICS, combine(measures, 1).T, strict=True))


def measure(references: Mapping[Any, Sequence[Tokens]], hypotheses: Mapping[Any, Tokens]) -> np.ndarray:
    """Return a row per image, (I, 12), in the order of `hypotheses`: BLEU's ten statistics, ROUGE-L and CIDEr-D."""
    if not hypotheses:
        raise ValueError("there are no captions to score")
    if differing := references.keys() ^ hypotheses.keys():
        example = min(differing, key=str)
        problem = f"{len(differing)} images have only references or only a caption, for example image {example}"
        raise ValueError(f"{problem}. Give both for each image.")
    return Scorer({image: references[image] for image in hypotheses}).measure(list(hypotheses.values()))


class Scorer:
    """Scores hypotheses against fixed references. The n-grams of the references are counted once."""

    def __init__(self, references: Mapping[Any, Sequence[Tokens]]) -> None:
        if missing := [image for image, captions in references.items() if not captions]:
            raise ValueError(f"{len(missing)} images have no reference caption, for example image {missing[0]}")
        self._references = list(references.values())
        self._cider = CiderD(self._references)

    def measure(self, hypotheses: Sequence[Tokens]) -> np.ndarray:
        """Return measures (I, 12) of one hypothesis per image, in the order of the references."""
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
    """Return the scores (..., 6), in the order of METRICS, from measures (..., 12) summed over `images` images."""
    return np.concatenate([bleu(sums[..., :10]), sums[..., 10:] / images], axis=-1)


def explain_low_cider_d(
    references: Mapping[Any, Sequence[Tokens]], hypotheses: Mapping[Any, Tokens], scores: Mapping[str, float]
) -> str | None:
    """Return a one-line explanation if CIDEr-D is far below BLEU-1 because the idf of most words is 0. Otherwise None.

    The idf of a word is 0 if the word occurs in the references of every image. This is so if there is only one image,
    or if all images are similar.
    """
    if scores["cider_d"] >= 0.1 * scores["bleu_1"]:
        return None
    words = {image: {word for tokens in captions for word in tokens} for image, captions in references.items()}
    everywhere = set.intersection(*words.values())
    matching = [word for image, tokens in hypotheses.items() for word in tokens if word in words[image]]
    share = sum(word in everywhere for word in matching) / max(1, len(matching))
    if share < 0.5:
        return None
    images = f"all {len(references)} images" if len(references) > 1 else "the only image"
    return (
        f"CIDEr-D is {scores['cider_d']:.3f}, but BLEU-1 is {scores['bleu_1']:.3f}: {share:.0%} of the matching words "
        f"occur in the references of {images}, so their CIDEr-D weight (idf) is 0. "
        "CIDEr-D needs many images with different references."
    )
