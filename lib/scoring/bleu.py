"""Corpus BLEU (Papineni et al. 2002), as coco-caption computes it.

Matches and lengths are summed over the corpus before the division, so corpus BLEU is not the mean of sentence BLEU.
NLTK's corpus_bleu differs if a caption has fewer than four tokens.
"""

import numpy as np

from lib.scoring.ngrams import ORDERS, Matches, NgramCounts

_TINY, _SMALL = 1e-15, 1e-9  # the constants with which coco-caption avoids a division by zero


def bleu_statistics(matches: Matches, references: NgramCounts) -> np.ndarray:
    """Return the BLEU statistics (H, 10) of H hypotheses, each compared with the references of one image.

    The columns are the matches by order (4), the n-grams by order (4), the length of the hypothesis, and the closest
    reference length (the shorter of two equally close). The matches of an n-gram are its occurrences in the hypothesis,
    at most as many as in the reference where the n-gram is most frequent.
    """
    counts, lengths = matches.hypotheses, matches.hypotheses.lengths
    largest = np.zeros_like(counts.counts)
    np.maximum.at(largest, matches.hypothesis_entry, references.counts[matches.reference_entry])
    ngrams = np.maximum(0, lengths[:, None] + 1 - np.array(ORDERS))
    reference_lengths = references.lengths[matches.reference]
    difference = np.abs(reference_lengths - lengths[matches.hypothesis])
    order = np.lexsort((reference_lengths, difference, matches.hypothesis))
    closest = reference_lengths[order[np.searchsorted(matches.hypothesis, np.arange(len(lengths)))]]
    return np.column_stack([counts.sum_by_order(np.minimum(counts.counts, largest)), ngrams, lengths, closest])


def bleu(statistics: np.ndarray) -> np.ndarray:
    """Return BLEU-1 to BLEU-4, (..., 4), from summed statistics (..., 10)."""
    matches, ngrams = statistics[..., :4], statistics[..., 4:8]
    length, reference_length = statistics[..., 8:9], statistics[..., 9:10]
    precision = (matches + _TINY) / (ngrams + _SMALL)
    ratio = (length + _TINY) / (reference_length + _SMALL)
    brevity = np.where(ratio < 1, np.exp(1 - 1 / np.minimum(ratio, 1)), 1.0)
    return np.cumprod(precision, axis=-1) ** (1 / np.array(ORDERS)) * brevity
