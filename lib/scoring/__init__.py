"""BLEU, ROUGE-L and CIDEr-D as coco-caption computes them, without Java."""

from lib.scoring.scores import METRICS, score, score_each

__all__ = ["METRICS", "score", "score_each"]
