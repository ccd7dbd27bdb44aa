"""ROUGE-L (Lin 2004), as coco-caption computes it: from the longest common subsequence with each reference.

The score is the F measure of the best precision and the best recall, which may come from different references. With
beta 1.2, it favours recall.
"""

from collections.abc import Hashable, Sequence

from lib.scoring.ngrams import Tokens

_BETA = 1.2


def rouge_l(references: Sequence[Tokens], hypothesis: Tokens) -> float:
    """Return ROUGE-L of one hypothesis, 0 to 1. As in coco-caption, an empty caption counts as one empty token."""
    hypothesis, references = hypothesis or [""], [reference or [""] for reference in references]
    common = [_lcs_length(hypothesis, reference) for reference in references]
    precision = max(common) / len(hypothesis)
    recall = max(length / len(reference) for length, reference in zip(common, references, strict=True))
    if precision == 0:
        return 0.0
    return (1 + _BETA**2) * precision * recall / (recall + _BETA**2 * precision)


def _lcs_length(a: Tokens, b: Tokens) -> int:
    """Return the length of the longest common subsequence (Hyyrö 2004).

    `row` is a row of the usual dynamic-programming table, as an integer: bit i is 0 if the length increases by one at
    a[i], and 1 otherwise. The carry of the addition moves each increase to the first match after the previous increase.
    """
    positions: dict[Hashable, int] = {}
    for i, token in enumerate(a):
        positions[token] = positions.get(token, 0) | 1 << i
    row = full = (1 << len(a)) - 1
    for token in b:
        matches = row & positions.get(token, 0)
        row = (row + matches | row - matches) & full
    return len(a) - row.bit_count()
