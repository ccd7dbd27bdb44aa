"""ROUGE-L (Lin 2004), as coco-caption computes it: the best precision and the best recall of the longest
common subsequence over the references, taken separately, joined by an F measure that favours recall."""

from collections.abc import Hashable, Sequence

from lib.scoring.ngrams import Tokens

_BETA = 1.2


def rouge_l(references: Sequence[Tokens], hypothesis: Tokens) -> float:
    """ROUGE-L of one caption, 0 to 1. An empty caption counts as one empty token, as in coco-caption."""
    hypothesis = hypothesis or [""]
    precision = recall = 0.0
    for reference in references:
        reference = reference or [""]
        common = _longest_common_subsequence(hypothesis, reference)
        precision = max(precision, common / len(hypothesis))
        recall = max(recall, common / len(reference))
    if precision == 0 or recall == 0:
        return 0.0
    return (1 + _BETA**2) * precision * recall / (recall + _BETA**2 * precision)


def _longest_common_subsequence(a: Tokens, b: Tokens) -> int:
    """Its length, a row of the classic table at a time, each row one integer (Hyyrö 2004).

    Along a row the table climbs by one or not at all: bit i is 0 where it climbs at a[i]. The next row climbs where
    this one does, or sooner, at the first match since the climb before: the carry of the addition finds it.
    """
    where: dict[Hashable, int] = {}
    for i, token in enumerate(a):
        where[token] = where.get(token, 0) | 1 << i
    row = full = (1 << len(a)) - 1
    for token in b:
        matches = row & where.get(token, 0)
        row = (row + matches | row - matches) & full
    return len(a) - row.bit_count()
