"""BLEU, ROUGE-L and CIDEr-D as coco-caption computes them, without Java."""

from lib.scoring.scores import METRICS, corpus_scores, image_scores, measure, score

__all__ = ["METRICS", "corpus_scores", "image_scores", "measure", "score"]
