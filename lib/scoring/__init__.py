"""BLEU, ROUGE-L and CIDEr-D as coco-caption computes them, without Java."""

from lib.scoring.scores import METRICS, Scorer, corpus_scores, image_scores, measure, score

__all__ = ["METRICS", "Scorer", "corpus_scores", "image_scores", "measure", "score"]
