"""ROUGE-L (Lin 2004), as coco-caption computes it: the best precision and the best recall of the longest
common subsequence over the references, taken separately, joined by an F measure that favours recall."""

from collections.abc import Sequence

_BETA = 1.2


def rouge_l(references: Sequence[Sequence[str]], hypothesis: Sequence[str]) -> float:
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


def _longest_common_subsequence(a: Sequence[str], b: Sequence[str]) -> int:
    """Its length; one row of the classic table at a time."""
    row = [0] * (len(b) + 1)
    for x in a:
        diagonal = 0
        for j, y in enumerate(b, start=1):
            diagonal, row[j] = row[j], diagonal + 1 if x == y else max(row[j], row[j - 1])
    return row[-1]
