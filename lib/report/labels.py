"""Display names of scores and statistics."""

_LABELS = {
    "bleu_1": "BLEU-1", "bleu_2": "BLEU-2", "bleu_3": "BLEU-3", "bleu_4": "BLEU-4",
    "rouge_l": "ROUGE-L", "cider_d": "CIDEr-D", "distinct_1": "Distinct-1", "distinct_2": "Distinct-2",
}  # fmt: skip


def label(name: str) -> str:
    """Return the usual spelling of a metric's name, or its words: `mean_length` becomes "Mean length"."""
    return _LABELS.get(name, name.replace("_", " ").capitalize())
